"""What a run was trained to read, every later command reads the same way; predictions keep the rows they answer."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cr_hf.cli
from cr_hf.console import print_metrics, visible
from cr_hf.errors import DataError
from cr_hf.evaluation import Task
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run, predict_run

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["num_train_epochs=1", "hidden_sizes=[4]", "use_cpu=true", "disable_tqdm=true", "data.name=null"]
GOOD, BAD = "good fine superb", "bad awful dull"

TinyBackbone = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A function from a training file and `data.` overrides to a finished run; the same call gives the same run."""
    runs: dict[Any, Path] = {}

    def trained(content: bytes, *overrides: str) -> Path:
        if (content, overrides) not in runs:
            folder = tmp_path_factory.mktemp("use")
            (folder / "train.csv").write_bytes(content)
            fixed = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder / 'run'}"]
            fixed.append(f"data.train_file={folder / 'train.csv'}")
            runs[content, overrides] = train_recipe(load_recipe(RECIPE, [*fixed, *TINY, *overrides]))
        return runs[content, overrides]

    return trained


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Runs `cr-hf` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cr-hf", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "ascii"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


def rows(header: str, row: Callable[[int, str], str], encoding: str = "utf-8") -> bytes:
    lines = [header, *(row(index, (GOOD, BAD)[index % 2]) for index in range(30))]
    return ("\n".join(lines) + "\n").encode(encoding)


PLAIN = rows("text,label", lambda index, words: f"{words} {index},{index % 2}")
PAIRS = rows("text,second,label", lambda index, words: f"the film,{words} {index},{index % 2}")


def logits_of(run: Run, texts: list[str], pairs: list[str] | None = None) -> list[list[float]]:
    return run.task.scores(run.model.predict_texts(texts, run.tokenizer, pairs))


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


READING: dict[str, tuple[bytes, list[str], bytes, list[str]]] = {
    "another column": (
        rows("text,summary,label", lambda index, words: f"noise {index % 3},{words} {index},{index % 2}"),
        ["data.text_column=summary"],
        b"text,summary\nnoise 0,good fine superb 1\nnoise 1,bad awful dull 2\n",
        ["good fine superb 1", "bad awful dull 2"],
    ),
    "an unusual column": (
        rows("Utterance,label", lambda index, words: f"{words} {index},{index % 2}"),
        ["data.text_column=Utterance"],
        b"id,Utterance\n7,good fine superb 1\n8,bad awful dull 2\n",
        ["good fine superb 1", "bad awful dull 2"],
    ),
    "a column that was found": (
        rows("Review,label", lambda index, words: f"{words} {index},{index % 2}"),
        [],
        b"text,review\nnoise 0,good fine superb 1\nnoise 1,bad awful dull 2\n",
        ["good fine superb 1", "bad awful dull 2"],
    ),
    "encoding": (
        rows("text,label", lambda index, words: f"sch\u00f6n {words} {index},{index % 2}", "latin-1"),
        ["data.encoding=latin-1"],
        "text\nsch\u00f6n good\ndull\n".encode("latin-1"),
        ["sch\u00f6n good", "dull"],
    ),
    "escapes": (
        rows("text,label", lambda index, words: f"-LRB- {words} {index} -RRB-,{index % 2}"),
        ["data.unescape_ptb=true"],
        b"text\n-LRB- good -RRB-\ndull\n",
        ["( good )", "dull"],
    ),
    "separator": (
        rows("text|label", lambda index, words: f"{words} {index}|{index % 2}"),
        ["data.separator='|'"],
        b"text|more\ngood, fine|x\ndull|y\n",
        ["good, fine", "dull"],
    ),
}


