"""How steep a head can be, everywhere and as far as a search finds, and what is certain of its predictions.

Slopes are of the Jacobian of the logits by the normalised features, in the spectral norm: the largest change of the
logits per change of the features, both in L2. Of a cumulative link they are of the score, before the
thresholds.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from ..data import SINGLE
from ..modeling import CRHead, Standardize, certified_radius, largest_slopes, spectral_norm
from .statistics import sample_rows

# Far above what rounding adds to a product of float64 spectral norms, far below what anybody reads.
ROUNDING = 1 + 1e-9
AT_ONCE = 4096
CERTIFIED_AT = (0.1, 0.2, 0.5, 1.0)
"""Radii, in normalised features, at which certified accuracy is stated."""
CERTIFIED_OPERATIONS, FEWEST_CERTIFIED = 3e11, 100
"""Floating-point operations for the certificates of some rows, ten seconds or so, and the rows that are never less."""


class CertifiedShares(TypedDict):
    """How many of some rows are certain, by radius.

    Args:
        rows: how many were looked at.
        unchanged: the share whose class cannot change.
        accuracy: the share that is right too; where labels are known.
    """

    rows: int
    unchanged: dict[str, float]
    accuracy: NotRequired[dict[str, float]]


def affordable_rows(head: CRHead) -> int:
    """For how many rows certificates are affordable: for all but very many, unless the layers are very wide."""
    first, *others = (layer.linear.weight for layer in head.layers) if head.layers else (head.readout.weight,)
    columns = min(first.shape)
    # For every row the Jacobian of a layer, and its product with itself.
    operations = sum(2 * weight.numel() * columns + 2 * len(weight) ** 2 * columns for weight in others)
    return max(FEWEST_CERTIFIED, int(CERTIFIED_OPERATIONS / max(operations, first.numel())))


@torch.no_grad()
def certified_shares(head: CRHead, features: Tensor, labels: Tensor | None = None) -> CertifiedShares | None:
    """How many predictions are certain to stay as they are while the features move; see `certified_radius`.

    Args:
        head: a fitted head.
        features: raw, shape (rows, in_features). Of more than `affordable_rows` a random sample is looked at.
        labels: class indices, shape (rows,), for the accuracy.

    Returns:
        By radius (`CERTIFIED_AT`, in normalised features) the shares. `None` for a head without classes of which one
        is right.
    """
    if head.config.problem_type != SINGLE:
        return None
    sample = torch.from_numpy(sample_rows(len(features), affordable_rows(head)))
    features = features[sample].to(head.readout.weight)
    radii = certified_radius(head, features)

    def share(rows: Tensor) -> dict[str, float]:
        return {f"{radius:g}": float((rows & (radii >= radius)).double().mean()) for radius in CERTIFIED_AT}

    found = CertifiedShares(rows=len(sample), unchanged=share(torch.ones(len(features), dtype=torch.bool)))
    if labels is not None:
        predicted = torch.cat([head(rows)[0].argmax(-1) for rows in features.split(AT_ONCE)])
        found["accuracy"] = share((predicted == labels[sample].to(features.device)).cpu())
    return found


def lipschitz_bound(head: CRHead, raw: bool = False) -> float:
    """An upper bound of the slope of a head, for every input.

    The product over layers of the float64 spectral norm of `diag(s) W`, where s_i is the largest |p_i'| between the
    linear tails, times the readout's. No two inputs can differ more in their logits (of a cumulative link: in
    their score) than this times their distance. The margin of two logits is at most sqrt(2) times as steep.

    Infinite for polynomials without linear tails, and by raw features under `layer_norm`.

    Args:
        head: a head, fitted if `raw`.
        raw: bound it by the raw features instead of the normalised ones.

    Source: the product of layer norms is that of Szegedy et al. (2014).
    """
    scale: Tensor | float = 1.0
    if raw:
        if not isinstance(head.feature_norm, Standardize):
            return math.inf
        scale = head.feature_norm.scale.double()
    return _bound(head, head.readout.weight, scale)


def margin_slope_bound(head: CRHead) -> float:
    """`lipschitz_bound` of the margin of the two classes where it is steepest; of a cumulative link's score."""
    weight = head.readout.weight.detach()
    pairs = [weight[i] - weight[j] for i in range(len(weight)) for j in range(i)] or [weight[0]]
    return _bound(head, max(pairs, key=lambda pair: float(pair.norm()))[None])


def _bound(head: CRHead, readout: Tensor, scale: Tensor | float = 1.0) -> float:
    bound = ROUNDING
    for layer in head.layers:
        slopes = largest_slopes(layer)
        if not torch.isfinite(slopes).all():
            return math.inf
        bound *= spectral_norm(slopes[:, None] * layer.linear.weight.detach().double() * scale)
        scale = 1.0
    return bound * spectral_norm(readout.detach().double() * scale)


def largest_slope_found(
    head: CRHead, features: Tensor | None = None, starts: int = 32, steps: int = 100, seed: int = 0
) -> float:
    """The largest slope of a head that a search finds: a lower bound of its true Lipschitz constant.

    Gradient ascent (Adam, in float64) on the spectral norm of the Jacobian of the logits by the normalised features,
    from random points and from examples. ReLU's slope has no gradient to climb: there only the starts are looked at.

    Args:
        head: a fitted head.
        features: raw, shape (rows, in_features); half of the starts are rows of it. `None`: all are random.
        starts: points that climb.
        steps: of the ascent.
        seed: of the random starts and the choice of rows.

    Returns:
        The largest norm met on the way, never above `lipschitz_bound`.
    """
    double = copy.deepcopy(head).double().requires_grad_(False).eval()
    generator = torch.Generator("cpu").manual_seed(seed)
    width = head.config.in_features
    points = torch.randn(starts, width, generator=generator, dtype=torch.float64, device="cpu")
    # From among the examples to where the tails begin.
    points *= torch.logspace(-1, 1, starts, dtype=torch.float64, device="cpu")[:, None]
    points = points.to(double.readout.weight.device)
    if features is not None:
        chosen = torch.randperm(len(features), generator=generator)[: starts // 2]
        rows = features[chosen.to(features.device)].to(points)
        points[: len(rows)] = double.feature_norm(rows)
    points.requires_grad_()
    ascent = torch.optim.Adam([points], lr=0.1, maximize=True)
    found = 0.0
    with torch.enable_grad():
        for _ in range(steps):
            slopes = _slopes(double, points)
            found = max(found, float(slopes.detach().max()))
            if not slopes.requires_grad:
                return found
            (points.grad,) = torch.autograd.grad(slopes.sum(), points)
            ascent.step()
    return max(found, float(_slopes(double, points.detach()).max()))


def _slopes(head: Any, points: Tensor) -> Tensor:
    """Spectral norm of the Jacobian at normalised features, shape (rows,), differentiable."""
    derivatives = head.trace(points).derivatives
    jacobian = head.readout.weight.expand(len(points), -1, -1)
    for layer, derivative in zip(reversed(head.layers), reversed(derivatives), strict=True):
        jacobian = (jacobian * derivative.unsqueeze(1)) @ layer.linear.weight
    with torch.no_grad():
        # At its top vector u the gradient of |u'J| is that of the norm itself, and no eigenvector is differentiated.
        top = torch.linalg.eigh(jacobian @ jacobian.mT).eigenvectors[..., -1:]
    return torch.linalg.vector_norm((top * jacobian).sum(1), dim=-1)
