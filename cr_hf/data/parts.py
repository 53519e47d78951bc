"""Parts of a split: classes of its rows, and the rows that are held out or left by a limit, in proportion."""

from __future__ import annotations

import json
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .config import DataConfig


def label_names_of(rows: datasets.Dataset) -> list[str] | None:
    """Class names of a split that `load_rows` returned; `None` for regression."""
    label = rows.features["label"]
    if isinstance(label, datasets.ClassLabel):
        return list(label.names)
    names: list[str] | None = json.loads(rows.info.description)
    return names


def stratified_order(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Rows of these labels in random order, such that every beginning of it has the classes in proportion.

    Row r of n of its class, in random order, stands at r / n of the way: the first rows are one of each class.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    way = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        way[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(way, kind="stable")]


def held_out_rows(strata: NDArray[Any], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rest of the rows and a part of them, at least one, that has the strata in proportion; both ascending."""
    order = stratified_order(strata, seed)
    size = len(order) - max(1, round(fraction * len(order)))
    return np.sort(order[:size]), np.sort(order[size:])


def _strata(rows: datasets.Dataset) -> NDArray[np.int64]:
    """What a part of the rows keeps in proportion: classes, sets of classes; of numbers nothing."""
    labels = np.asarray(rows["label"][:])
    if labels.ndim == 1:
        return labels
    if label_names_of(rows) is None:
        return np.zeros(len(labels), np.int64)
    return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def split_off(
    rows: datasets.Dataset, fraction: float, seed: int, name: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rest and a stratified part of the rows, at least one, both in the old order.

    Raises:
        DataError: with the name of the rows, if fewer than there are classes would be left.
    """
    strata = _strata(rows)
    rest, part = held_out_rows(strata, fraction, seed)
    is_single = isinstance(rows.features["label"], datasets.ClassLabel)
    if is_single and len(rest) < (classes := len(np.unique(strata))):
        raise DataError(
            f"{name}: {len(rows)} rows of {classes} classes are too few to split validation off: give more rows, or "
            "data.validation_file"
        )
    if not len(rest):
        raise DataError(f"{name}: 1 row of train cannot be split: set data.validation_file")
    return rows.select(rest), rows.select(part)


def subset(split: str, rows: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    """What the fraction and the limits of the configuration leave: stratified, in the old order."""
    size = config.max_eval_samples or len(rows)
    if split == "train":
        size = min(round(config.train_fraction * len(rows)), config.max_train_samples or len(rows))
        is_single = isinstance(rows.features["label"], datasets.ClassLabel)
        classes = len(set(rows["label"][:])) if is_single else 1
        if size < (max(classes, 2) if is_single else 1):
            mend = "raise data.train_fraction or lower data.validation_fraction"
            raise DataError(f"{size} rows of train are left for {classes} classes: {mend}")
    if size >= len(rows):
        return rows
    return rows.select(np.sort(stratified_order(_strata(rows), config.seed)[:size]))
