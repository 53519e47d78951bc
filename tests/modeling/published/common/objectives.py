"""Task losses and the ordinal output, in plain torch.

Every loss is a mean over the rows of the batch, weights included, so that splitting a batch changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OBJECTIVES = ("cross_entropy", "ordinal")
MINIMUM_GAP = 1e-4


class OrderedThresholds(nn.Module):
    """Thresholds of a cumulative link model, increasing by construction.

    Args:
        num_labels: number of ordered classes K, at least 2.

    Attributes:
        first: the lowest threshold, shape (1,).
        gaps: distances between neighbours before softplus, shape (K - 2,).
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        if num_labels < 2:
            raise ValueError(
                f"num_labels={num_labels} is too few: the ordinal objective needs 2 ordered classes or more"
            )
        self.num_labels = num_labels
        self.first = nn.Parameter(torch.empty(1))
        self.gaps = nn.Parameter(torch.empty(num_labels - 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start where a score of 0 gives every class the same probability."""
        quantiles = [math.log(k / (self.num_labels - k)) for k in range(1, self.num_labels)]
        nn.init.constant_(self.first, quantiles[0])
        if getattr(self.gaps, "_is_hf_initialized", False):
            return
        with torch.no_grad():
            for gap, low, high in zip(self.gaps, quantiles[:-1], quantiles[1:], strict=True):
                nn.init.constant_(gap, math.log(math.expm1(high - low - MINIMUM_GAP)))

    def forward(self) -> Tensor:
        """The thresholds, lowest first, shape (num_labels - 1,)."""
        steps = F.softplus(self.gaps) + MINIMUM_GAP
        return torch.cat([self.first, self.first + steps.cumsum(0)])


def ordinal_log_probabilities(score: Tensor, thresholds: Tensor) -> Tensor:
    """Class log-probabilities of the cumulative link (proportional odds) model.

    P(y <= k) = sigmoid(threshold_k - score). The log of each difference is taken without ever subtracting two
    probabilities, so it is finite for any finite score.

    Args:
        score: shape (..., 1).
        thresholds: increasing, shape (num_labels - 1,).

    Returns:
        Log-probabilities, shape (..., num_labels); softmax over them gives the probabilities back.

    Source: McCullagh (1980), Regression models for ordinal data; the stable form is this package's own.
    """
    distance = thresholds - score
    below, above = F.logsigmoid(distance), F.logsigmoid(-distance)
    # Far from zero, rounding can merge neighbouring thresholds: their class gets a tiny probability, not log 0.
    gaps = (thresholds[1:] - thresholds[:-1]).clamp_min(torch.finfo(thresholds.dtype).tiny)
    between = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([below[..., :1], between, above[..., -1:]], dim=-1)


def median_class(probabilities: Tensor) -> Tensor:
    """The median of each row's class distribution: the prediction that minimises expected absolute error.

    Args:
        probabilities: over ordered classes, shape (..., num_labels).

    Returns:
        Class indices, shape (...).
    """
    return (probabilities.cumsum(-1)[..., :-1] < 0.5).sum(-1)


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


def task_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    pos_weight: Sequence[float] | None = None,
) -> Tensor:
    """The loss without DREG, a mean over the rows of the batch.

    Args:
        logits: shape (batch, num_labels). Under the ordinal objective these are log-probabilities, so that
            cross-entropy is the exact negative log-likelihood.
        labels: class indices (batch,) for single_label_classification; targets (batch,) or (batch, num_labels) for
            regression; zeros and ones (batch, num_labels) for multi_label_classification.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`.
        class_weights: one factor per class, mean 1 over the training set; single_label_classification only.
        label_smoothing: share of the target spread over all classes; single_label_classification only.
        pos_weight: factor of the positive targets of each label; multi_label_classification only.

    Returns:
        Scalar.

    Raises:
        ValueError: if regression labels and logits disagree in shape (torch would broadcast them).
    """
    if problem_type == "regression":
        targets = labels.unsqueeze(-1) if labels.ndim == 1 else labels
        if targets.shape != logits.shape:
            raise ValueError(
                f"regression labels have shape {tuple(labels.shape)} but logits have {tuple(logits.shape)}: "
                "give num_labels targets per row"
            )
        return F.mse_loss(logits, targets.to(logits.dtype))
    if problem_type == "multi_label_classification":
        positive = None if pos_weight is None else logits.new_tensor(pos_weight)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=positive)
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if class_weights is not None:
        losses = losses * logits.new_tensor(class_weights)[labels]
    return losses.mean()
