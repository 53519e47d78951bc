"""Few labels: so many rows a class, and nothing else to choose settings by.

A setting is chosen by stratified cross-validation inside the subset, for each subset on its own. No head sees a dev
split: its training has a fixed number of steps, and the last one is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runs import Recipe, training_arguments
from .arms import HEADS, LAST_EPOCH, Arm, Setting
from .cells import StudyData, measure, predict_classes, train_settings
from .results import Cell, Tried

FOLDS = 4
STEPS, BATCH = 100, 32
# A linear map starts far from the weights that a few columns need, and its lambda pulls it back where there are many.
LEARNING_RATE, LINEAR_RATE = 1e-3, 1e-2


def draw_shots(labels: NDArray[np.int64], shots: int, seed: int) -> NDArray[np.int64]:
    """So many rows of each class, drawn by the seed; with fewer shots a part of the same rows."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([shuffled[labels[shuffled] == label][:shots] for label in np.unique(labels)]))


def split_folds(labels: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Positions of each fold of a stratified cross-validation: 4 folds, or as many as the smallest class has rows."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    count = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    place = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = np.arange(len(members)) % count
    return [np.flatnonzero(place == fold) for fold in range(count)]


def few_steps(recipe: Recipe, arm: Arm) -> dict[str, Any]:
    """Overrides of the recipe for few labels, the same for every network but for a linear map's learning rate."""
    batch = training_arguments(recipe, Path(recipe.output_dir)).per_device_train_batch_size
    rate = LINEAR_RATE if arm.overrides.get("hidden_sizes") == [] else LEARNING_RATE
    own = {"max_steps": STEPS, "per_device_train_batch_size": min(BATCH, batch), "learning_rate": rate}
    return {**own, "head_learning_rate": None, **LAST_EPOCH}


def train_few(
    arm: Arm, settings: Sequence[Setting], subsets: Sequence[NDArray[np.int64]], data: StudyData
) -> tuple[list[Any], NDArray[np.float64]]:
    """One head a subset, with the setting that is best in cross-validation inside it; of equal ones the first.

    Args:
        arm: the head.
        settings: what is tried.
        subsets: training rows, one array a seed, from seed 0.
        data: its dev split is not looked at.

    Returns:
        The heads, and the accuracies of all settings, shape (settings, subsets).
    """
    features, labels = data.train
    blind = replace(data, validation=(features[:1], labels[:1]))
    scaled = few_steps(data.recipe, arm)
    kept, accuracies = [], np.empty((len(settings), len(subsets)))
    for seed, rows in enumerate(subsets):
        folds = split_folds(labels[rows], seed)
        parts = [np.delete(rows, fold) for fold in folds]
        tried = train_settings(arm, settings, range(len(folds)), parts, blind, scaled)
        right = np.zeros(len(settings))
        for number, fold in enumerate(folds):
            found = predict_classes([heads[number] for heads in tried], features[rows[fold]])
            right += (found == labels[rows[fold]]).sum(1)
        accuracies[:, seed] = right / len(rows)
        best = settings[int(right.argmax())]
        kept += train_settings(arm, [best], [seed], subsets, blind, scaled)[0]
    return kept, accuracies


def train_few_cell(name: str, data: StudyData, seeds: int, fraction: float) -> Cell:
    """`train_cell` at `fraction` labels a class: every seed draws its own, and chooses its own setting."""
    started = time.monotonic()
    arm = HEADS[name]
    subsets = [draw_shots(data.train[1], int(fraction), seed) for seed in range(seeds)]
    kept, accuracies = train_few(arm, arm.settings, subsets, data)
    choices = accuracies.argmax(0)
    spread = zip(arm.settings, accuracies.mean(1).tolist(), accuracies.std(1, ddof=1).tolist(), strict=True)
    measured = {**measure(kept, data.test), "epochs": None}
    return Cell(
        rows=len(subsets[0]),
        tried=[Tried(*one) for one in spread],
        chosen=int(np.bincount(choices).argmax()),
        choices=choices.tolist(),
        dev_accuracies=accuracies.max(0).tolist(),
        **measured,
        seconds=time.monotonic() - started,
    )
