"""A study: heads x fractions of the labels x seeds on the same frozen features, with paired statistics.

Every head gets the same features, the same training subsets, the same seeds and the same number of tried settings per
fraction. The setting is chosen on dev, by the mean accuracy over all seeds; test rows are looked at once, with that
setting. The comparisons are declared here, before any result is seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from .build import build_model
from .comparisons import RESAMPLES, compare
from .configuration_cr import CRConfig
from .data import load_data, stratified_order
from .errors import RecipeError, nearest
from .features import encode_splits
from .recipe import Recipe
from .results import describe_data, describe_machine, write_json
from .sweep import HeadSpec, SweepArguments, predict_heads, train_heads

logger = logging.get_logger(__name__)

LINEAR_SETTINGS = tuple({"learning_rate": value} for value in (1e-4, 3e-4, 1e-3, 3e-3))
DROPOUT_SETTINGS = tuple({"dropout": value} for value in (0.1, 0.3, 0.5, 0.7))
DREG_SETTINGS = tuple({"dreg_lambda": value, "dropout": 0.3} for value in (0.01, 0.02, 0.04, 0.08))


@dataclass(frozen=True)
class Head:
    """A head of a study: its fixed fields of `CRConfig`, and the settings that are tried."""

    fields: dict[str, Any]
    settings: tuple[dict[str, float], ...]


HEADS = {
    "linear": Head({"hidden_sizes": []}, LINEAR_SETTINGS),
    "mlp-relu": Head({"activation": "relu"}, DROPOUT_SETTINGS),
    "mlp-gelu": Head({"activation": "gelu"}, DROPOUT_SETTINGS),
    "cr": Head({"activation": "polynomial"}, DROPOUT_SETTINGS),
    "cr+dreg": Head({"activation": "polynomial"}, DREG_SETTINGS),
    "gelu+dreg": Head({"activation": "gelu"}, DREG_SETTINGS),
}
COMPARISONS = (("cr+dreg", "cr"), ("cr+dreg", "mlp-gelu"), ("gelu+dreg", "mlp-gelu"))


@dataclass
class StudyData:
    """Features and labels of the three splits, each (rows, in_features) and (rows,)."""

    train: tuple[Any, NDArray[np.int64]]
    validation: tuple[Any, NDArray[np.int64]]
    test: tuple[Any, NDArray[np.int64]]


def run_study(
    recipe: Recipe,
    heads: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    progress: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Train and compare heads on the features of a frozen recipe.

    Args:
        recipe: its backbone, data, hidden sizes, learning rate and epochs are used.
        heads: names out of `HEADS`.
        fractions: of the training rows, each above 0 and at most 1; every seed has its own stratified subset.
        seeds: number of seeds, from 0; at least 2.
        progress: told what is done.

    Returns:
        What `study.json` holds: per fraction and head the tried settings, the chosen one and the test accuracies, and
        the declared comparisons with their intervals.

    Raises:
        RecipeError: if a head is unknown, a number is out of range, or the data have no test split.
    """
    for head in heads:
        if head not in HEADS:
            raise RecipeError(f"--heads: {head!r} is unknown{nearest(head, HEADS)}: use {', '.join(HEADS)}")
    if seeds < 2 or not all(0 < fraction <= 1 for fraction in fractions):
        raise RecipeError("a study needs two or more --seeds, and --fractions above 0 and at most 1")
    dataset = load_data(recipe.data)
    if "test" not in dataset:
        raise RecipeError("a study needs a test split: give data.test_file")
    recipe = dataclasses.replace(recipe, model={**recipe.model, "freeze_backbone": True})
    model, tokenizer = build_model(recipe, dataset)
    data = StudyData(**encode_splits(model, tokenizer, dataset))
    base = {**model.config.to_dict(), "backbone_config": None}
    study: dict[str, Any] = {
        "data": describe_data(recipe.data, dataset),
        "features": {name: base[name] for name in ("in_features", "pooling", "feature_layers")},
        "hidden_sizes": base["hidden_sizes"],
        "seeds": seeds,
        "resamples": RESAMPLES,
        "environment": describe_machine(),
        "fractions": {},
    }
    for fraction in fractions:
        hits = {}
        entry: dict[str, Any] = {"heads": {}}
        for head in heads:
            entry["heads"][head], hits[head] = _run_cell(HEADS[head], data, base, recipe, fraction, seeds)
            progress(f"{fraction:.0%} of the labels, {head}: {summary(entry['heads'][head])}")
        entry["comparisons"] = [
            {"head": first, "reference": second, **compare(hits[first], hits[second])}
            for first, second in COMPARISONS
            if first in hits and second in hits
        ]
        study["fractions"][str(fraction)] = entry
    return study


