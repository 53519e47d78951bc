"""The command line where the surroundings are unusual: locales, Python's options, names that are too long."""

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest
from huggingface_hub import constants

import cr_hf.cli
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "demo.yaml"
TINY = ["num_train_epochs=1", "hidden_sizes=[4]", "use_cpu=true", "disable_tqdm=true", "data.name=null"]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}


def command(*arguments: object, **environment: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "cr_hf.cli", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    errors = done.stderr.decode()
    assert "Traceback" not in errors, errors
    return done.returncode, done.stdout.decode(), errors.splitlines()


@pytest.fixture(scope="module")
def run_dir(tiny_backbone: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surroundings")
    labels = ["bad", "sch\u00f6n"]
    lines = [f"a film {index},{labels[index % 2]}" for index in range(30)]
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    fixed = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder / 'run'}"]  # type: ignore[operator]
    return train_recipe(load_recipe(RECIPE, [*fixed, f"data.train_file={folder / 'train.csv'}", *TINY]))


def test_a_locale_without_utf_8_works(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "\u00fc.csv").write_text("text\nsch\u00f6n\n", encoding="utf-8")
    code, output, errors = command("predict", run_dir, tmp_path / "\u00fc.csv", **ASCII)
    assert code == 0, errors
    assert output.split("\t")[2] == "sch\u00f6n\n"


def test_python_without_docstrings_is_one_line() -> None:
    code, _, errors = command("--help", PYTHONOPTIMIZE="2")
    assert code == 2
    assert len(errors) == 1
    assert "PYTHONOPTIMIZE" in errors[0]


def test_names_that_are_too_long_are_one_line(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    long = "x" * 300
    for arguments in (
        ["predict", run_dir, "a film", "--output", tmp_path / f"{long}.csv"],
        ["predict", tmp_path / long, "a film"],
        ["train", RECIPE, f"backbone={tmp_path}", f"output_dir={tmp_path / long}"],
    ):
        monkeypatch.setattr(sys, "argv", ["cr-hf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        errors = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2
        assert sum(line.startswith("error: ") for line in errors) == 1, errors
    assert not list(tmp_path.iterdir())


def test_new_processes_of_the_tests_have_their_cache() -> None:
    assert conftest.os.environ["HF_HOME"] == constants.HF_HOME
