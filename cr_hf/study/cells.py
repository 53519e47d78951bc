"""The cells of a study: one head at one fraction of the labels, trained once and kept as one file.

A folder belongs to one study. `declared.json` says which, before anything is trained; every cell carries the
fingerprint of it, so that a killed study goes on where it stopped and nothing of another study slips in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from ..data import stratified_order
from ..errors import CheckpointError, RecipeError
from ..evaluation import (
    CALIBRATION_BINS,
    ExpectedCalibrationError,
    gradient_tail_ratio,
    input_gradient_norms,
    non_linearity,
)
from ..files import write_json
from ..modeling import CRConfig
from ..training import HeadGroup, HeadResult, HeadSpec, SweepArguments, predict_heads, train_heads
from .arms import HEADS, Head
from .classical import FittedEstimator, fit_settings, log_probabilities
from .penalties import PENALTIES

Trained = TypeVar("Trained", HeadResult, FittedEstimator)

FORMAT = 1
DECLARED, CELLS = "declared.json", "cells"


@dataclass
class StudyData:
    """Features and labels of the three splits, each (rows, in_features) and (rows,)."""

    train: tuple[Any, NDArray[np.int64]]
    validation: tuple[Any, NDArray[np.int64]]
    test: tuple[Any, NDArray[np.int64]]

    def fingerprint(self) -> str:
        """SHA-256 of every feature and label."""
        digest = hashlib.sha256()
        for features, labels in (self.train, self.validation, self.test):
            digest.update(f"{features.shape}".encode())
            digest.update(np.ascontiguousarray(features).data)
            digest.update(np.ascontiguousarray(labels, dtype=np.int64).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Plan:
    """How every cell of a study is trained.

    Args:
        config: fields of `CRConfig` that all heads share.
        training: of the recipe: `learning_rate`, `weight_decay`, `num_train_epochs`, `per_device_train_batch_size`
            and `lr_scheduler_type`.
        seeds: from 0.
        search_seeds: the first so many try every setting; the others train the chosen one alone.
    """

    config: dict[str, Any]
    training: dict[str, Any]
    seeds: int
    search_seeds: int

    def schedule(self, rows: int, fraction: float) -> SweepArguments:
        """Epochs and batch size of a fraction, the same for every head.

        With fewer rows the batches shrink and the epochs grow, so that a few hundred steps are left: the recipe's
        epochs times fraction**-0.4, and a power of two near rows / 13, from 16 to the recipe's batch size.
        """
        fitting = 2 ** round(np.log2(max(1, rows / 13)))
        return SweepArguments(
            num_train_epochs=round(self.training["num_train_epochs"] * fraction**-0.4),
            batch_size=int(min(self.training["per_device_train_batch_size"], max(16, fitting))),
            lr_scheduler_type=self.training["lr_scheduler_type"],
        )


class CellStore:
    """The cells of one study in a folder.

    Args:
        folder: of the study, made if it is not there.
        declared: all that the study is made from, its features included, as JSON has it.

    Raises:
        RecipeError: if the folder holds another study; the message names what differs.
    """

    def __init__(self, folder: Path, declared: dict[str, Any]) -> None:
        self.folder = folder
        declared = json.loads(json.dumps({"format": FORMAT, **declared}))
        self.fingerprint = hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()
        path = folder / DECLARED
        if path.is_file():
            found = _read(path)
            for name in sorted({*declared, *found}):
                if found.get(name) != declared.get(name):
                    raise RecipeError(f"--output {folder} holds another study ({name} differs): choose another folder")
        elif (folder / "study.json").exists():
            raise RecipeError(f"--output {folder} holds a study without {DECLARED}: choose another folder")
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        write_json(path, declared)

    def load(self, head: str, fraction: float) -> dict[str, Any] | None:
        """A cell, or `None` if it is not there yet.

        Raises:
            CheckpointError: if its file is damaged or of another study.
        """
        path = self._path(head, fraction)
        if not path.is_file():
            return None
        cell = _read(path)
        if cell.get("fingerprint") != self.fingerprint:
            raise CheckpointError(f"{path} is of another study: remove it, and it is made again")
        return cell

    def save(self, head: str, fraction: float, cell: dict[str, Any]) -> dict[str, Any]:
        """Keep a cell, and return it as it will be read."""
        write_json(self._path(head, fraction), {"fingerprint": self.fingerprint, **cell})
        return _read(self._path(head, fraction))

    def _path(self, head: str, fraction: float) -> Path:
        return self.folder / CELLS / f"{head}_{fraction:g}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it, and it is made again") from error


def pack_hits(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Hits of shape (seeds, rows) as text, one bit each."""
    return {"shape": list(hits.shape), "bits": base64.b64encode(np.packbits(hits).tobytes()).decode()}


