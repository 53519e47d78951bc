"""Task losses and the output of a cumulative link, in plain torch.

Every loss is a mean over the rows of the batch, weights included, so that splitting a batch changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_cr import CRConfig

MINIMUM_GAP = 1e-4


class OrderedThresholds(nn.Module):
    """Thresholds of a cumulative link model, increasing by construction.

    Args:
        num_labels: number of ordered classes, at least 2.

    Attributes:
        first: the lowest threshold, shape (1,).
        gaps: distances between neighbours before softplus, shape (num_labels - 2,).
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        if num_labels < 2:
            raise ValueError(f"num_labels={num_labels} is too few: a cumulative link needs 2 ordered classes or more")
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
    """Class log-probabilities of the cumulative link (proportional odds) model, shape (..., num_labels).

    P(y <= k) = sigmoid(threshold_k - score). The log of each difference is taken without ever subtracting two
    probabilities, so it is finite for any finite score; softmax over the result gives the probabilities back.

    Args:
        score: shape (..., 1).
        thresholds: increasing, shape (num_labels - 1,).

    Source: McCullagh (1980), Regression models for ordinal data; the stable form is this package's own.
    """
    distance = thresholds - score
    below, above = F.logsigmoid(distance), F.logsigmoid(-distance)
    # Far from zero, rounding can merge neighbouring thresholds: their class gets a tiny probability, not log 0.
    gaps = (thresholds[1:] - thresholds[:-1]).clamp_min(torch.finfo(thresholds.dtype).tiny)
    between = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-gaps))
    return torch.cat([below[..., :1], between, above[..., -1:]], dim=-1)


def class_losses(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    soft_labels: float | None = None,
    squared_emd: float = 0.0,
) -> Tensor:
    """The loss of each row of a single-label classification, before class weights, shape (rows,).

    Args:
        logits: shape (rows, num_labels).
        labels: class indices, shape (rows,).
        label_smoothing: share of the target spread over all classes, 0.0 by default.
        soft_labels: g of the targets softmax(-g (class - label)**2) of ordered classes; `None` (default): the label
            alone is the target.
        squared_emd: weight of the squared earth mover's distance sum_k (P(y <= k) - 1[label <= k])**2, which makes far
            classes cost more than near ones; 0.0 by default.

    Source: Hou, Yu, Samaras (2016), Squared earth mover's distance-based loss for training deep neural networks.
    """
    distances = torch.arange(logits.shape[-1], device=logits.device) - labels.unsqueeze(-1)  # (rows, num_labels)
    if soft_labels is None:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    else:
        targets = (-soft_labels * distances.to(logits.dtype).square()).softmax(-1)
        losses = F.cross_entropy(logits, targets, reduction="none")
    if squared_emd:
        gaps = logits.softmax(-1).cumsum(-1) - (distances >= 0).to(logits.dtype)
        losses = losses + squared_emd * gaps.square().sum(-1)
    return losses


def check_classes(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels, shape (rows,), that are no classes of logits of shape (rows, num_labels).

    Values are looked at on the CPU alone: on other devices it would wait for them at every step.
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and {labels.dtype}, the logits {tuple(logits.shape)}: give one "
            "integer a row"
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or not len(labels):
        return
    most = logits.shape[-1] - 1
    wrong = next((value for value in map(int, labels.aminmax()) if not 0 <= value <= most), None)
    if wrong is not None:
        raise ValueError(f"a row of the batch has the label {wrong}: use integers from 0 to {most}")


def target_losses(
    logits: Tensor, targets: Tensor, problem_type: str, pos_weight: Sequence[float] | None = None
) -> Tensor:
    """The loss of each row of a regression, or of several labels at once: shape (...), of logits (..., num_labels)."""
    targets = targets.to(logits.dtype)
    if problem_type == "regression":
        return F.mse_loss(logits, targets, reduction="none").mean(-1)
    positive = None if pos_weight is None else logits.new_tensor(pos_weight)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=positive).mean(-1)


def configured_loss(config: CRConfig, logits: Tensor, labels: Tensor, row_weights: Tensor | None = None) -> Tensor:
    """`task_loss` with the problem type, weights and soft labels of a configuration."""
    return task_loss(
        logits,
        labels,
        str(config.problem_type),
        config.class_weights,
        config.label_smoothing,
        config.pos_weight,
        config.soft_labels,
        config.squared_emd,
        row_weights,
    )


def task_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    pos_weight: Sequence[float] | None = None,
    soft_labels: float | None = None,
    squared_emd: float = 0.0,
    row_weights: Tensor | None = None,
) -> Tensor:
    """The loss without DREG, a mean over the rows of the batch; scalar.

    Args:
        logits: shape (batch, num_labels). Of a cumulative link these are log-probabilities, so that cross-entropy is
            the exact negative log-likelihood.
        labels: class indices (batch,); targets (batch,) or (batch, num_labels) for regression; zeros and ones
            (batch, num_labels) for several labels at once.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`.
        class_weights: one factor per class, mean 1 over the training set; single_label_classification only.
        label_smoothing: share of the target spread over all classes; single_label_classification only.
        pos_weight: factor of the positive targets of each label; multi_label_classification only.
        soft_labels: see `class_losses`; single_label_classification only.
        squared_emd: see `class_losses`; single_label_classification only.
        row_weights: factor of the loss of each row, shape (batch,); `None` (default) for 1.
    """
    if problem_type == "regression":
        targets = labels.unsqueeze(-1) if labels.ndim == 1 else labels
        if targets.shape != logits.shape:
            raise ValueError(
                f"regression labels have shape {tuple(labels.shape)} but logits have {tuple(logits.shape)}: "
                "give num_labels targets per row"
            )
        losses = target_losses(logits, targets, problem_type)
    elif problem_type == "multi_label_classification":
        losses = target_losses(logits, labels, problem_type, pos_weight)
    else:
        check_classes(logits, labels)
        losses = class_losses(logits, labels, label_smoothing, soft_labels, squared_emd)
        if class_weights is not None:
            losses = losses * logits.new_tensor(class_weights)[labels]
    return (losses if row_weights is None else losses * row_weights.to(losses.dtype)).mean()
