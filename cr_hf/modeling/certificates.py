"""Certified radii: how far normalised features can move, in L2, before the predicted class can change.

Near a row the margin of the predicted class over another is its tangent, and what a layer adds to the tangent is a
bend times the square of how far its pre-activations move. Within radius e each of them stays in a known interval, on
which the bend of its unit has a closed bound. So the margin falls by at most `slope * e + bend * e**2`, and the radius
is where that reaches the margin: the slope is the exact norm of the margin's gradient, the bend the largest eigenvalue
of a Gram matrix, bounded from above. Where the bound that holds everywhere, the product of the layers' slopes, is the
better one, it is taken. All in float64, but the Gram matrices; the method is this package's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import FIXED_ACTIVATIONS
from .head import CRHead
from .layer_jacobian import TINY, LayerJacobian
from .layers import CRLayer
from .objectives import ordinal_log_probabilities

PIECES = 32  # of all z, for the largest slopes
# Beyond it fixed activations are straight lines, and a score this far from the thresholds is of an outer class.
FAR = 40.0
CHUNK_NUMBERS = 2**22  # of the largest tensor
EVALUATIONS = 4
FIRST_STEP, NEXT_STEP = 0.5, 0.15
# Far above what rounding adds to sums in float64, far below what anybody reads: of slopes and bends, of derivatives.
ROUNDING, DERIVATIVE_ROUNDING = 1e-10, 1e-14
MODEL_ROUNDING = 64  # times the machine epsilon of the model and the size of its logits is taken from every margin


# ---- one layer ----


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def slope_range(layer: CRLayer, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of p' of every unit for z in [low, high], float64, each of the shape of `low`, (..., out_features)."""
    if layer.coefficients is None:
        fixed = FIXED_ACTIVATIONS[layer.activation]
        return _range(lambda z: fixed.value_and_derivative(z)[1], fixed.steepest, low, high)
    coefficients = layer.coefficients.detach().double()
    reach = layer.polynomial_range or math.inf
    return _polynomial_range(_derivative(coefficients), low.clamp(-reach, reach), high.clamp(-reach, reach))