@pytest.mark.parametrize("name", READING)
def test_predict_and_diagnose_read_as_training_did(name: str, train: Train, command: Command, tmp_path: Path) -> None:
    content, overrides, new, texts = READING[name]
    run_dir = train(content, *overrides)
    (tmp_path / "new.csv").write_bytes(new)
    assert command("predict", run_dir, "new.csv", "--output", "out.jsonl")[0] == 0
    expected = logits_of(Run(run_dir), texts)
    found = [list(row["probabilities"].values()) for row in written(tmp_path / "out.jsonl")]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    code, _, errors = command("diagnose", run_dir, "new.csv", "--output", "found.json")
    assert code == 0, errors
    again = command("diagnose", run_dir, *texts, "--output", "texts.json")
    assert again[0] == 0, again[2]
    found = [json.loads((tmp_path / file).read_text(encoding="utf-8")) for file in ("found.json", "texts.json")]
    assert found[0]["new_texts"] == found[1]["new_texts"]


def test_overrides_say_how_other_files_are_read(train: Train, command: Command, tmp_path: Path) -> None:
    run_dir = train(PLAIN)
    (tmp_path / "new.csv").write_text("Words;n\ngood, fine;1\ndull;2\n", encoding="utf-8")
    code, _, errors = command("predict", run_dir, "new.csv")
    assert code == 2
    assert "data.text_column" in errors
    (tmp_path / "out.jsonl").unlink(missing_ok=True)
    how = ["data.text_column=Words", "data.separator=;"]
    assert command("predict", run_dir, "new.csv", *how, "--output", "out.jsonl")[0] == 0
    assert [row["Words"] for row in written(tmp_path / "out.jsonl")] == ["good, fine", "dull"]
    assert command("diagnose", run_dir, "new.csv", *how)[0] == 0
    assert command("predict", run_dir, "new.csv", "data.text_colum=Words")[0] == 2


