"""README.md and the pages of docs/: their code blocks, run in a folder with small data and a tiny backbone."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import cr_hf.cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
SENTENCES = [
    (f"a {word} film, row {row}", label) for row in range(30) for label, word in zip(LABELS, "abcde", strict=True)
]
TINY = ["num_train_epochs=1", "hidden_sizes=[8]", "use_cpu=true", "report_to=none"]


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, title and text of every code block."""
    return [(kind, title.strip(), text) for kind, title, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def lines_of(text: str) -> list[list[str]]:
    """The commands of a shell block, as words."""
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def lay_out(folder: Path) -> None:
    """The files that commands of the pages name: texts, new texts, rows of a table, recipes."""
    for split in ("train", "dev", "test"):
        rows = [f"{LABELS.index(label)}\t{text} {split}" for text, label in SENTENCES]
        write(folder / "sst5" / f"{split}.tsv", rows)
    write(folder / "my.csv", ["text,label", *(f"{text.replace(',', '')},{label}" for text, label in SENTENCES)])
    (folder / "test.csv").write_bytes((folder / "my.csv").read_bytes())
    write(folder / "reviews.csv", ["text", "a film", "another film"])
    table = [f"{row},{row % 7},2,3,4,5,6,7" for row in range(60)]
    write(folder / "rows.csv", table)
    write(folder / "pima" / "pima-indians-diabetes.csv", [f"{row},{at % 2}" for at, row in enumerate(table)])
    (folder / "recipes").symlink_to(ROOT / "recipes")


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


def run_command(words: list[str], backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cr-hf` command of a page, on the data of `lay_out` and the tiny backbone in place of any other."""
    words = [re.sub(r"\.\./shared/data/(\w+)", r"\1", word) for word in words]
    if words[1] in ("train", "study"):
        is_table = "recipes/pima.yaml" in words or "recipes/mnist.yaml" in words
        words = [word for word in words if not word.startswith("backbone=")]
        tiny = [*TINY, *([] if is_table else [f"backbone={backbone}"])]
        if "recipes/demo.yaml" in words:
            tiny.append("data.max_train_samples=120")
        words[3:3] = tiny
        if words[1] == "train":
            words = [word for word in words if word not in ("--num-processes", "2")] + ["--overwrite"]
        else:
            words += ["--heads", "linear,cr", "--seeds", "2", "--search-seeds", "2"]
            words += [] if "--shots" in words else ["--fractions", "1"]
    if words[1] == "new" or ({"--output", "--plot", "--html"} & {*words} and words[1] not in ("study", "export")):
        words.append("--overwrite")
    words = [word for word in words if word != "--head-only"]  # nobody else could get the tiny backbone
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    assert not stopped.value.code, words
