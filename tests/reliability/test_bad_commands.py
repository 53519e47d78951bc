"""Arguments of every command that cannot be used, and texts, which are all answered."""

import json
from pathlib import Path

import pytest
from children import one_line, run_command
from long_use import TINY
from refusals import DEMO, GOOD, CommandLine

COMMANDS: list[tuple[str, str]] = [
    ("train nowhere.yaml", "recipe nowhere.yaml is not a file: give the path of a YAML file, such as"),
    ("train .", "recipe . is not a file: give the path of a YAML file, such as"),
    ("train DEMO --overwrite --resume", "--overwrite and --resume contradict each other: give one of them"),
    ("train DEMO output_dir=RUN", "output_dir=RUN holds a finished run: use --overwrite, or choose another"),
    ("predict nowhere text", "nowhere is no run directory (a finished run holds results.json)"),
    ("predict DEMO text", "DEMO is no run directory (a finished run holds results.json)"),
    ("predict RUN none.csv", "none.csv: no such file (did you mean 'rows.csv'?): check the path"),
    ("predict RUN texts.csv", "texts.csv: no text column found among ['sound']: set data.text_column"),
    ("predict RUN texts.jsonl", "texts.jsonl, line 2: the text is a list, not a string: check data.text_column"),
    ("predict RUN text --output OUT", "--output OUT: the name must end in .jsonl or .csv"),
    (
        "predict RUN text --output nowhere/out.csv",
        "--output nowhere/out.csv: there is no folder nowhere: make it, or choose",
    ),
    (
        "predict RUN text --output texts.csv/out.csv",
        "--output texts.csv/out.csv: there is no folder texts.csv: make it, or choose",
    ),
    ("export RUN --format tflite --output OUT", "format='tflite' is unknown: use onnx or torch-export"),
    ("export RUN --output .", ". is there already: choose another folder"),
    ("evaluate RUN seed=3", "override 'seed' (did you mean 'data.seed'?): only data.* can be changed on a"),
    (
        "evaluate RUN data.train_fil=a.csv",
        "override 'data.train_fil' (did you mean 'data.train_file'?): only data.* can",
    ),
    (
        "evaluate RUN data.max_eval_samples=many",
        "data.max_eval_samples=many must be a whole number from 1, or leave it out",
    ),
    ("evaluate RUN data.test_file=texts.csv", "texts.csv: no text column found among ['sound']: set data.text_column"),
    ("evaluate RUN --split half", "no split 'half': use one of ['train', 'validation', 'test']"),
    (
        "evaluate RUN --output nowhere/metrics.json",
        "--output nowhere/metrics.json: there is no folder nowhere: make it, or choose",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --heads none",
        "--heads: 'none' is unknown: use linear, mlp-relu, mlp-gelu, cr, cr+dreg",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --heads cr,,mlp",
        "--heads: '' is unknown: use linear, mlp-relu, mlp-gelu, cr, cr+dreg, cr+dreg-layer",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions half",
        "--fractions 'half': use numbers with commas between, such as 0.05,1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions 2",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions nan",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --fractions 0.0001",
        "--fractions 0.0001: 0 of 1500 rows are too few for 5 classes",
    ),
    (
        "study DEMO backbone=BACKBONE --output OUT --seeds 1",
        "a study needs two or more --seeds, and --fractions above 0 and at most 1",
    ),
    ("study DEMO backbone=BACKBONE --output OUT --search-seeds 1", "--search-seeds 1: two or more are needed"),
    ("study DEMO backbone=BACKBONE --output texts.csv", "--output texts.csv is a file: choose another folder"),
    (
        "study DEMO backbone=BACKBONE --output OUT data.name=null data.train_file=rows.csv",
        "a study needs a test split: give data.test_file",
    ),
    (
        "publish nowhere me/model --dry-run --folder OUT",
        "nowhere has no results.json: only a finished run can be published",
    ),
    (
        "publish RUN me/model --dry-run --folder .",
        ". is not an empty folder: choose another one, so that nothing else is",
    ),
    (
        "publish RUN me/model --dry-run --folder texts.csv",
        "texts.csv is not an empty folder: choose another one, so that nothing else is",
    ),
    (
        "publish RUN me/model --dry-run --folder OUT --head-only",
        "RUN: a head-only checkpoint needs a frozen backbone that others can get too",
    ),
    ("publish RUN a/b/c --dry-run --folder OUT", "'a/b/c' is no repository name"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_commands(words: str, message: str, command: CommandLine, scratch: Path) -> None:
    (scratch / "texts.csv").write_text("sound\na film\n", encoding="utf-8")
    (scratch / "texts.jsonl").write_text('{"text": "a film"}\n{"text": ["a", "b"]}\n', encoding="utf-8")
    (scratch / "rows.csv").write_bytes(GOOD)
    command.refuses(message, *words.split())


# ---- texts: they are all answered, one row each ----

TEXTS: dict[str, str] = {
    "empty": "",
    "spaces": "   \t  ",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 🎬👍🏽",
    "right to left": "\u202b\u05e1\u05e8\u05d8 \u05e0\u05d4\u05d3\u05e8 \u0641\u064a\u0644\u0645\u202c",
    "control characters": "a\x01\x02\x1b[31m film\x7f\x9f\ufeff\u2028\u0000",
    "combining marks": "z" + "\u0301\u0335" * 500,
    "a hundred thousand words": "film " * 100_000,
    "one long word": "a" * 100_000,
    "special tokens": "[CLS] [SEP] [PAD] [MASK] <s> </s>",
    "a noncharacter": "a \uffff\U0010ffff film",
    "markup": "<script>alert(1)</script> {{ 7 * 7 }} ${HOME} %s",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_answered(name: str, command: CommandLine, scratch: Path) -> None:
    (scratch / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("a film", TEXTS[name])), encoding="utf-8"
    )
    code, _, errors = command("predict", "RUN", "texts.jsonl", "--output", "out.jsonl")
    assert code == 0, errors
    rows = [json.loads(line) for line in (scratch / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["text"] for row in rows] == ["a film", TEXTS[name]]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    code, output, errors = command("predict", "RUN", TEXTS[name].replace("\0", ""))
    assert code == 0, errors
    assert output.count("\t") >= 2


@pytest.mark.parametrize("name", ["spaces", "emoji", "right to left", "control characters", "one long word"])
def test_texts_are_trained_on(name: str, command: CommandLine, scratch: Path) -> None:
    rows = [{"text": f"{TEXTS[name]} {number}", "label": number % 2} for number in range(20)]
    (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, _, errors = command(
        "train", DEMO, "backbone=BACKBONE", "output_dir=OUT", *TINY, "data.train_file=rows.jsonl"
    )
    assert code == 0, errors


@pytest.mark.parametrize(
    ("content", "message"), [(b"a film\n\xff\xfe\n", "standard input"), (b"a\0b\n", "standard input, line 1: a NUL")]
)
def test_standard_input_that_is_no_text(content: bytes, message: str, finished: Path, tmp_path: Path) -> None:
    ended = run_command(["predict", str(finished)], tmp_path, standard_input=content)
    assert ended.code == 2
    assert message in one_line(ended)
    assert ended.output == ""