def unpack_hits(packed: dict[str, Any]) -> NDArray[np.float64]:
    """What `pack_hits` packed, as numbers 0 and 1."""
    seeds, rows = packed["shape"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["bits"]), np.uint8), count=seeds * rows)
    return bits.reshape(seeds, rows).astype(np.float64)


def train_cell(name: str, data: StudyData, plan: Plan, fraction: float) -> dict[str, Any]:
    """One head at one fraction: the settings tried on dev with the first seeds, the chosen one measured on test.

    Args:
        name: out of `HEADS`.
        data: features and labels.
        plan: of the study.
        fraction: of the training rows; every seed has its own stratified subset.

    Returns:
        Everything of the cell that `study.json`, tables and plots need, and the hits on test.
    """
    started = time.monotonic()
    head, labels = HEADS[name], data.train[1]
    size = round(fraction * len(labels))
    subsets = [np.sort(stratified_order(labels, seed)[:size]) for seed in range(plan.seeds)]
    arguments = plan.schedule(size, fraction)
    searchers = range(plan.search_seeds)
    tried = train_settings(head, head.settings, searchers, subsets, data, plan, arguments)
    kept, chosen, dev = best_setting(tried, len(head.settings))
    rest = range(plan.search_seeds, plan.seeds)
    kept += train_settings(head, head.settings[chosen : chosen + 1], rest, subsets, data, plan, arguments)
    is_network = head.estimator is None
    return {
        "rows": size,
        "epochs": arguments.num_train_epochs if is_network else None,
        "batch_size": arguments.batch_size if is_network else None,
        "tried": [
            {**setting, "dev_accuracy": float(mean), "dev_deviation": float(deviation)}
            for setting, mean, deviation in zip(head.settings, dev.mean(1), dev.std(1, ddof=1), strict=True)
        ],
        "chosen": chosen,
        "dev_accuracies": [dev_accuracy(result) for result in kept],
        **(_measure if is_network else _measure_estimators)(kept, *data.test),
        "seconds": time.monotonic() - started,
    }


def train_settings(
    head: Head,
    settings: Sequence[dict[str, float]],
    seeds: Sequence[int],
    subsets: Sequence[NDArray[np.int64]],
    data: StudyData,
    plan: Plan,
    arguments: SweepArguments,
) -> list[Any]:
    """Every setting of a head with every seed, on the rows of the seed's subset: setting by setting, seed by seed.

    Returns:
        `HeadResult`s, or `FittedEstimator`s of a head that is no network.
    """
    if head.estimator is not None:
        return fit_settings(head.estimator, settings, seeds, subsets, data.train, data.validation)
    shared = {name: plan.training[name] for name in ("learning_rate", "weight_decay")}
    shared |= {"dreg_lambda": 0.0, "dreg_schedule": head.schedule}
    specs = []
    for setting, seed in product(settings, seeds):
        own = {"dreg_lambda" if name == "penalty" else name: value for name, value in setting.items()}
        specs.append(HeadSpec(**{**shared, "seed": seed, "train_indices": subsets[seed], **own}))
    if not specs:
        return []
    return train_heads(
        *data.train, specs, CRConfig(**{**plan.config, **head.fields}), arguments,
        validation_features=data.validation[0], validation_labels=data.validation[1],
        group_type=HeadGroup if head.penalty is None else PENALTIES[head.penalty],
    )  # fmt: skip