def bend_range(layer: CRLayer, z: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of (p(z + t) - p(z) - p'(z) t) / t**2 over 0 < |t| <= distance, float64, of the shape of `z`.

    This is a weighted mean of p'' / 2 between z and z + t, and p'' is 0 beyond a polynomial's range. ReLU bends at
    once where the interval has 0 inside.
    """
    low, high = z - distance, z + distance
    if layer.activation == "relu":
        size = z.abs().clamp_min(TINY)
        most = torch.where(distance < 2 * size, (distance - size).clamp_min(0) / (distance * distance), 1 / (4 * size))
        return torch.zeros_like(most), most.nan_to_num(0.0)
    if layer.coefficients is None:
        fixed = FIXED_ACTIVATIONS[layer.activation]
        return _range(lambda z: fixed.second_derivative(z) / 2, fixed.sharpest, low, high)
    bends = _derivative(_derivative(layer.coefficients.detach().double())) / 2
    if not len(bends):
        return torch.zeros_like(z), torch.zeros_like(z)
    reach = layer.polynomial_range or math.inf
    least, most = _polynomial_range(bends, low.clamp(-reach, reach), high.clamp(-reach, reach))
    is_within = (low >= -reach) & (high <= reach)
    return torch.where(is_within, least, least.clamp_max(0)), torch.where(is_within, most, most.clamp_min(0))


@torch.no_grad()
def largest_slopes(layer: CRLayer) -> Tensor:
    """An upper bound of |p'| for each unit of a layer, over all z.

    Shape (out_features,), float64; infinite where a polynomial has no linear tails.
    """
    weight = layer.linear.weight
    reach = FAR if layer.coefficients is None else layer.polynomial_range
    if reach is None:
        return weight.new_full((len(weight),), math.inf, dtype=torch.float64)
    edges = torch.linspace(-reach, reach, PIECES + 1, dtype=torch.float64, device=weight.device)
    edges = edges[:, None].expand(-1, len(weight))
    least, most = slope_range(layer, edges[:-1], edges[1:])
    return torch.maximum(-least, most).amax(0)


def _derivative(coefficients: Tensor) -> Tensor:
    powers = torch.arange(1, len(coefficients), dtype=coefficients.dtype, device=coefficients.device)
    return coefficients[1:] * powers[:, None]


def _range(
    function: Callable[[Tensor], Tensor], critical: Sequence[float], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of a function between low and high: it is monotone between its critical points."""
    low, high = low.clamp(-FAR, FAR), high.clamp(-FAR, FAR)
    values = [function(low), function(high), *(function(high.clamp_max(z).maximum(low)) for z in critical)]
    least, most = (torch.stack(values).amin(0), torch.stack(values).amax(0))
    return least - DERIVATIVE_ROUNDING, most + DERIVATIVE_ROUNDING


def _polynomial_range(coefficients: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of one polynomial a unit between low and high, (..., units): it is within its Bernstein coefficients."""
    degree, width = len(coefficients) - 1, high - low
    terms = [term.expand_as(low) for term in coefficients]
    size, furthest = coefficients[-1].abs().expand_as(low), low.abs() + width
    for term in reversed(coefficients[:-1]):
        size = torch.addcmul(term.abs(), size, furthest)
    for start in range(degree):  # powers of z become powers of z - low
        for k in range(degree - 1, start - 1, -1):
            terms[k] = torch.addcmul(terms[k], terms[k + 1], low)
    terms = [term * width**power for power, term in enumerate(terms)]
    least = most = terms[0]
    for j in range(1, degree + 1):
        parts = [terms[m] * (math.comb(j, m) / math.comb(degree, m)) for m in range(j + 1)]
        value = torch.stack(parts).sum(0)
        least, most = torch.minimum(least, value), torch.maximum(most, value)
    rounding = 8 * (degree + 1) ** 2 * torch.finfo(torch.float64).eps * size
    return least - rounding, most + rounding


# ---- a head ----


@torch.no_grad()
def certified_radius(head: CRHead, features: Tensor) -> Tensor:
    """For each row the L2 radius in normalised features within which the predicted class cannot change.

    Args:
        head: a fitted head of classes of which one is right.
        features: raw, shape (rows, in_features).

    Returns:
        Shape (rows,), float64, on the CPU; 0 where two classes are level, 1e30 where no feature has an effect.

    Raises:
        ValueError: if the head has no such classes, or a feature is not finite.
    """
    if head.config.problem_type != "single_label_classification":
        raise ValueError(
            f"problem_type={head.config.problem_type!r} has no certified radius: use a model of classes of which one "
            "is right"
        )
    if not torch.isfinite(features).all():
        raise ValueError("the features hold NaN or infinity: mend these rows or leave them out")
    certifier = _Certifier(head)
    with torch.autocast(features.device.type, enabled=False):
        radii = [certifier.radii(rows) for rows in features.split(certifier.rows_at_once)]
    return torch.cat(radii) if radii else torch.zeros(0, dtype=torch.float64)


@dataclass
class _LayerState:
    """What the bounds need of a CR layer at some rows. A movement d of the features moves z by J d and a rest.

    Args:
        layer: the layer.
        before: the layer before, `None` for the first.
        z: pre-activations, shape (rows, units).
        slope: p'(z), shape (rows, units).
        jacobian: J.
        adjoint: gradient of every margin by p(z), shape (rows, margins, units).
        reach: length of d at most, shape (rows, 1).
        bend: bound of |p(z + t) - p(z) - p'(z) t| / t**2 within reach, shape (rows, units).
        rest: bound of the rest of every z, of it `carried` from the rest of the layer before, shape (rows, units).
    """

    layer: CRLayer
    before: _LayerState | None
    z: Tensor
    slope: Tensor
    jacobian: LayerJacobian
    adjoint: Tensor
    reach: Tensor
    bend: Tensor
    rest: Tensor
    carried: Tensor

    def squares(self, weights: Tensor, purpose: str) -> Tensor:
        """A bound of the sum over units of weight times squared movement, (rows, k), of weights (rows, k, units)."""
        moved = self.reach * self.jacobian.largest_square(weights, purpose).sqrt()
        if self.before is None:
            return moved.square()
        rest = (weights @ self.rest.square().unsqueeze(-1)).squeeze(-1).sqrt()
        columns = (weights @ self.layer.linear.weight.square()).sqrt()
        carried = (weights @ self.carried.square().unsqueeze(-1)).squeeze(-1).sqrt()
        together = self.before.squares(columns * self.before.bend.unsqueeze(1), "after " + purpose) + carried
        return (moved + torch.minimum(rest, together)).square()


class _Certifier:
    """A head in float64, with what all its rows share."""

    def __init__(self, head: CRHead) -> None:
        self.head = copy.deepcopy(head).double().requires_grad_(False).eval()
        self.epsilon = torch.finfo(head.readout.weight.dtype).eps
        weights = self.head.weights
        # The same lengths and angles, in no more columns than there are units.
        first = weights[0]
        self.first = first if first.shape[1] <= first.shape[0] else torch.linalg.qr(first.T, mode="r").R.T
        self.bound = 1 + ROUNDING
        for layer, weight in zip(self.head.layers, [self.first, *weights[1:]], strict=False):
            slope = largest_slopes(layer)
            bounded = bool(torch.isfinite(slope).all())
            self.bound *= spectral_norm(slope[:, None] * weight) if bounded else math.inf
        widest = max(len(weight) for weight in weights)
        self.rows_at_once = max(1, CHUNK_NUMBERS // max(widest**2, weights[-1].numel()))

    def radii(self, features: Tensor) -> Tensor:
        """Certified radii of some rows, shape (rows,)."""
        traced = self.head.trace(self.head.feature_norm(features.to(self.head.readout.weight)))
        margins, adjoint = self._margins(traced.scores, traced.logits)
        slopes = adjoint.norm(dim=-1) * self.bound
        everywhere = _least(margins / (slopes * (1 + ROUNDING)))
        states: list[_LayerState] = []
        for layer, z, slope in zip(self.head.layers, traced.pre_activations, traced.derivatives, strict=True):
            before, none = states[-1] if states else None, torch.zeros_like(z)
            if before is None:
                jacobian = LayerJacobian.of_first(self.first)
            else:
                jacobian = before.jacobian.after(before.slope, layer.linear.weight)
            states.append(_LayerState(layer, before, z, slope, jacobian, adjoint, none, none, none, none))
        for index, state in reversed(list(enumerate(states))):
            state.adjoint = adjoint
            inner = adjoint * state.slope.unsqueeze(1)
            adjoint = inner @ (state.layer.linear.weight if index else self.first)
        slopes = adjoint.norm(dim=-1)
        # The radius is between the two; every evaluation moves one of them.
        low, high = everywhere, _least(margins / slopes).clamp_max(1 / TINY)
        last = last_reached = None
        distance = torch.lerp(low, high, FIRST_STEP)
        for _ in range(EVALUATIONS if states else 1):
            reached = self._reached(distance, margins, slopes, states)
            low = torch.maximum(low, torch.minimum(reached, distance))
            high = torch.minimum(high, torch.maximum(reached, distance))
            # Where a line through two evaluations reaches as far as it is evaluated.
            next_distance = torch.lerp(reached, distance, NEXT_STEP)
            if last is not None and last_reached is not None:
                fall = (last_reached - reached) / (distance - last)
                crossing = (reached + fall * distance) / (1 + fall)
                next_distance = torch.where(torch.isfinite(crossing), crossing, next_distance)
            last, last_reached = distance, reached
            distance = next_distance.maximum(low).minimum(high)
        return low.clamp_max(1 / TINY).cpu()

    def _margins(self, scores: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """How far each other class is behind, and the gradient of that by the last layer, (rows, margins[, units])."""
        weight, bias = self.head.readout.weight, self.head.readout.bias
        if self.head.thresholds is not None:
            # The class grows with the score, so it holds between the scores at which it changes.
            margins, adjoint = _score_room(scores, self.head.thresholds()), torch.cat([weight, -weight])
            adjoint = adjoint.expand(len(scores), -1, -1)
        else:
            own = logits.argmax(-1, keepdim=True)
            others = torch.arange(logits.shape[-1] - 1, device=logits.device).expand(len(logits), -1)
            others = others + (others >= own)
            margins = logits.gather(1, own) - logits.gather(1, others)
            adjoint = weight[own] - weight[others]
        size = scores.abs().amax(-1, keepdim=True) + bias.abs().max()
        return (margins - MODEL_ROUNDING * self.epsilon * size).clamp_min(0), adjoint

    def _reached(self, distance: Tensor, margins: Tensor, slopes: Tensor, states: Sequence[_LayerState]) -> Tensor:
        """Radii that bounds within `distance` give, shape (rows,): as far as `distance` they are certified."""
        linear, quadratic = slopes, torch.zeros_like(slopes)
        reach = distance.unsqueeze(-1)
        for index, state in enumerate(states):
            state.reach = reach
            moved = reach * state.jacobian.norms + state.rest
            least, most = bend_range(state.layer, state.z, moved)
            lowest, highest = slope_range(state.layer, state.z - moved, state.z + moved)
            change = torch.maximum(highest - state.slope, state.slope - lowest) * moved
            state.bend = torch.maximum(-least, most)
            bend = torch.maximum(-state.adjoint * least.unsqueeze(1), -state.adjoint * most.unsqueeze(1)).clamp_min(0)
            together = state.squares(bend, "margins")
            apart = torch.minimum(bend * moved.square().unsqueeze(1), state.adjoint.abs() * change.unsqueeze(1)).sum(
                -1
            )
            is_linear = apart < together
            linear = linear + torch.where(is_linear, apart / reach, 0.0)
            quadratic = quadratic + torch.where(is_linear, 0.0, together / reach.square())
            if state is states[-1]:
                break
            # What bends here moves the next layer off its tangent: unit by unit, or all units of this layer together.
            after, weight = states[index + 1], states[index + 1].layer.linear.weight.abs()
            largest = weight.amax(0).clamp_min(TINY)
            together = state.squares((largest * state.bend).unsqueeze(1), "units") * (weight / largest).amax(1)
            apart = torch.minimum(state.bend * moved * moved, change) @ weight.T
            after.carried = (state.rest * state.slope.abs()) @ weight.T
            after.rest = after.carried + torch.minimum(together, apart)
        linear, quadratic = linear * (1 + ROUNDING), quadratic * (1 + ROUNDING)
        root = 2 * margins / (linear + (linear.square() + 4 * quadratic * margins).sqrt())
        return _least(torch.where(margins.isinf(), math.inf, root))


def _least(radii: Tensor) -> Tensor:
    """The least over margins, shape (rows,); what is no number, 0 / 0 or beyond float64, certifies nothing."""
    return radii.nan_to_num(0.0, math.inf).amin(-1)


def _score_room(scores: Tensor, thresholds: Tensor) -> Tensor:
    """How far the score, shape (rows, 1), can fall and rise before the most probable class changes, shape (rows, 2).

    The ratio of a class's probability to a lower one's grows with the score, so the class holds on an interval.
    """

    def is_same(score: Tensor) -> Tensor:
        return ordinal_log_probabilities(score, thresholds).argmax(-1, keepdim=True) == own

    own = ordinal_log_probabilities(scores, thresholds).argmax(-1, keepdim=True)
    rooms = []
    for outer in (torch.minimum(scores, thresholds[0]) - FAR, torch.maximum(scores, thresholds[-1]) + FAR):
        inside, outside, is_endless = scores, outer, is_same(outer)
        for _ in range(64):
            middle = (inside + outside) / 2
            same = is_same(middle)
            inside, outside = torch.where(same, middle, inside), torch.where(same, outside, middle)
        rooms.append(torch.where(is_endless, math.inf, (inside - scores).abs()))
    return torch.cat(rooms, -1)
