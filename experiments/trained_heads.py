"""What the scripts that train heads share: arms of equal size, chosen on validation rows, and where they are right."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cr_hf import CRConfig
from cr_hf.study.cells import best_setting
from cr_hf.training.sweep import HeadResult, HeadSpec, SweepArguments, predict_heads, train_heads


@dataclass(frozen=True)
class Pixels:
    """Pixels from 0 to 1 as features, shape (rows, columns), and classes, shape (rows,), of three splits."""

    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    validation: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]


def as_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row an image."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def split_pixels(
    train: tuple[NDArray[np.uint8], NDArray[Any]], test: tuple[NDArray[np.uint8], NDArray[Any]], validation_rows: int
) -> Pixels:
    """The training images, a random part of them apart for validation (seed 0), and the test images."""
    order = np.random.default_rng(0).permutation(len(train[0]))
    parts = [order[validation_rows:], order[:validation_rows]]
    own, apart = ((as_features(train[0][rows]), train[1][rows].astype(np.int64)) for rows in parts)
    return Pixels(own, apart, (as_features(test[0]), test[1].astype(np.int64)))


def train_arm(
    pixels: Pixels,
    activation: str,
    hidden_sizes: list[int],
    settings: list[dict[str, float]],
    seeds: int,
    arguments: SweepArguments,
    shared: dict[str, float],
) -> tuple[list[HeadResult], dict[str, Any]]:
    """All settings and seeds of one arm; of the settings, the best by mean validation accuracy is kept.

    Args:
        pixels: the three splits.
        activation: of every layer.
        hidden_sizes: widths of the layers.
        settings: fields of `HeadSpec` that are tried.
        seeds: from 0.
        arguments: of the training.
        shared: fields of `HeadSpec` that all settings share.

    Returns:
        The heads of the kept setting, one a seed, and what is to be recorded of the arm.
    """
    config = CRConfig(
        in_features=pixels.train[0].shape[1], num_labels=10, hidden_sizes=hidden_sizes, activation=activation
    )
    specs = [HeadSpec(seed=seed, **{**shared, **setting}) for setting, seed in product(settings, range(seeds))]
    results = train_heads(
        *pixels.train,
        specs,
        config,
        arguments,
        validation_features=pixels.validation[0],
        validation_labels=pixels.validation[1],
    )
    kept, chosen, validation = best_setting(results, len(settings))
    record = {
        "hidden_sizes": hidden_sizes,
        "parameters": sum(value.numel() for value in kept[0].head().parameters()),
        "tried": [
            {**setting, "validation_accuracy": float(mean)}
            for setting, mean in zip(settings, validation.mean(1), strict=True)
        ],
        "setting": settings[chosen],
        "validation_accuracies": validation[chosen].tolist(),
        "best_epochs": [result.best_epoch for result in kept],
    }
    return kept, record


def hits_of(heads: list[HeadResult], features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 where a head is right, else 0, shape (len(heads), rows)."""
    return (predict_heads(heads, features, batch_size=1024).argmax(-1).numpy() == labels).astype(np.float64)
