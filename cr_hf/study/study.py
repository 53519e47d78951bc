"""A study: heads x fractions of the labels x seeds on the same frozen features, with paired statistics.

Every head gets the same features, the same training subsets, the same seeds and the same number of tried settings per
fraction. The setting is chosen on dev, by the mean accuracy over the first seeds; test rows are looked at once, with
that setting. The comparisons are declared before any result is seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ..data import load_rows, load_tables, table_features
from ..errors import RecipeError
from ..evaluation import RESAMPLES, Comparison, compare_all, crossed_bootstrap, declare, least_wilcoxon_p
from ..features import encode_splits
from ..files import write_json, writing
from ..modeling import CRConfig
from ..runs import NO_BACKBONE, Recipe, build_model, describe_data, describe_machine
from .arms import check_heads
from .cells import CellStore, Plan, StudyData, declared_settings, train_cell, unpack_hits

logger = logging.get_logger(__name__)

SEARCH_SEEDS = 5
KEPT_IN_CELLS = ("fingerprint", "hits", "seconds")


def run_study(
    recipe: Recipe,
    heads: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    output: Path,
    *,
    comparisons: str | None = None,
    search_seeds: int = SEARCH_SEEDS,
    progress: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Train and compare heads on the features of a frozen recipe or of a table; a stopped study goes on.

    Args:
        recipe: its backbone, data, hidden sizes, learning rate and epochs are used.
        heads: names out of `HEADS`.
        fractions: of the training rows, each above 0 and at most 1; every seed has its own stratified subset.
        seeds: number of seeds, from 0; at least 2.
        output: the study's folder: its cells are kept there, and `study.json` is written into it.
        comparisons: at most five `HEAD:REFERENCE` with commas between, see `comparisons.declare`.
        search_seeds: the first so many seeds choose the setting; the others train the chosen one alone.
        progress: told what is done.

    Returns:
        What `study.json` holds: per fraction and head the tried settings, the chosen one and what it gave on test, and
        the declared comparisons.

    Raises:
        RecipeError: if a head is unknown, a number is out of range, a fraction leaves too few rows, the data have no
            test split or are not of classes, or the folder holds another study.
    """
    heads, fractions = list(heads), list(fractions)
    check_heads(heads)
    declared = declare(comparisons, heads)
    _check_size(recipe, fractions, seeds, search_seeds)
    dataset, config, data = read_features(recipe)
    _check_fractions(fractions, data.train[1])
    plan = plan_of(recipe, config, seeds, search_seeds)
    about = {
        "data": describe_data(recipe.data, dataset),
        "features": {name: getattr(config, name) for name in ("in_features", "pooling", "feature_layers")},
        "hidden_sizes": config.hidden_sizes,
        "seeds": seeds,
        "search_seeds": plan.search_seeds,
        "resamples": RESAMPLES,
        "comparisons": [dataclasses.asdict(comparison) for comparison in declared],
    }
    declaration = {"heads": declared_settings(heads), "fractions": fractions, **dataclasses.asdict(plan)}
    with writing(output):
        store = CellStore(output, {**about, **declaration, "features_sha256": data.fingerprint()})
        cells = _train_cells(store, heads, fractions, data, plan, progress)
        seconds = round(sum(cell["seconds"] for cell in cells.values()))
        study = {
            **about,
            "fingerprint": store.fingerprint,
            "environment": {**describe_machine(), "seconds_training": seconds},
            **_results(cells, declared, heads, fractions),
        }
        write_json(output / "study.json", study)
    return study


def _check_size(recipe: Recipe, fractions: Sequence[float], seeds: int, search_seeds: int) -> None:
    if seeds < 2 or search_seeds < 2 or not all(0 < fraction <= 1 for fraction in fractions) or not fractions:
        raise RecipeError("a study needs two or more --seeds, and --fractions above 0 and at most 1")
    if len(set(fractions)) < len(fractions):
        raise RecipeError("--fractions: one of them is given twice")
    if not recipe.task.is_single:
        raise RecipeError(f"problem_type={recipe.task.problem_type}: a study is for single_label_classification")


