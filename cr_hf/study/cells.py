"""The cells of a study: one head at one fraction of the labels, trained once and kept as one file.

A folder belongs to one study. `declared.json` says which, before anything is trained; every cell carries the
fingerprint of it, so that a killed study goes on where it stopped and nothing of another study slips in.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from ..data import stratified_order
from ..errors import CheckpointError, RecipeError
from ..evaluation import (
    ExpectedCalibrationError,
    calibration_bins,
    certified_shares,
    gradient_tail_ratio,
    input_gradient_norms,
    margin_slope_bound,
    non_linearity,
    sample_rows,
)
from ..files import Json, read_json, write_json
from ..modeling import CRConfig
from ..runs import Recipe, sweep_head, training_arguments
from ..training import HeadGroup, HeadResult, Rows, predict_heads, train_heads
from .arms import HEADS, Arm, Setting
from .classical import FittedEstimator, fit_settings, log_probabilities
from .penalties import PENALTIES
from .results import Cell, Tried

FORMAT = 2
DECLARED, CELLS = "declared.json", "cells"
MEND = "remove it, and it is made again"
CERTIFIED_ROWS = 500


@dataclass
class StudyData:
    """What the heads of a study are trained from: the recipe, the configuration of its classifier, and the splits.

    A split is features, shape (rows, in_features), and classes, shape (rows,).
    """

    recipe: Recipe
    config: CRConfig
    train: tuple[Rows, NDArray[np.int64]]
    validation: tuple[Rows, NDArray[np.int64]]
    test: tuple[Rows, NDArray[np.int64]]

    def fingerprint(self) -> str:
        """SHA-256 of every feature and label."""
        digest = hashlib.sha256()
        for features, labels in (self.train, self.validation, self.test):
            digest.update(f"{features.shape}".encode())
            digest.update(np.ascontiguousarray(features).data)
            digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
        return digest.hexdigest()


def scaling(recipe: Recipe, rows: int, fraction: float) -> dict[str, Any]:
    """Overrides of the recipe for a fraction of the labels, the same for every head.

    With fewer rows the batches shrink and the epochs grow, so that a few hundred steps are left: the recipe's epochs
    times fraction**-0.4, and a power of two near rows / 13, from 16 to the recipe's batch size.
    """
    if fraction == 1:
        return {}
    arguments = training_arguments(recipe, Path(recipe.output_dir))
    batch_size = min(arguments.per_device_train_batch_size, max(16, 2 ** round(np.log2(max(1, rows / 13)))))
    epochs = {"num_train_epochs": max(1, round(arguments.num_train_epochs * fraction**-0.4))}
    return {**(epochs if arguments.max_steps <= 0 else {}), "per_device_train_batch_size": batch_size}


class CellStore:
    """The cells of one study in a folder.

    Args:
        folder: of the study, made if it is not there.
        declared: JSON of all that the study is made from, its features included.

    Raises:
        RecipeError: if the folder holds another study; the message names what differs.
    """

    def __init__(self, folder: Path, declared: Json) -> None:
        self.folder = folder
        declared = json.loads(json.dumps({"format": FORMAT, **declared}))
        self.fingerprint = hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()
        path = folder / DECLARED
        if path.is_file():
            found = read_json(path, MEND)
            for name in sorted({*declared, *found}):
                if found.get(name) != declared.get(name):
                    raise RecipeError(f"--output {folder} holds another study ({name} differs): choose another folder")
        elif (folder / "study.json").exists():
            raise RecipeError(f"--output {folder} holds a study without {DECLARED}: choose another folder")
        elif folder.exists() and any(folder.iterdir()):
            foreign = min(path.name for path in folder.iterdir())
            raise RecipeError(f"--output {folder} holds {foreign} and no study: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, declared)
        (folder / CELLS).mkdir(exist_ok=True)

    def load(self, head: str, fraction: float) -> Cell | None:
        """A cell, or `None` if it is not there yet.

        Raises:
            CheckpointError: if its file is damaged or of another study.
        """
        path = self._path(head, fraction)
        if not path.is_file():
            return None
        cell = read_json(path, MEND)
        if cell.pop("fingerprint", None) != self.fingerprint:
            raise CheckpointError(f"{path} is of another study: {MEND}")
        try:
            return Cell.from_json(cell)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): {MEND}") from error

    def save(self, head: str, fraction: float, cell: Cell) -> Cell:
        """Keep a cell, and return it as it will be read."""
        write_json(self._path(head, fraction), {"fingerprint": self.fingerprint, **cell.to_json(is_own_file=True)})
        return self.load(head, fraction) or cell

    def _path(self, head: str, fraction: float) -> Path:
        return self.folder / CELLS / f"{head}_{fraction:g}.json"


def subsets_of(labels: NDArray[np.int64], fraction: float, seeds: int) -> list[NDArray[np.int64]]:
    """The training rows of each seed: its own stratified subset."""
    size = round(fraction * len(labels))
    return [np.sort(stratified_order(labels, seed)[:size]) for seed in range(seeds)]


def train_cell(name: str, data: StudyData, seeds: int, search_seeds: int, fraction: float) -> Cell:
    """One head at one fraction: the settings tried on dev with the first seeds, the chosen one measured on test."""
    started = time.monotonic()
    arm, labels = HEADS[name], data.train[1]
    subsets = subsets_of(labels, fraction, seeds)
    scaled = scaling(data.recipe, len(subsets[0]), fraction)
    tried = train_settings(arm, arm.settings, range(search_seeds), subsets, data, scaled)
    dev = np.array([[head.accuracy for head in heads] for heads in tried])
    chosen = int(dev.mean(1).argmax())  # of equal ones the first
    (rest,) = train_settings(arm, [arm.settings[chosen]], range(search_seeds, seeds), subsets, data, scaled)
    kept = [*tried[chosen], *rest]
    spread = zip(arm.settings, dev.mean(1).tolist(), dev.std(1, ddof=1).tolist(), strict=True)
    return Cell(
        rows=len(subsets[0]),
        tried=[Tried(*one) for one in spread],
        chosen=chosen,
        dev_accuracies=[result.accuracy for result in kept],
        overrides=_recipe_keys(data.recipe, arm, {**arm.settings[chosen], **scaled}, fraction),
        **measure(kept, data.test),
        dev_hits=predict_classes(kept, data.validation[0]) == data.validation[1],
        seconds=time.monotonic() - started,
    )


def _recipe_keys(recipe: Recipe, arm: Arm, own: dict[str, Any], fraction: float) -> dict[str, Any] | None:
    if not arm.is_recipe or recipe.lora_r is not None:
        return None
    is_frozen = recipe.kind == "table" or recipe.model.get("freeze_backbone", False)
    frozen = {} if is_frozen else {"freeze_backbone": True}
    share = {} if fraction == 1 else {"data.train_fraction": fraction}
    return {**frozen, **arm.overrides, **own, **share}


def train_settings(
    arm: Arm,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    subsets: Sequence[NDArray[np.int64]],
    data: StudyData,
    scaled: dict[str, Any],
) -> list[list[Any]]:
    """For every setting of a head one of every seed, on the rows of the seed's subset.

    Returns:
        `HeadResult`s, or `FittedEstimator`s of a head that is no network.
    """
    if arm.estimator is not None:
        fitted = fit_settings(arm.estimator, settings, seeds, subsets, data.train, data.validation)
        return _by_setting(fitted, len(settings))
    heads = []
    for setting, seed in product(settings, seeds):
        overrides = {**arm.overrides, **scaled, **setting, "seed": seed}
        weight = overrides.pop("penalty_weight", 0.0)
        rows = None if len(subsets[seed]) == len(data.train[1]) else subsets[seed]
        heads.append(sweep_head(data.recipe, data.config, overrides, rows, weight))
        try:
            heads[-1].check()
        except ValueError as error:
            raise RecipeError(str(error)) from error
    results = train_heads(
        *data.train,
        heads,
        validation_features=data.validation[0],
        validation_labels=data.validation[1],
        group_type=HeadGroup if arm.penalty is None else PENALTIES[arm.penalty],
    )
    return _by_setting(results, len(settings))


def _by_setting(heads: Sequence[Any], settings: int) -> list[list[Any]]:
    seeds = len(heads) // settings
    return [list(heads[number * seeds : (number + 1) * seeds]) for number in range(settings)]


def predict_classes(heads: Sequence[Any], features: Rows) -> NDArray[np.int64]:
    """Of heads of one setting, as `train_settings` returns them, shape (heads, rows)."""
    if isinstance(heads[0], FittedEstimator):
        return np.stack([head.pipeline.predict(np.asarray(features)) for head in heads])
    return predict_heads(heads, features).argmax(-1).numpy()


def measure(kept: Sequence[Any], test: tuple[Rows, NDArray[np.int64]]) -> Json:
    """Fields of a `Cell`: what `train_settings` returned for one setting, on the test rows, seed by seed.

    What is no network has predictions alone, and no calibration where there are no probabilities.
    """
    if not isinstance(kept[0], FittedEstimator):
        return _measure_networks(kept, *test)
    features, labels = test
    hits = predict_classes(kept, features) == labels
    return _measure_predictions(hits, [log_probabilities(fitted, features) for fitted in kept], labels)


def _measure_networks(kept: Sequence[HeadResult], features: Rows, labels: NDArray[np.int64]) -> Json:
    predicted = scipy.special.log_softmax(predict_heads(kept, features).double().numpy(), axis=-1)
    rows = torch.from_numpy(np.array(features))
    modules = [result.head() for result in kept]
    norms = [input_gradient_norms(module, rows).cpu().numpy() for module in modules]
    sample = sample_rows(len(rows), CERTIFIED_ROWS)
    looked_at = [certified_shares(module, rows[sample], torch.from_numpy(labels[sample])) for module in modules]
    certified = [found["accuracy"] for found in looked_at if found]
    coefficients, setup = kept[0].state.get("layers.0.coefficients"), kept[0].setup
    return {
        **_measure_predictions(predicted.argmax(-1) == labels, predicted, labels),
        "gradient_tail_ratios": [gradient_tail_ratio(values) for values in norms],
        "peak_gradients": [float(values.max()) for values in norms],
        "non_linearities": [non_linearity(module, rows) for module in modules],
        "certified_accuracies": {radius: [shares[radius] for shares in certified] for radius in certified[0]},
        "margin_slopes": [margin_slope_bound(module) for module in modules],
        "coefficients": None if coefficients is None else coefficients.tolist(),
        "parameters": sum(value.numel() for value in modules[0].parameters()),
        "epochs": setup.arguments.num_train_epochs,
        "batch_size": setup.batch_size,
    }


def _measure_predictions(
    hits: NDArray[np.bool_], predicted: Sequence[NDArray[np.float64] | None], labels: NDArray[np.int64]
) -> Json:
    known = [one for one in predicted if one is not None]
    confidence = np.exp(np.stack(known).max(-1)) if known else None
    return {
        "test_accuracies": hits.mean(1).tolist(),
        "expected_calibration_errors": [ExpectedCalibrationError.score(one, labels) for one in known] or None,
        "reliability": None if confidence is None else calibration_bins(confidence.ravel(), hits.ravel()),
        "hits": hits,
    }
