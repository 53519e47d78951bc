"""What is asked of the classes of a training set before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def normalized_class_weights(weights: Sequence[float] | str, counts: Sequence[int]) -> list[float]:
    """Scale class weights to mean 1 over a training set.

    Args:
        weights: one per class, at least 0; a text (`"balanced"`) for the reciprocals of the counts, 0 for no row.
        counts: training rows of each class.

    Returns:
        The weights times one constant, so that sum_y counts_y w_y = sum_y counts_y.

    Raises:
        ValueError: if the lengths differ, a weight is negative or not finite, or the mean is 0.
    """
    if isinstance(weights, str):
        weights = [0.0 if count == 0 else 1 / count for count in counts]
    if len(weights) != len(counts):
        raise ValueError(f"class_weights has {len(weights)} entries but there are {len(counts)} classes")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"class_weights={list(weights)} must be finite and 0 or above")
    total = sum(weight * count for weight, count in zip(weights, counts, strict=True))
    if not total > 0:
        raise ValueError(f"class_weights={list(weights)} give every training row the weight 0")
    return [weight * sum(counts) / total for weight in weights]


def check_class_labels(labels: Any, num_labels: int, objective: str) -> None:
    """Refuse labels that are no classes before a loss reads them.

    Args:
        labels: array, shape (rows,).
        num_labels: number of classes.
        objective: for the message.

    Raises:
        ValueError: naming the first row whose label is not an integer from 0 to num_labels - 1.
    """
    for row, label in enumerate(labels.tolist()):
        if not isinstance(label, int) or not 0 <= label < num_labels:
            kind = "ordered integers" if objective == "ordinal" else "integers"
            raise ValueError(
                f"row {row} of the training set has the label {label!r}: objective={objective!r} needs {kind} from 0 "
                f"to {num_labels - 1}"
            )