class TestPairs:
    @pytest.fixture
    def run_dir(self, train: Train, tmp_path: Path) -> Path:
        (tmp_path / "new.csv").write_text("text,second\nthe film,good\nthe film,dull\n", encoding="utf-8")
        return train(PAIRS, "data.text_pair_column=second")

    def test_every_command_reads_the_second_text(self, run_dir: Path, command: Command, tmp_path: Path) -> None:
        run = Run(run_dir)
        expected = logits_of(run, ["the film"] * 2, ["good", "dull"])
        assert [found.scores for found in predict_run(run, [str(tmp_path / "new.csv")])] == expected
        certified = list(predict_run(run, [str(tmp_path / "new.csv")], radius=True))
        assert [found.scores for found in certified] == [pytest.approx(scores, rel=1e-5) for scores in expected]
        assert expected[0] != expected[1]
        code, _, errors = command("diagnose", run_dir, "new.csv", "--output", "d.json", "--html", "tokens.html")
        assert code == 0, errors
        assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))["new_texts"]["rows"] == 2
        page = (tmp_path / "tokens.html").read_text(encoding="utf-8")
        assert ">good</span>" in page
        assert ">dull</span>" in page

    def test_the_probe_has_pairs(self, run_dir: Path) -> None:
        probe = json.loads((run_dir / "probe.json").read_text(encoding="utf-8"))
        run = Run(run_dir)
        logits = run.model.predict_texts(probe["texts"], run.tokenizer, probe["text_pairs"])
        torch.testing.assert_close(logits, torch.tensor(probe["logits"]), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("source", [["a film"], ["single.csv"], ["lines.txt"], []])
    def test_a_missing_second_text_is_an_error(
        self, source: list[str], run_dir: Path, command: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "single.csv").write_text("text\nthe film\n", encoding="utf-8")
        (tmp_path / "lines.txt").write_text("the film\n", encoding="utf-8")
        code, output, errors = command("predict", run_dir, *source, stdin=b"the film\n")
        assert (code, output) == (2, "")
        assert "second" in errors.splitlines()[-1]


def test_predictions_keep_the_columns_and_the_order_of_their_rows(
    train: Train, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = train(PLAIN)
    (tmp_path / "new.csv").write_text("id,label,text,0\n7,x,good,a\n3,y,,b\n5,z,dull,c\n", encoding="utf-8")
    code, output, errors = command("predict", run_dir, "new.csv", "--output", "out.csv")
    assert code == 0, errors
    assert "3 rows written to out.csv" in output
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert list(table[0]) == ["id", "label", "text", "0", "predicted_label", "predicted_0", "1"]
    assert [(row["id"], row["label"], row["0"]) for row in table] == [
        ("7", "x", "a"),
        ("3", "y", "b"),
        ("5", "z", "c"),
    ]
    assert {row["predicted_label"] for row in table} <= {"0", "1"}
    assert "empty text" in caplog.text


@pytest.mark.parametrize(
    ("name", "separator", "how"),
    [
        ("new.csv", ";", []),
        ("new.csv", "\t", []),
        ("new.tsv", "\t", []),
        ("new.csv", "^", ["data.separator=^"]),
        ("new.csv", ",", []),
    ],
)
def test_predictions_have_the_separator_of_their_rows(
    name: str, separator: str, how: list[str], train: Train, command: Command, tmp_path: Path
) -> None:
    run_dir, rows = train(PLAIN), [["id", "text"], ["7", f"good{separator} fine"], ["3", "dull"]]
    rows = [[cell.replace("\t", " ") for cell in row] for row in rows]
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=separator).writerows(rows)
    code, output, errors = command("predict", run_dir, name, *how, "--output", "out.csv")
    assert code == 0, errors
    assert (f"{separator!r} between its columns" in output) == (separator != ",")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as handle:
        assert [row[:2] for row in csv.reader(handle, delimiter=separator)] == rows
    assert command("predict", run_dir, "out.csv", *how)[0] == 0


@pytest.mark.parametrize("name", ["new.csv", "./new.csv", "link.csv"])
def test_the_input_is_never_the_output(name: str, train: Train, command: Command, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("text\ngood\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to("new.csv")
    for more in ([], ["--overwrite"]):
        code, _, errors = command("predict", train(PLAIN), "new.csv", "--output", name, *more)
        assert code == 2
        assert "is the input itself" in errors
    assert (tmp_path / "new.csv").read_text(encoding="utf-8") == "text\ngood\n"


def test_numbers_for_named_classes_are_said(
    train: Train, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named, numbered = (train(content) for content in (PLAIN.replace(b",0", b",neg").replace(b",1", b",pos"), PLAIN))
    (tmp_path / "new.csv").write_text("text,label\ngood,1\ndull,0\n", encoding="utf-8")
    said = "count the classes from 0: 0 is 'neg'"
    for run_dir, how, is_said in ((named, [], True), (named, ["data.label_start=0"], False), (numbered, [], False)):
        caplog.clear()
        code, _, errors = command("evaluate", run_dir, "data.test_file=new.csv", *how)
        assert code == 0, errors
        assert (said in caplog.text) == is_said


@pytest.mark.parametrize("words", [["predict"], ["evaluate"], ["diagnose"]])
def test_an_output_that_is_there_is_replaced_only_when_asked(
    words: list[str], train: Train, command: Command, tmp_path: Path
) -> None:
    run_dir, output = train(PLAIN), tmp_path / "out.jsonl"
    output.write_text("mine", encoding="utf-8")
    more = {"predict": ["good"], "evaluate": ["--split", "validation"], "diagnose": []}[words[0]]
    code, _, errors = command(*words, run_dir, *more, "--output", output)
    assert code == 2
    assert "--overwrite" in errors
    assert output.read_text(encoding="utf-8") == "mine"
    assert command(*words, run_dir, *more, "--output", output, "--overwrite")[0] == 0
    assert output.read_text(encoding="utf-8") != "mine"


def test_two_files_are_both_read_and_what_is_no_text_is_refused(
    train: Train, command: Command, tmp_path: Path
) -> None:
    run_dir = train(PLAIN)
    (tmp_path / "a.csv").write_text("text\ngood\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "bad"}\n', encoding="utf-8")
    (tmp_path / "folder").mkdir()
    code, output, _ = command("predict", run_dir, "a.csv", "b.jsonl")
    assert code == 0
    assert [line.split("\t")[2] for line in output.splitlines()] == ["good", "bad"]
    for source in (
        ["a.csv", "a text"],
        ["folder"],
        ["https://example.org/x.csv"],
        ["none.csv"],
        ["a.csv", "none.csv"],
    ):
        code, output, errors = command("predict", run_dir, *source)
        assert (code, output) == (2, ""), source
        assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_standard_input_is_utf_8_whatever_the_locale(arguments: list[str], train: Train, command: Command) -> None:
    code, output, _ = command("predict", train(PLAIN), *arguments, stdin="sch\u00f6n\ndull\n".encode())
    assert code == 0
    assert [line.split("\t")[2] for line in output.splitlines()] == ["sch\u00f6n", "dull"]


def test_rows_stay_rows_whatever_their_text_holds(train: Train, command: Command, tmp_path: Path) -> None:
    texts = ['two\nlines, "quoted"\r and \u2028', '=HYPERLINK("x")', "tab\there", "-1", "\x1b[31mred"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    run_dir = train(PLAIN)
    _, output, _ = command("predict", run_dir, "in.jsonl")
    assert len(output.splitlines()) == len(texts)
    assert "\x1b" not in output
    assert command("predict", run_dir, "in.jsonl", "--output", "out.jsonl")[0] == 0
    assert [row["text"] for row in written(tmp_path / "out.jsonl")] == texts
    for more, expected in (([], texts), (["--csv-safe"], [texts[0], f"'{texts[1]}", texts[2], "'-1", texts[4]])):
        assert command("predict", run_dir, "in.jsonl", "--output", "out.csv", "--overwrite", *more)[0] == 0
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as handle:
            assert [row["text"] for row in csv.DictReader(handle)] == expected


def test_half_a_surrogate_pair_is_one_line(train: Train, command: Command) -> None:
    code, _, errors = command("predict", train(PLAIN), "a \udc80 film")
    assert code == 2
    assert "surrogate" in errors.splitlines()[-1]
    assert visible("a\x1b[31m\u2028\udc80 é👩‍👩") == "a\\x1b[31m\\u2028\\udc80 é👩‍👩"


def test_a_run_says_what_it_understood_and_keeps_it(train: Train) -> None:
    run = Run(train(PLAIN))
    assert run.kind == run.recipe.kind == "texts"
    assert run.results["data"]["understood"]["text_columns"] == ["text"]
    assert (run.data().text_column, run.data().label_column) == ("text", "label")
    assert sum(run.results["data"]["understood"]["rows"].values()) == 30


def test_numbers_have_no_certified_radius() -> None:
    run: Any = SimpleNamespace(path="runs/r", task=Task("regression"), kind="texts")
    with pytest.raises(DataError, match="--radius"):
        next(predict_run(run, ["a film"], radius=True))


def test_an_interval_is_explained_where_there_is_one(capsys: pytest.CaptureFixture) -> None:
    print_metrics({"test": {"rows": 9, "mean_squared_error": 0.5}})
    assert "interval" not in capsys.readouterr().out
    print_metrics({"test": {"rows": 9, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}})
    assert "0.5000 [0.4000, 0.6000]\n95 % interval" in capsys.readouterr().out


def test_texts_that_are_cut_are_said_by_every_command(train: Train, command: Command, tmp_path: Path) -> None:
    long = rows("text,label", lambda index, words: f"{f'{words} ' * (1 + 9 * (index % 3 == 0))}{index},{index % 2}")
    run_dir = train(long, "max_seq_length=12")
    (note,) = (note for note in Run(run_dir).results["data"]["understood"]["notes"] if "max_seq_length" in note)
    assert note.startswith("train: ")
    assert " texts are longer than the 12 tokens that are read: " in note
    assert "are longer than the 12 tokens that are read" in (run_dir / "README.md").read_text(encoding="utf-8")
    (tmp_path / "new.csv").write_bytes(long)
    asked = (("predict", run_dir, "new.csv"), ("evaluate", run_dir, "data.test_file=new.csv"))
    for arguments in asked:
        assert "10 of 30 texts are longer than the 12 tokens that are read: " in command(*arguments)[2]
    assert "longer" not in command("predict", run_dir, GOOD)[2]
