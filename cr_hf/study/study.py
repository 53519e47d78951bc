"""A study, declared, trained and compared.

Every head gets the same features, the same training subsets, the same seeds and the same number of tried settings per
fraction. The setting is chosen on dev, by the mean accuracy over the first seeds; test rows are looked at once, with
that setting. The comparisons are declared before any result is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ..errors import RecipeError
from ..evaluation import RESAMPLES, Comparison, compare_all, crossed_bootstrap, declare, least_wilcoxon_p
from ..files import Json, write_json, writing
from ..runs import (
    Recipe,
    build_model,
    describe_data,
    describe_machine,
    note_cut_texts,
    override_recipe,
    split_features,
)
from .arms import HEADS, check_heads
from .cells import CellStore, StudyData, train_cell
from .results import Cell, Compared, Fraction, Study
from .shots import train_few_cell
from .tables import recommendation, spread

logger = logging.get_logger(__name__)

SEARCH_SEEDS = 5


def run_study(
    recipe: Recipe,
    heads: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    output: Path,
    *,
    shots: Sequence[int] = (),
    comparisons: str | None = None,
    search_seeds: int = SEARCH_SEEDS,
    progress: Callable[[str], None] = logger.info,
) -> Study:
    """Train and compare heads on the features of a frozen recipe or of a table; a stopped study goes on.

    Args:
        recipe: every head is trained as it says, but for what the head replaces (see `arms.HEADS`).
        heads: names of `HEADS`.
        fractions: of the training rows, each above 0 and at most 1; every seed has its own stratified subset.
        seeds: number of seeds, from 0; at least 2.
        shots: labels a class in place of `fractions`, each 3 or more; see `shots.py`. None by default.
        output: the study's folder: its cells are kept there, and `study.json` is written into it.
        comparisons: at most five `HEAD:REFERENCE` with commas between, see `evaluation.declare`.
        search_seeds: the first so many seeds choose the setting; the others train the chosen one alone.
        progress: called with a line for each cell.

    Raises:
        RecipeError: if a head is unknown, a number is out of range, a fraction leaves too few rows, the data have no
            test split or are not of classes, or the folder holds another study.
    """
    if recipe.search is not None:
        raise RecipeError("search: is for `cr-hf train`, the heads of a study have their own settings: leave it out")
    heads, fractions = list(heads), list(shots or fractions)
    check_heads(heads)
    declared = declare(comparisons, heads)
    _check_size(recipe, fractions, seeds, search_seeds, bool(shots))
    dataset, data = read_features(recipe)
    _check_fractions(fractions, data.train[1], bool(shots))
    search_seeds = seeds if shots else min(search_seeds, seeds)
    about = {**_about(recipe, dataset, data), "seeds": seeds, "search_seeds": search_seeds, "is_few": bool(shots)}
    train: Any = partial(train_cell, data=data, seeds=seeds, search_seeds=search_seeds)
    if shots:
        train = partial(train_few_cell, data=data, seeds=seeds)
    with writing(output):
        store = CellStore(output, {**about, **_declaration(data, heads, fractions, declared)})
        cells = _all_cells(store, list(product(fractions, heads)), train, progress)
        seconds = round(sum(cell.seconds for cell in cells.values()))
        study = Study(
            **about,
            comparisons=list(declared),
            fingerprint=store.fingerprint,
            environment={**describe_machine(), "seconds_training": seconds},
            tests=len(fractions) * len(declared),
            least_wilcoxon_p=least_wilcoxon_p(seeds),
            fractions=compare_cells(cells, declared),
        )
        study.simpler = compare_simpler(study)
        write_json(output / "study.json", study.to_json())
    return study


def _about(recipe: Recipe, dataset: Any, data: StudyData) -> Json:
    return {
        "data": describe_data(recipe.data, dataset),
        "features": {name: getattr(data.config, name) for name in ("in_features", "pooling", "feature_layers")},
        "hidden_sizes": data.config.hidden_sizes,
        "resamples": RESAMPLES,
    }


def _all_cells(
    store: CellStore, keys: Sequence[tuple[float, str]], train: Callable[..., Cell], progress: Callable[[str], None]
) -> dict[tuple[float, str], Cell]:
    """Every cell, kept from before, or else trained and kept."""
    cells = {}
    with logging.tqdm(desc="study", total=len(keys), unit=" cells", leave=False) as bar:
        for fraction, head in keys:
            kept = store.load(head, fraction)
            cell = cells[fraction, head] = kept or store.save(head, fraction, train(head, fraction=fraction))
            accuracy = spread(100 * cell.per_seed("test_accuracies"))
            amount = f"{100 * fraction:.3g}% of the labels" if fraction <= 1 else f"{fraction:g} labels a class"
            seconds = f"({cell.seconds:.0f} s)" + (" (kept from before)" if kept else "")
            progress(f"{amount}, {head}: {accuracy} {seconds}")
            bar.update(1)
    return cells


def _declaration(
    data: StudyData, heads: Sequence[str], fractions: Sequence[float], declared: Sequence[Comparison]
) -> Json:
    """JSON of what a study is made from."""
    recipe = data.recipe
    arms = {name: asdict(HEADS[name]) for name in heads}
    for arm in arms.values():
        del arm["description"]
    return {
        "comparisons": [asdict(comparison) for comparison in declared],
        "heads": arms,
        "fractions": fractions,
        "recipe": {**recipe.model, **recipe.training, "early_stopping_patience": recipe.early_stopping_patience},
        "features_sha256": data.fingerprint(),
    }


def _check_size(recipe: Recipe, fractions: Sequence[float], seeds: int, search_seeds: int, is_few: bool) -> None:
    option, rule = ("--shots", "3 or more") if is_few else ("--fractions", "above 0 and at most 1")
    are_right = all(fraction >= 3 if is_few else 0 < fraction <= 1 for fraction in fractions)
    if search_seeds < 2:
        raise RecipeError(f"--search-seeds {search_seeds}: two or more are needed to choose a setting")
    if seeds < 2 or not are_right or not fractions:
        raise RecipeError(f"a study needs two or more --seeds, and {option} {rule}")
    if len(set(fractions)) < len(fractions):
        raise RecipeError(f"{option}: one of them is given twice")
    if not recipe.task.is_single:
        raise RecipeError(f"problem_type={recipe.task.problem_type}: a study is for single_label_classification")


def _check_fractions(fractions: Sequence[float], labels: NDArray[np.int64], is_few: bool) -> None:
    rows, (names, counts) = len(labels), np.unique(labels, return_counts=True)
    classes = len(names)
    for fraction in fractions:
        if is_few and fraction > counts.min():
            raise RecipeError(f"--shots {fraction:g}: a class has only {counts.min()} rows of train: use fewer")
        if not is_few and (left := round(fraction * rows)) < classes:
            raise RecipeError(f"--fractions {fraction:g}: {left} of {rows} rows are too few for {classes} classes")


def read_features(recipe: Recipe) -> tuple[Any, StudyData]:
    """The rows of a frozen recipe or of a table, and the features of its splits."""
    frozen = recipe
    if recipe.kind == "texts":
        frozen = override_recipe(recipe, {"freeze_backbone": True, "data.streaming": False})
    dataset = frozen.read_data()
    if "test" not in dataset:
        raise RecipeError("a study needs a test split: give data.test_file")
    model, tokenizer = build_model(frozen, dataset)
    note_cut_texts(model, tokenizer, dataset)
    return dataset, StudyData(recipe, model.config, **split_features(frozen, model, tokenizer, dataset))


def compare_cells(cells: dict[tuple[float, str], Cell], declared: Sequence[Comparison]) -> dict[str, Fraction]:
    """The fractions of a study from its cells, whose intervals are set, with the comparisons at every fraction."""
    hits = {key: np.asarray(cell.hits, dtype=np.float64) for key, cell in cells.items()}
    for cell, interval in zip(cells.values(), crossed_bootstrap(list(hits.values()))[:, 0].tolist(), strict=True):
        cell.accuracy_interval = interval
    fractions = list(dict.fromkeys(fraction for fraction, _ in cells))
    for fraction in fractions:
        _set_dev_errors([cell for (where, _), cell in cells.items() if where == fraction])
    tested = list(product(fractions, declared))
    found = compare_all([hits[fraction, pair.head] - hits[fraction, pair.reference] for fraction, pair in tested])
    return {
        str(fraction): Fraction(
            {head: cell for (where, head), cell in cells.items() if where == fraction},
            [
                Compared(**vars(pair), **vars(one))
                for (where, pair), one in zip(tested, found, strict=True)
                if where == fraction
            ],
        )
        for fraction in fractions
    }


def _set_dev_errors(cells: Sequence[Cell]) -> None:
    """Standard errors of the differences on dev from the best head: all seeds share the dev rows, so both count."""
    best = max(cells, key=lambda cell: cell.per_seed("dev_accuracies").mean())
    for cell in cells:
        if cell.dev_hits is not None and best.dev_hits is not None:
            differences = best.dev_hits.astype(np.float64) - cell.dev_hits
            over_seeds, over_rows = differences.mean(1), differences.mean(0)
            variance = over_seeds.var(ddof=1) / len(over_seeds) + over_rows.var(ddof=1) / len(over_rows)
            cell.dev_error = float(np.sqrt(variance))


def compare_simpler(study: Study) -> dict[str, tuple[float, float, float]]:
    """What `Study.simpler` holds; nothing where the recommended head has no hidden layer itself."""
    chosen, cells = recommendation(study).head, study.largest
    if chosen is None or HEADS[chosen].is_linear:
        return {}
    own = np.asarray(cells[chosen].hits, dtype=np.float64)
    simpler = {head: np.asarray(cell.hits) - own for head, cell in cells.items() if HEADS[head].is_linear}
    if not simpler:
        return {}
    intervals = crossed_bootstrap(list(simpler.values()))[:, 0].tolist()
    return {head: (float(one.mean()), *ends) for (head, one), ends in zip(simpler.items(), intervals, strict=True)}
