"""What a hostile case is, and the edits that several of them share."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Damage = Callable[[Path, Path], object]
"""Makes a hostile folder of a finished run; told the run and a file that must not come to be."""
PREDICT = ("predict", "run", "a film")
PUBLISH = ("publish", "run", "me/model", "--dry-run", "--folder", "published")
RESUME = ("train", "run/recipe.yaml", "--resume")
DIAGNOSE = ("diagnose", "run", "a film")
DEEP = "[" * 200_000
TRAIN = ("train", "demo.yaml", "backbone=run", "output_dir=out", "data.max_train_samples=60", "num_train_epochs=1")


@dataclass(frozen=True)
class Case:
    """One of them.

    Args:
        damage: makes it of a finished run; told the run and a file that must not come to be.
        message: what the one line must say; empty where the command has to work nevertheless.
        words: of the command line.
        answers: on standard input: what a prompt would take for consent.
        writes: a folder that it may write.
    """

    damage: Callable[[Path, Path], object]
    message: str = ""
    words: tuple[str, ...] = PREDICT
    answers: str = "y\n" * 5
    writes: str = "-"


def edit(path: Path, **changes: Any) -> None:
    """Other values of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def config(**changes: Any) -> Callable[[Path, Path], object]:
    """Another `config.json`."""
    return lambda run, canary: edit(run / "config.json", **changes)


def backbone_config(**changes: Any) -> Callable[[Path, Path], object]:
    """Other values of its backbone."""

    def damage(run: Path, canary: Path) -> None:
        values = json.loads((run / "config.json").read_text(encoding="utf-8"))["backbone_config"]
        edit(run / "config.json", backbone_config={**values, **changes})

    return damage


def file(name: str, content: str) -> Callable[[Path, Path], object]:
    """Another content of a file of the run."""
    return lambda run, canary: (run / name).write_text(content)
