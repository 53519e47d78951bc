"""The command line, as a user types it."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from children import run_command

import cr_hf.cli
from cr_hf.runs import Run
from cr_hf.runs.recipe import MODEL_KEYS, TRAINING_KEYS, load_recipe, recipe_keys
from cr_hf.runs.train import train_recipe

COMMAND = Path(sys.executable).with_name("cr-hf")
DEMO = Path(__file__).resolve().parents[1] / "recipes" / "demo.yaml"
TINY = [
    "data.max_train_samples=60",
    "data.max_eval_samples=30",
    "num_train_epochs=1",
    "hidden_sizes=[8]",
    "use_cpu=true",
]
LEVELS = 5

TinyBackbone = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return train_recipe(load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["cr-hf", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    return int(stopped.value.code or 0)


def test_help_imports_neither_torch_nor_transformers() -> None:
    script = "import sys; sys.argv = ['cr-hf', '--help']\n"
    script += "try:\n import cr_hf.cli; cr_hf.cli.main()\nexcept SystemExit: pass\n"
    script += "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "train" in done.stdout


def test_version_and_short_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"cr-hf {cr_hf.__version__}\n"
    assert run(monkeypatch, "train", "-h") == 0
    assert "`cr-hf keys` lists them" in " ".join(capsys.readouterr().out.split())


def test_keys_are_listed_with_defaults_and_meanings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    *ours, others = recipe_keys().values()
    assert all(meaning for group in ours for _, meaning in group.values())
    assert MODEL_KEYS - {"problem_type"} | TRAINING_KEYS <= {name for group in (*ours, others) for name in group}
    assert run(monkeypatch, "keys") == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for group in ours for name in group)
    assert "weight_decay" in printed
    assert run(monkeypatch, "keys", "learning_rate") == 0
    printed = capsys.readouterr().out
    assert "learning_rate=5e-05\n      The initial" in printed
    assert "head_learning_rate=null" in printed
    assert "dreg" not in printed


MISTAKES = {
    "no recipe": (["train", "none.yaml"], "none.yaml is not a file"),
    "a misspelt key": (["train", DEMO, "learning_rat=1"], "'learning_rat' (did you mean 'learning_rate'?)"),
    "a misspelt key of the data": (["train", DEMO, "data.tran_file=x"], "'data.tran_file'"),
    "a value of another type": (["train", DEMO, "learning_rate=fast"], "learning_rate='fast'"),
    "a missing file": (
        ["train", DEMO, "data.train_file=rows.cvs"],
        "no such file (did you mean 'rows.csv'?)",
    ),
    "a missing folder": (["study", DEMO, "data.dir=none"], "none: no such folder"),
    "an unknown column": (["train", DEMO, "data.train_file=rows.csv", "data.text_column=bod"], "no column 'bod'"),
    "an unknown label": (["study", DEMO, "data.train_file=rows.jsonl", "data.label_column=ye"], "no column 'ye'"),
    "of a table": (
        ["train", "table.yaml", "data.train_file=rows.csv", "data.feature_columns=[y]"],
        "rows.csv: no column 'y'",
    ),
    **{f"{command}, no run": ([command, "none", "a text"], "none is no run") for command in ("predict", "diagnose")},
    **{f"{command}, no such file": ([command, "run", "a.cvs"], "a.cvs") for command in ("predict", "diagnose")},
    "predict, a missing file": (["predict", "run", "row.csv"], "no such file (did you mean 'rows.csv'?)"),
    "predict, a file and a text": (["predict", "run", "rows.csv", "good"], "'good' is a text"),
    "predict, a missing column": (["predict", "run", "rows.jsonl"], "no column 'body'"),
    "predict, a column": (["predict", "run", "rows.csv", "data.text_column=bodi"], "no column 'bodi'"),
    "predict, a key of the data": (["predict", "run", "rows.csv", "data.txt_column=x"], "'data.txt_column'"),
    "diagnose, a key of the data": (["diagnose", "run", "rows.csv", "data.txt_column=x"], "'data.txt_column'"),
    "predict, a missing table": (["predict", "numbers", "none.npz"], "none.npz: no such file"),
    "predict, two tables": (["predict", "numbers", "rows.csv", "rows.csv"], "give one file"),
    "predict, a table without a column": (["predict", "numbers", "rows.csv"], "no column 'height'"),
    "evaluate, no run": (["evaluate", "none"], "none is no run"),
    "evaluate, a missing file": (["evaluate", "run", "data.test_file=row.csv"], "no such file"),
    "evaluate, a key of the data": (["evaluate", "run", "data.tst_file=rows.csv"], "'data.test_file'"),
    "evaluate, another key": (["evaluate", "run", "learning_rate=1"], "only data.* can be changed"),
    "evaluate, a split": (["evaluate", "run", "--split", "tset"], "did you mean 'test'?"),
    "evaluate, a perturbation": (["evaluate", "run", "--perturb", "typo"], "did you mean 'typos'?"),
    "publish, a name": (["publish", "run", "me/a b"], "is no repository name"),
    "publish, a Space": (["publish", "run", "me/a", "--space", "me"], "has no namespace"),
    "a revision of files": (
        ["train", DEMO, "data.name=null", "data.train_file=rows.csv", "data.revision=v1"],
        "data.revision",
    ),
    "evaluate, a column": (["evaluate", "run", "data.label_column=y"], "no column 'y'"),
}


def test_mistakes_in_recipes_and_files_are_answered_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    results = {"data": {"understood": {"reading": {"text_column": "body"}}}}
    for name, keys in (("run", {"backbone": "static"}), ("numbers", {"backbone": "none"})):
        (tmp_path / name).mkdir()
        recipe = {**keys, "data": {"train_file": "rows.csv"}, "output_dir": name}
        (tmp_path / name / "recipe.yaml").write_text(json.dumps(recipe))
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    schema = {"columns": ["height"], "label_column": "label", "width": 2}
    (tmp_path / "numbers" / "table.json").write_text(json.dumps(schema))
    (tmp_path / "rows.csv").write_text("body,label\na b,1\n")
    (tmp_path / "table.yaml").write_text("backbone: none\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a b", "label": "1"}\n')
    script = "import sys, cr_hf.cli\n"
    for arguments, _ in MISTAKES.values():
        script += f"sys.argv = {['cr-hf', *map(str, arguments)]}\n"
        script += "try:\n cr_hf.cli.main()\nexcept SystemExit as stopped: print(stopped.code)\n"
    script += "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [*["2"] * len(MISTAKES), "[]"], done.stderr
    for line, (name, (_, message)) in zip(done.stderr.splitlines(), MISTAKES.items(), strict=True):
        assert message in line, name


def test_installed_command_trains_and_predicts(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [DEMO, f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]
    done = subprocess.run([COMMAND, "train", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "synthetic" in done.stdout
    ended = run_command(["predict", str(folder), "a film"], tmp_path)
    assert ended.code == 0, ended.errors
    _, score, text = ended.output.strip().split("\t")
    assert text == "a film"
    assert 0 <= float(score) <= 1
    ended = run_command(["predict", str(folder)], tmp_path, standard_input=b"one\ntwo\n")
    assert [line.split("\t")[2] for line in ended.output.splitlines()] == ["one", "two"]


def test_evaluate(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "metrics.json"
    assert run(monkeypatch, "evaluate", finished, "--split", "test", "--output", output) == 0
    metrics = json.loads(output.read_text(encoding="utf-8"))
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] == results["metrics"]["test"]["accuracy"]
    assert f"{metrics['accuracy']:.4f}" in capsys.readouterr().out
    assert run(monkeypatch, "evaluate", finished, "--split", "dev", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == results["metrics"]["validation"]["accuracy"]


def test_predictions_as_json_from_standard_input(finished: Path, tmp_path: Path) -> None:
    ended = run_command(["predict", str(finished), "-", "--json"], tmp_path, standard_input=b"a film\nawful\n")
    rows = [json.loads(line) for line in ended.output.splitlines()]
    assert [row["text"] for row in rows] == ["a film", "awful"]
    assert all(max(row["probabilities"], key=row["probabilities"].get) == row["label"] for row in rows)


def test_what_a_notebook_shows_is_short(finished: Path) -> None:
    found = Run(finished)
    assert repr(found) == f"Run({str(finished)!r})"
    assert f"{found.results['metrics']['test']['accuracy']:.4f}" in found._repr_html_()
    assert repr(found.model).startswith("CRForSequenceClassification(bert, ")
    assert "\n" not in repr(found.model)


def test_evaluate_on_damaged_texts(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "metrics.json"
    command = ["evaluate", finished, "--perturb", "typos,drop,case", "--seed", 3, "--output", output]
    assert run(monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    metrics = json.loads(output.read_text(encoding="utf-8"))
    found = metrics["robustness"]
    assert f"({metrics['rows']} rows, seed 3)" in printed
    assert (found["seed"], found["clean_accuracy"]) == (3, metrics["accuracy"])
    assert set(found["kinds"]) == {"typos", "drop", "case"}
    assert found["kinds"]["case"]["accuracies"] == [metrics["accuracy"]] * 5, "the tiny tokenizer has no case"
    assert found["kinds"]["typos"]["accuracies"] != [metrics["accuracy"]] * 5
    for kind in found["kinds"].values():
        assert all(f"{100 * accuracy:.1f}" in printed for accuracy in kind["accuracies"])
    assert run(monkeypatch, *command[:-1], tmp_path / "again.json") == 0
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == metrics


def test_evaluate_on_other_data(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = json.loads((finished / "results.json").read_text(encoding="utf-8"))["data"]["labels"]
    path = tmp_path / "other.csv"
    path.write_text("text,label\n" + "\n".join(f"a film {i},{name}" for i, name in enumerate(names)), encoding="utf-8")
    output = tmp_path / "metrics.json"
    assert run(monkeypatch, "evaluate", finished, f"data.test_file={path}", "--output", output) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["rows"] == LEVELS


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_predict_files(suffix: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a gorgeous, witty film", "awful", 'so "boring"', ""]
    source = tmp_path / f"texts{suffix}"
    with source.open("w", encoding="utf-8", newline="") as handle:
        if suffix == ".csv":
            csv.writer(handle).writerows([["text"], *[[text] for text in texts]])
        elif suffix == ".jsonl":
            handle.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        else:
            handle.writelines(text + "\n" for text in texts)
    texts = texts if suffix != ".csv" else texts[:3]
    output = tmp_path / "out.jsonl"
    assert run(monkeypatch, "predict", finished, source, "--output", output) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows][: len(texts)] == texts
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert run(monkeypatch, "predict", finished, source, "--output", tmp_path / "out.csv") == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.reader(handle))
    assert table[0][:2] == ["text", "label"]
    assert [row[1] for row in table[1:]] == [row["label"] for row in rows]


def test_radii_and_certified_accuracy(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(monkeypatch, "predict", finished, "a film", "--radius") == 0
    label, _, radius, text = capsys.readouterr().out.strip().split("\t")
    assert (text, float(radius) > 0) == ("a film", True)
    assert run(monkeypatch, "predict", finished, "a film", "--radius", "--output", tmp_path / "out.csv") == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert row["label"] == label
    assert float(row["radius"]) == pytest.approx(float(radius), abs=1e-3)
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", finished, "--output", tmp_path / "metrics.json") == 0
    assert "certified accuracy at" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    curve = [metrics["accuracy"], *metrics["certified_accuracy"].values()]
    assert list(metrics["certified_accuracy"]) == ["0.1", "0.2", "0.5", "1"]
    assert curve == sorted(curve, reverse=True)
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["diagnostics"]["splits"]["test"]["certified"]["accuracy"] == metrics["certified_accuracy"]
    assert re.search(r"certified accuracy .*on test ", (finished / "README.md").read_text(encoding="utf-8"))
    assert run(monkeypatch, "diagnose", finished) == 0
    assert "certified accuracy at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "recipe none.yaml is not a file"),
        (["train", DEMO, "learnin_rate=1"], "did you mean 'learning_rate'"),
        (["train", DEMO, "data.train_file=none.csv"], "none.csv"),
        (["evaluate", "nowhere"], "nowhere is no run directory"),
        (["predict", "nowhere", "text"], "nowhere is no run directory"),
        (["predict", "nowhere", "text", "--output", "x.parquet"], "must end in .jsonl or .csv"),
        (["predict", "RUN", "none.csv"], "none.csv"),
        (["evaluate", "RUN", "--perturb", "typo"], "did you mean 'typos'"),
        (["evaluate", "RUN", "learning_rate=1"], "only data.* can be changed"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list,
    message: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [finished if argument == "RUN" else argument for argument in arguments]
    assert run(monkeypatch, *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_no_half_written_output(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "a film"}\n{"text": 3}\n', encoding="utf-8")
    assert run(monkeypatch, "predict", finished, source, "--output", tmp_path / "out.jsonl") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl"}


def test_cache_is_listed_and_cleared(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert finished.is_dir()
    assert run(monkeypatch, "cache", "list") == 0
    assert "rows" in capsys.readouterr().out
    assert run(monkeypatch, "cache", "clear") == 0
    assert "removed" in capsys.readouterr().out
    assert run(monkeypatch, "cache", "list") == 0
    assert capsys.readouterr().out == ""