def _check_fractions(fractions: Sequence[float], labels: NDArray[np.int64]) -> None:
    rows, classes = len(labels), len(np.unique(labels))
    for fraction in fractions:
        if (left := round(fraction * rows)) < classes:
            raise RecipeError(f"--fractions {fraction:g}: {left} of {rows} rows are too few for {classes} classes")


def read_features(recipe: Recipe) -> tuple[Any, CRConfig, StudyData]:
    """The rows of a frozen recipe or of a table, what a head is configured with, and the features of its splits.

    Raises:
        RecipeError: if there is no test split.
    """
    is_table = recipe.backbone == NO_BACKBONE
    dataset = load_tables(recipe.data) if is_table else load_rows(recipe.data)
    if "test" not in dataset:
        raise RecipeError("a study needs a test split: give data.test_file")
    if not is_table:
        recipe = dataclasses.replace(recipe, model={**recipe.model, "freeze_backbone": True})
    model, tokenizer = build_model(recipe, dataset)
    if is_table:
        splits = {name: (table_features(rows), np.asarray(rows["label"][:])) for name, rows in dataset.items()}
    else:
        splits = encode_splits(model, tokenizer, dataset)
    return dataset, model.config, StudyData(**splits)


def _train_cells(
    store: CellStore,
    heads: Sequence[str],
    fractions: Sequence[float],
    data: StudyData,
    plan: Plan,
    progress: Callable[[str], None],
) -> dict[tuple[float, str], dict[str, Any]]:
    """Every cell, by fraction and head; those that are kept from before are not trained again."""
    cells: dict[tuple[float, str], dict[str, Any]] = {}
    for fraction in fractions:
        for head in heads:
            cell = store.load(head, fraction)
            kept = " (kept from before)" if cell else ""
            cell = cell or store.save(head, fraction, train_cell(head, data, plan, fraction))
            cells[fraction, head] = cell
            progress(f"{fraction:.3g} of the labels, {head}: {_accuracy(cell)}{kept}")
    return cells


def plan_of(recipe: Recipe, config: CRConfig, seeds: int, search_seeds: int) -> Plan:
    """How a recipe's heads are trained: what they share of its configuration and of its training arguments."""
    unrelated = ("_name_or_path", "transformers_version", "architectures", "dtype", "auto_map")
    fields = {name: value for name, value in config.to_dict().items() if name not in unrelated}
    defaults = {
        "learning_rate": 3e-4,
        "weight_decay": 0.0,
        "num_train_epochs": 6,
        "per_device_train_batch_size": 128,
        "lr_scheduler_type": "cosine",
    }
    training = {name: recipe.training.get(name, default) for name, default in defaults.items()}
    return Plan({**fields, "backbone_config": None}, training, seeds, min(search_seeds, seeds))


def _accuracy(cell: dict[str, Any]) -> str:
    accuracies = 100 * np.array(cell["test_accuracies"])
    return f"{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f} ({cell['seconds']:.0f} s)"


def _results(
    cells: dict[tuple[float, str], dict[str, Any]],
    declared: Sequence[Comparison],
    heads: Sequence[str],
    fractions: Sequence[float],
) -> dict[str, Any]:
    """The part of `study.json` that is made from the cells: nothing in it but numbers that they hold."""
    hits: dict[tuple[float, str], NDArray[np.float64]] = {
        key: unpack_hits(cell["hits"]) for key, cell in cells.items()
    }
    intervals = dict(zip(hits, crossed_bootstrap(list(hits.values()))[:, 0].tolist(), strict=True))
    tested = [(fraction, pair) for fraction in fractions for pair in declared]
    found = compare_all([hits[fraction, pair.head] - hits[fraction, pair.reference] for fraction, pair in tested])
    entries: dict[str, Any] = {}
    for fraction in fractions:
        entries[str(fraction)] = {
            "heads": {
                head: {
                    **{name: value for name, value in cells[fraction, head].items() if name not in KEPT_IN_CELLS},
                    "accuracy_interval": intervals[fraction, head],
                }
                for head in heads
            },
            "comparisons": [
                {**dataclasses.asdict(pair), **result}
                for (where, pair), result in zip(tested, found, strict=True)
                if where == fraction
            ],
        }
    seeds = len(next(iter(hits.values())))
    return {"tests": len(tested), "least_wilcoxon_p": least_wilcoxon_p(seeds), "fractions": entries}