def _run_cell(
    head: Head, data: StudyData, base: dict[str, Any], recipe: Recipe, fraction: float, seeds: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """All settings and seeds of one head at one fraction; the hits on test are (seeds, rows)."""
    features, labels = data.train
    size = round(fraction * len(labels))
    arguments = schedule_of(recipe, size, fraction)
    subsets = [np.sort(stratified_order(labels, seed)[:size]) for seed in range(seeds)]
    shared = {
        "dreg_lambda": 0.0,
        "learning_rate": recipe.training.get("learning_rate", 3e-4),
        "weight_decay": recipe.training.get("weight_decay", 0.0),
    }
    specs = [
        HeadSpec(**{**shared, "seed": seed, "train_indices": subsets[seed], **setting})
        for setting, seed in product(head.settings, range(seeds))
    ]
    config = CRConfig(**{**base, **head.fields})
    results = train_heads(
        features, labels, specs, config, arguments,
        validation_features=data.validation[0], validation_labels=data.validation[1],
    )  # fmt: skip
    dev = np.array([max(result.accuracies) for result in results]).reshape(len(head.settings), seeds)
    chosen = int(dev.mean(1).argmax())
    kept = results[chosen * seeds : (chosen + 1) * seeds]
    logits = predict_heads(kept, data.test[0]).numpy()
    hits = (logits.argmax(-1) == data.test[1]).astype(np.float64)
    cell = {
        "rows": size,
        "epochs": arguments.num_train_epochs,
        "batch_size": arguments.batch_size,
        "tried": [
            {**setting, "dev_accuracy": float(mean)} for setting, mean in zip(head.settings, dev.mean(1), strict=True)
        ],
        "chosen": chosen,
        "dev_accuracies": dev[chosen].tolist(),
        "test_accuracies": hits.mean(1).tolist(),
        "parameters": sum(value.numel() for value in kept[0].head().parameters()),
    }
    return cell, hits


def schedule_of(recipe: Recipe, rows: int, fraction: float) -> SweepArguments:
    """Epochs and batch size of a fraction, the same for every head.

    With fewer rows the batches shrink and the epochs grow, so that a few hundred steps are left: the recipe's epochs
    times fraction**-0.4, and a power of two near rows / 13, from 16 to the recipe's batch size.
    """
    epochs = recipe.training.get("num_train_epochs", 6)
    batch_size = recipe.training.get("per_device_train_batch_size", 128)
    fitting = 2 ** round(np.log2(max(1, rows / 13)))
    return SweepArguments(
        num_train_epochs=round(epochs * fraction**-0.4),
        batch_size=int(min(batch_size, max(16, fitting))),
        lr_scheduler_type=recipe.training.get("lr_scheduler_type", "cosine"),
    )


def summary(cell: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds of the test accuracy, in percent."""
    accuracies = 100 * np.array(cell["test_accuracies"])
    return f"{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f}"


def study_tables(study: dict[str, Any]) -> str:
    """A study as two Markdown tables: accuracies, and the declared comparisons."""
    fractions = study["fractions"]
    heads = list(next(iter(fractions.values()))["heads"])
    lines = ["| head | " + " | ".join(f"{float(name):.0%} of the labels" for name in fractions) + " |"]
    lines.append("|---" * (len(fractions) + 1) + "|")
    for head in heads:
        cells = [summary(entry["heads"][head]) for entry in fractions.values()]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| difference in points | " + " | ".join(f"{float(name):.0%} of the labels" for name in fractions) + " |",
    ]
    lines.append("|---" * (len(fractions) + 1) + "|")
    for number, comparison in enumerate(next(iter(fractions.values()))["comparisons"]):
        cells = []
        for entry in fractions.values():
            found = entry["comparisons"][number]
            low, high = (100 * value for value in found["interval"])
            cells.append(f"{100 * found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append(f"| {comparison['head']} minus {comparison['reference']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _verdict(fractions)])


def _verdict(fractions: dict[str, Any]) -> str:
    """What the intervals allow to be said, in one sentence."""
    found = [(name, comparison) for name, entry in fractions.items() for comparison in entry["comparisons"]]
    clear = [
        f"{comparison['head']} against {comparison['reference']} at {float(name):.0%}"
        for name, comparison in found
        if comparison["interval"][0] > 0 or comparison["interval"][1] < 0
    ]
    positive = sum(comparison["difference"] > 0 for _, comparison in found)
    text = f"{positive} of the {len(found)} differences are positive; "
    if not clear:
        return text + "no interval excludes 0, so this test set cannot tell the heads apart with certainty."
    return text + f"the intervals that exclude 0 are: {', '.join(clear)}."


def write_study(study: dict[str, Any], folder: Path) -> None:
    """Write `study.json` and `study.md` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", study)
    (folder / "study.md").write_text(study_tables(study) + "\n", encoding="utf-8")
