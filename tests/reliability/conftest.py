"""A finished run, and the command line beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from long_use import DEMO, TINY
from refusals import CommandLine, tree

from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

TinyBackbone = Callable[..., Path]


@pytest.fixture(scope="session")
def finished(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, which no test may change."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return train_recipe(load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(
    finished: Path,
    tiny_backbone: TinyBackbone,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> Iterator[CommandLine]:
    """`cr-hf` in the scratch folder; the finished run must be left as it was."""
    places = {
        "RUN": finished,
        "BACKBONE": tiny_backbone("bert"),
        "OUT": scratch / "out",
        "HERE": scratch,
        "DEMO": DEMO,
    }
    before = tree(finished)
    yield CommandLine(places, monkeypatch, capsys)
    assert tree(finished) == before
