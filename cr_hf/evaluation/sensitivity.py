"""How sensitive, how curved and how calibrated a head is on given rows, most of it without labels.

Every gradient is by the normalised features, without dropout. The papers leave their gradient and their measures
open; the definitions here are this package's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import DataError
from ..files import Json
from ..modeling import CRConfig, CRHead, configured_loss, network_dreg
from .lipschitz import certified_shares, largest_slope_found, lipschitz_bound
from .metrics import ExpectedCalibrationError, NegativeLogLikelihood
from .statistics import bootstrap_interval

OUTPUTS = ("margin", "logit", "loss")
CHUNK_ROWS = 1024
GRADIENT_RESAMPLES = 1000
TINY = float(np.finfo(np.float64).tiny)
LINE_POINTS = 33
LINES = 128


# ---- gradients ----


def input_gradient_norms(
    head: CRHead, features: Tensor, output: str = "margin", labels: Tensor | None = None
) -> Tensor:
    """L2 norm of the gradient of an output by the normalised features, row by row.

    Args:
        head: a fitted head.
        features: raw, shape (rows, in_features), on any device.
        output: `"margin"` (top logit minus second), `"logit"` (top logit) or `"loss"` (task loss of the row).
        labels: of the rows, in the form of the problem type; for `"loss"` alone.

    Returns:
        Shape (rows,), on the head's device.

    Raises:
        DataError: if there is no row, or a feature is not finite.
        ValueError: if the output is unknown, needs labels, or needs more logits than there are.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output={output!r} is unknown: use one of {', '.join(OUTPUTS)}")
    if output == "loss" and labels is None:
        raise ValueError("output='loss' needs labels: give them, or use output='margin'")
    if output == "margin" and head.config.num_labels == 1:
        raise ValueError("output='margin' needs two logits or more: use output='logit'")
    norms = []
    for number, batch in enumerate(_normalised(head, features)):
        own = None if labels is None else labels.split(CHUNK_ROWS)[number].to(batch.device)
        with torch.enable_grad():
            values = _outputs(head, batch.requires_grad_(), output, own)
            (gradient,) = torch.autograd.grad(values.sum(), batch)
        norms.append(torch.linalg.vector_norm(gradient, dim=-1))
    return torch.cat(norms)


@torch.no_grad()
def _normalised(head: CRHead, features: Tensor) -> Iterator[Tensor]:
    """Normalised features in chunks, in the head's dtype and on its device."""
    if not len(features):
        raise DataError("there are no rows to diagnose: give at least one")
    for start in range(0, len(features), CHUNK_ROWS):
        rows = features[start : start + CHUNK_ROWS].to(head.readout.weight)
        if not torch.isfinite(rows).all():
            row = start + int((~torch.isfinite(rows)).any(1).nonzero()[0])
            raise DataError(f"row {row} of the features holds NaN or infinity: mend it or leave it out")
        yield head.feature_norm(rows)


def _outputs(head: CRHead, normalised: Tensor, output: str, labels: Tensor | None) -> Tensor:
    """The output that is differentiated; its sum over rows is what counts."""
    with torch.autocast(normalised.device.type, enabled=False):
        logits = head.trace(normalised).logits
    if output == "loss" and labels is not None:
        return len(logits) * configured_loss(head.config, logits, labels)
    return top_output(logits, output)


def top_output(logits: Tensor, output: str) -> Tensor:
    """The margin (top logit minus second) or the top logit of each row, shape (rows,)."""
    top = logits.topk(2 if output == "margin" else 1, dim=-1).values
    return top[:, 0] - top[:, 1] if output == "margin" else top[:, 0]


def default_output(config: CRConfig) -> str:
    """The output whose gradient is looked at first: the margin, or the logit where classes do not compete."""
    return "margin" if config.problem_type == "single_label_classification" else "logit"


def gradient_tail_ratio(norms: ArrayLike) -> float:
    """99th percentile over mean of gradient norms, shape (rows,): the tail ratio tau; NaN where every gradient is 0.

    Source: arXiv 2606.07908 has a tail ratio; whose gradient it takes is open.
    """
    values = np.asarray(norms, dtype=np.float64)
    return float(tail_ratios(values)) if values.any() else math.nan


def tail_ratios(norms: NDArray[np.float64], axis: int = -1) -> Any:
    """99th percentile over mean of gradient norms along an axis; 0 where every gradient is 0."""
    return np.quantile(norms, 0.99, axis=axis) / np.maximum(norms.mean(axis=axis), TINY)


def summarise_gradients(norms: ArrayLike) -> Json:
    """Mean, tail ratio and peak (largest) of gradient norms; 95 % percentile bootstrap intervals, 1000 resamples."""
    values = np.asarray(norms, dtype=np.float64)

    def interval(statistic: Callable[..., Any]) -> list[float]:
        if len(values) < 2 or not np.isfinite(values).all():
            return [float(statistic(values, axis=-1))] * 2
        return list(bootstrap_interval(values, 0, GRADIENT_RESAMPLES, statistic=statistic))

    return {
        "mean": float(values.mean()),
        "tail_ratio": gradient_tail_ratio(values),
        "tail_ratio_interval": interval(tail_ratios),
        "peak": float(values.max()),
        "peak_interval": interval(np.max),
    }


# ---- what the polynomials do ----


