"""Studies: the same numbers twice, honest intervals, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cr_hf.errors import RecipeError
from cr_hf.recipe import load_recipe
from cr_hf.report import plot_study
from cr_hf.study import COMPARISONS, HEADS, run_study, schedule_of, study_tables, write_study

DEMO = Path(__file__).resolve().parents[1] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=80", "data.max_eval_samples=40", "num_train_epochs=1", "hidden_sizes=[8]"]


@pytest.fixture(scope="module")
def study(tiny_backbone: Callable[..., Path]) -> Callable[[], dict[str, Any]]:
    recipe = load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", *TINY])
    return lambda: run_study(recipe, ["linear", "cr", "cr+dreg"], [0.25, 1.0], seeds=2)


def test_a_study_twice_gives_the_same_numbers(study: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    first, second = study(), study()
    assert first == second
    write_study(first, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8")) == first
    cells = first["fractions"]["0.25"]["heads"]
    assert {cell["rows"] for cell in cells.values()} == {20}
    assert all(len(cell["test_accuracies"]) == 2 for cell in cells.values())
    for cell in cells.values():
        dev = [tried["dev_accuracy"] for tried in cell["tried"]]
        assert dev[cell["chosen"]] == max(dev)
        assert np.mean(cell["dev_accuracies"]) == pytest.approx(max(dev))
    plot_study(first, tmp_path / "out" / "study.png")
    assert (tmp_path / "out" / "study.png").read_bytes().startswith(b"\x89PNG")
    table = study_tables(first)
    assert "| cr+dreg minus cr |" in table
    assert "differences are positive" in table


def test_every_head_tries_as_many_settings() -> None:
    assert {len(head.settings) for head in HEADS.values()} == {4}
    assert len(COMPARISONS) <= 5
    assert all(name in HEADS for pair in COMPARISONS for name in pair)


def test_schedule_of_a_fraction() -> None:
    recipe = load_recipe(DEMO, ["num_train_epochs=6", "per_device_train_batch_size=128"])
    whole, part = schedule_of(recipe, 8544, 1.0), schedule_of(recipe, 427, 0.05)
    assert (whole.num_train_epochs, whole.batch_size) == (6, 128)
    assert (part.num_train_epochs, part.batch_size) == (20, 32)


@pytest.mark.parametrize(
    ("heads", "fractions", "seeds", "message"),
    [
        (["cr+dregg"], [1.0], 2, r"'cr\+dregg' is unknown \(did you mean 'cr\+dreg'\?\)"),
        (["cr"], [0.0], 2, "--fractions above 0"),
        (["cr"], [1.0], 1, "two or more --seeds"),
    ],
)
def test_refusals(heads: list[str], fractions: list[float], seeds: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run_study(load_recipe(DEMO), heads, fractions, seeds)