def best_setting(results: Sequence[Trained], settings: int) -> tuple[list[Trained], int, NDArray[np.float64]]:
    """The heads of the setting with the best mean accuracy on dev, of equal ones the first.

    Args:
        results: setting by setting, seed by seed.
        settings: how many.

    Returns:
        Its heads, its number, and every accuracy, shape (settings, seeds).
    """
    dev = np.array([dev_accuracy(result) for result in results]).reshape(settings, -1)
    chosen, seeds = int(dev.mean(1).argmax()), dev.shape[1]
    return list(results[chosen * seeds : (chosen + 1) * seeds]), chosen, dev


def dev_accuracy(result: HeadResult | FittedEstimator) -> float:
    """The dev accuracy of the epoch that is kept; 0 where no epoch had finite logits."""
    return 0.0 if result.best_epoch is None else result.accuracies[result.best_epoch]


def _measure(kept: Sequence[HeadResult], features: Any, labels: NDArray[np.int64]) -> dict[str, Any]:
    """The chosen setting on the test rows, seed by seed."""
    predicted = scipy.special.log_softmax(predict_heads(kept, features).double().numpy(), axis=-1)
    hits = predicted.argmax(-1) == labels
    rows = torch.from_numpy(np.array(features))
    modules = [result.head() for result in kept]
    norms = [input_gradient_norms(module, rows).cpu().numpy() for module in modules]
    has_coefficients = "layers.0.coefficients" in kept[0].state
    return {
        "test_accuracies": hits.mean(1).tolist(),
        "gradient_tail_ratios": [gradient_tail_ratio(values) for values in norms],
        "peak_gradients": [float(values.max()) for values in norms],
        "non_linearities": [non_linearity(module, rows) for module in modules],
        "expected_calibration_errors": [ExpectedCalibrationError.score(one, labels) for one in predicted],
        "reliability": reliability(predicted, hits),
        "coefficients": kept[0].state["layers.0.coefficients"].tolist() if has_coefficients else None,
        "hits": pack_hits(hits),
        "parameters": sum(value.numel() for value in modules[0].parameters()),
    }


def _measure_estimators(kept: Sequence[FittedEstimator], features: Any, labels: NDArray[np.int64]) -> dict[str, Any]:
    """`_measure`, without what only a network has; without calibration too where there are no probabilities."""
    hits = np.stack([fitted.pipeline.predict(np.asarray(features)) == labels for fitted in kept])
    found = [log_probabilities(fitted, features) for fitted in kept]
    known = [one for one in found if one is not None]
    networks_only = ("gradient_tail_ratios", "peak_gradients", "non_linearities", "coefficients", "parameters")
    return {
        "test_accuracies": hits.mean(1).tolist(),
        **dict.fromkeys(networks_only),
        "expected_calibration_errors": [ExpectedCalibrationError.score(one, labels) for one in known] or None,
        "reliability": reliability(np.stack(known), hits) if known else None,
        "hits": pack_hits(hits),
    }


def reliability(log_probabilities: NDArray[np.float64], hits: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Confidence against accuracy in the bins of the expected calibration error, all seeds together.

    Args:
        log_probabilities: shape (seeds, rows, num_labels).
        hits: shape (seeds, rows).

    Returns:
        For each bin that is not empty its `share` of the predictions, mean `confidence` and `accuracy`.
    """
    confidence, hit = np.exp(log_probabilities.max(-1)).ravel(), hits.ravel()
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    return [
        {
            "share": float((bins == number).mean()),
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(hit[bins == number].mean()),
        }
        for number in np.unique(bins)
    ]


def declared_settings(heads: Sequence[str]) -> dict[str, Any]:
    """What the named heads are, for the declaration of a study."""
    return {name: asdict(HEADS[name]) for name in heads}