@torch.no_grad()
def non_linearity(head: CRHead, features: Tensor) -> float:
    """How far the activations are from straight lines on raw features, from 0 (linear, or no layers) to 1.

    1 - R**2 of the best line from z to p(z) of every unit: the squared residuals over the squared deviations of p(z),
    each summed over rows, units and layers.
    """
    batches = [head.trace(normalised).pre_activations for normalised in _normalised(head, features)]
    residual = total = 0.0
    for layer, parts in zip(head.layers, zip(*batches, strict=True), strict=True):
        z = torch.cat(parts)
        value = layer.activate(z)[0].double()
        z, value = z.double() - z.double().mean(0), value - value.mean(0)
        spread, squares = z.square().sum(0), value.square().sum(0)
        explained = (z * value).sum(0).square() / torch.where(spread > 0, spread, 1.0)
        residual += float((squares - explained).clamp_min(0).sum())
        total += float(squares.sum())
    return residual / total if total > 0 else 0.0


@torch.no_grad()
def dreg_per_layer(head: CRHead, features: Tensor) -> list[float]:
    """DREG of every layer over raw features (mode `layer`), the readout last."""
    total = torch.zeros(len(head.weights), dtype=torch.float64)
    for normalised in _normalised(head, features):
        derivatives = [*head.trace(normalised).derivatives, None]
        total += network_dreg(derivatives, head.weights).double().cpu() * len(normalised)
    return (total / len(features)).tolist()


@torch.no_grad()
def curvature(head: CRHead, features: Tensor) -> float:
    """How much the logits bend on the straight lines between examples.

    On the line from one example to another, both normalised, t from 0 to 1: the integral of |f''(t)| over that of
    |f'(t)|, by differences at 33 points, averaged over at most 128 random pairs. 0 for a linear head; 1 where
    the change of f's velocity along the line adds up to its mean speed. Of a cumulative link f is the score.

    Args:
        head: a fitted head.
        features: raw, shape (rows, in_features), at least two rows.

    Returns:
        The mean; NaN where no two examples have different logits.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(len(features), generator=generator)[: 2 * LINES]
    # In float32 the second differences would show its rounding.
    double = copy.deepcopy(head).double()
    chosen = torch.cat(list(_normalised(double, features[order.to(features.device)])))
    steps = torch.linspace(0, 1, LINE_POINTS, dtype=torch.float64, device=chosen.device)
    ratios = []
    for start, end in zip(chosen[0::2], chosen[1::2], strict=False):
        speed = double.trace(torch.lerp(start, end, steps[:, None])).scores.diff(dim=0)
        length = torch.linalg.vector_norm(speed, dim=-1).sum()
        bend = torch.linalg.vector_norm(speed.diff(dim=0), dim=-1).sum() * (LINE_POINTS - 1)
        if length > 0:
            ratios.append(float(bend / length))
    return float(np.mean(ratios)) if ratios else math.nan


# ---- calibration ----


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimises the negative log-likelihood of `logits / T`, between e**-5 and e**5.

    Args:
        logits: shape (rows, num_labels); of validation rows.
        labels: class indices, shape (rows,).

    Source: Guo et al. (2017), On calibration of modern neural networks.
    """
    scores, references = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)

    def loss(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(scores / math.exp(log_temperature), axis=-1)
        return NegativeLogLikelihood.score(scaled, references)

    found = scipy.optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def calibration(logits: ArrayLike, labels: ArrayLike, temperature: float) -> dict[str, float]:
    """Expected calibration error as it is, and with the logits divided by a temperature that was fitted on dev."""
    scores, references = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)

    def error(divisor: float) -> float:
        return ExpectedCalibrationError.score(scipy.special.log_softmax(scores / divisor, axis=-1), references)

    return {
        "expected_calibration_error": error(1.0),
        "temperature": temperature,
        "expected_calibration_error_at_temperature": error(temperature),
    }


# ---- all of it ----


def diagnose_features(
    head: CRHead, features: Tensor, labels: Tensor | None = None, linear: CRHead | None = None
) -> Json:
    """Every diagnostic of a head on given rows, ready for JSON.

    Args:
        head: a fitted head.
        features: raw, shape (rows, in_features).
        labels: of the rows, for the gradient of the loss and the certified accuracy.
        linear: a linear head trained on features of the same kind. A tail ratio means little without it: a linear
            head's is near 1 by construction.

    Returns:
        `rows`; `gradients`, by output (`margin, logit`, with labels also `loss`) what `summarise_gradients` returns;
        `linear`, the same of the linear head for the default output, or `None`; `non_linearity, curvature, dreg` (a
        list, the readout last); `lipschitz_bound, lipschitz_bound_raw, largest_slope_found`, of the logits or,
        for a cumulative link, of the score (`lipschitz_of`). What is not finite is `None`.

    Raises:
        DataError: if there is no row, or a feature is not finite.
    """
    first = default_output(head.config)
    outputs = [first, *([] if first == "logit" else ["logit"]), *([] if labels is None else ["loss"])]
    gradients = {
        output: summarise_gradients(input_gradient_norms(head, features, output, labels).cpu()) for output in outputs
    }
    found = {
        "rows": len(features),
        "gradients": gradients,
        "linear": None if linear is None else summarise_gradients(input_gradient_norms(linear, features, first).cpu()),
        "non_linearity": non_linearity(head, features),
        "curvature": curvature(head, features),
        "dreg": dreg_per_layer(head, features),
        "lipschitz_of": "logits" if head.thresholds is None else "score",
        "lipschitz_bound": lipschitz_bound(head),
        "lipschitz_bound_raw": lipschitz_bound(head, raw=True),
        "largest_slope_found": largest_slope_found(head, features),
        "certified": certified_shares(head, features, labels),
    }
    return {name: _finite(value) for name, value in found.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
