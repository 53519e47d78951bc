"""The layers of a CR classifier, in plain torch: pooling, standardisation, and the CR layer.

A CR layer is a linear map followed by an elementwise function whose derivative is known in closed form.
The function is a learnable polynomial with linear tails, or a fixed activation. Value and derivative are returned
together, because DREG (see `dreg.py`) needs the derivative that the forward pass has half computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

FIXED_ACTIVATIONS = ("gelu", "relu", "tanh", "silu")
ACTIVATIONS = ("polynomial", *FIXED_ACTIVATIONS)
COEFFICIENT_INITS = ("hermite", "identity")
COEFFICIENT_NOISE = 0.01
DEGENERATE_DEVIATION = 1e-6


def polynomial(z: Tensor, coefficients: Tensor, polynomial_range: float | None = None) -> tuple[Tensor, Tensor]:
    """Value and derivative of one polynomial per unit, both by Horner's rule.

    Outside `[-polynomial_range, polynomial_range]` the polynomial goes on as its tangent, so that the slope stays
    bounded on inputs never seen in training. Value and slope are continuous there, the second derivative jumps.

    Args:
        z: pre-activations, shape (..., batch, out_features).
        coefficients: lowest degree first, shape (..., degree + 1, out_features).
        polynomial_range: where the linear tails begin; `None` means no tails.

    Returns:
        The value p(z) and the derivative p'(z), each of the shape of `z`.

    Source: arXiv 2605.15463 (learnable cubic); the linear tails are this package's own.
    """
    reach = math.inf if polynomial_range is None else polynomial_range
    # A compiler fuses the plain operations, and needs to see them.
    return (
        horner(z, coefficients, reach) if torch.compiler.is_compiling() else _Polynomial.apply(z, coefficients, reach)
    )


def horner(z: Tensor, coefficients: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """`polynomial` in operations that autograd follows by itself."""
    inside = z if reach == math.inf else z.clamp(-reach, reach)
    terms = coefficients.unsqueeze(-2).unbind(-3)
    value = torch.addcmul(terms[-2], terms[-1], inside)
    # Where it is the result already, it has the shape of z: an autograd function must not return a view of its input.
    derivative = terms[-1] + torch.zeros_like(z) if len(terms) == 2 else terms[-1]
    for term in reversed(terms[:-2]):
        derivative = torch.addcmul(value, derivative, inside)
        value = torch.addcmul(term, value, inside)
    if reach != math.inf:
        value = torch.addcmul(value, derivative, z - inside)
    return value, derivative


class _Polynomial(torch.autograd.Function):
    """`horner` with its gradient written out: half of autograd's passes over memory, and of its graph.

    With c the clamped z: value = p(c) + p'(c) (z - c) and derivative = p'(c). Hence the gradient by p'(c) is
    `by_slope`, and the only way through c that remains is p''(c), inside the range.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, coefficients: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        return horner(z, coefficients, reach)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        z, coefficients, ctx.reach = inputs
        ctx.save_for_backward(z, coefficients, output[1])

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, by_derivative: Tensor) -> tuple[Tensor, Tensor, None]:
        z, coefficients, derivative = ctx.saved_tensors
        terms = coefficients.unsqueeze(-2).unbind(-3)
        inside = z.clamp(-ctx.reach, ctx.reach)
        # Of the k-th coefficient: c**k by_value + k c**(k - 1) by_slope, each from the one below.
        by_power = by_slope = torch.addcmul(by_derivative, by_value, z - inside)
        by_coefficient = torch.addcmul(by_slope, by_value, inside)
        sums = [by_value.sum(-2), by_coefficient.sum(-2)]
        through_curvature = torch.zeros_like(terms[0])
        for power, term in enumerate(terms[2:], 2):
            through_curvature = torch.addcmul(through_curvature, by_power, power * (power - 1) * term)
            by_power = by_power * inside
            by_coefficient = torch.addcmul(by_power, by_coefficient, inside)
            sums.append(by_coefficient.sum(-2))
        # The clamp's own backward makes a boolean mask, which takes ten times as long on a CPU.
        if len(terms) > 2:
            through_curvature = torch.ops.aten.hardtanh_backward(through_curvature, z, -ctx.reach, ctx.reach)
        return torch.addcmul(through_curvature, by_value, derivative), torch.stack(sums, -2), None


def fixed_activation(z: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Value and derivative of a fixed activation.

    Args:
        z: pre-activations, any shape.
        activation: one of `FIXED_ACTIVATIONS`; gelu is the exact one (erf), relu has derivative 0 at 0.

    Returns:
        The value and the derivative, each of the shape of `z`.

    Raises:
        ValueError: if the activation is unknown.
    """
    if activation == "gelu":
        distribution = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
        density = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
        return z * distribution, torch.addcmul(distribution, z, density)
    if activation == "relu":
        return torch.relu(z), (z > 0).to(z.dtype)
    if activation == "tanh":
        value = torch.tanh(z)
        return value, 1 - value * value
    if activation == "silu":
        gate = torch.sigmoid(z)
        value = z * gate
        return value, gate + value * (1 - gate)
    raise ValueError(f"activation={activation!r} is unknown: use one of {', '.join(ACTIVATIONS)}")


@lru_cache
def hermite_coefficients(degree: int) -> tuple[float, ...]:
    """Coefficients of the polynomial closest to GELU under z ~ N(0, 1), lowest degree first.

    The least-squares problem is integrated on a grid fine and wide enough for float64: the trapezoid rule converges
    exponentially fast for a smooth integrand with Gaussian decay.

    Args:
        degree: of the polynomial, at least 1.

    Returns:
        `degree + 1` coefficients; for degree 3 about (0.071, 0.5, 0.212, 0).

    Source: the Hermite projection; this package's own choice of start.
    """
    z = torch.linspace(-14, 14, 5601, dtype=torch.float64, device="cpu")
    weight = torch.exp(-0.5 * z * z)
    basis = torch.stack([z**k for k in range(degree + 1)])
    gram = (basis * weight) @ basis.T
    target = fixed_activation(z, "gelu")[0]
    moments = (basis * weight) @ target
    return tuple(torch.linalg.solve(gram, moments).tolist())


class CRLayer(nn.Module):
    """A linear map followed by an elementwise function with a known derivative.

    Args:
        in_features: width of the input.
        out_features: number of units.
        degree: of the polynomial, at least 1; ignored by fixed activations.
        activation: `"polynomial"` (learnable) or one of gelu, relu, tanh, silu.
        polynomial_range: where the polynomial's linear tails begin; `None` turns them off.
        coefficient_init: `"hermite"` (the best polynomial to GELU under N(0, 1)) or `"identity"` (p(z) = z), each plus
            normal noise of standard deviation 0.01.

    Attributes:
        linear: the `nn.Linear`, initialised as torch does.
        coefficients: the polynomials' parameters, lowest degree first, shape (degree + 1, out_features); `None` for a
            fixed activation.

    Raises:
        ValueError: if an argument is not one of the allowed values.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        degree: int = 3,
        activation: str = "polynomial",
        polynomial_range: float | None = 6.0,
        coefficient_init: str = "hermite",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is unknown: use one of {', '.join(ACTIVATIONS)}")
        if coefficient_init not in COEFFICIENT_INITS:
            allowed = ", ".join(COEFFICIENT_INITS)
            raise ValueError(f"coefficient_init={coefficient_init!r} is unknown: use one of {allowed}")
        if degree < 1:
            raise ValueError(f"degree={degree} is too low: a polynomial layer needs degree 1 or more")
        if polynomial_range is not None and not polynomial_range > 0:
            raise ValueError(f"polynomial_range={polynomial_range} must be above 0, or None for no linear tails")
        self.degree = degree
        self.activation = activation
        self.polynomial_range = polynomial_range
        self.coefficient_init = coefficient_init
        self.linear = nn.Linear(in_features, out_features)
        if activation == "polynomial":
            self.coefficients = nn.Parameter(torch.empty(degree + 1, out_features))
        else:
            self.register_parameter("coefficients", None)
        self.reset_coefficients()

    def reset_coefficients(self) -> None:
        """Draw the coefficients anew. Coefficients that a checkpoint has just filled are left alone."""
        if self.coefficients is None or getattr(self.coefficients, "_is_hf_initialized", False):
            return
        if self.coefficient_init == "hermite":
            start = hermite_coefficients(self.degree)
        else:
            start = (0.0, 1.0, *[0.0] * (self.degree - 1))
        with torch.no_grad():
            for row, mean in zip(self.coefficients, start, strict=True):
                nn.init.normal_(row, mean=mean, std=COEFFICIENT_NOISE)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            features: shape (batch, in_features).

        Returns:
            The output h = p(z) and the derivative p'(z), each of shape (batch, out_features).
        """
        z = self.linear(features)
        if self.coefficients is None:
            return fixed_activation(z, self.activation)
        return polynomial(z, self.coefficients, self.polynomial_range)

    def extra_repr(self) -> str:
        """What `print(layer)` shows beside the linear map."""
        if self.coefficients is None:
            return f"activation={self.activation}"
        return f"degree={self.degree}, polynomial_range={self.polynomial_range}"


def pool(hidden_state: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector per text from its attended tokens, whatever the padding side.

    Args:
        hidden_state: shape (batch, length, hidden_size).
        attention_mask: 1 on attended tokens, shape (batch, length). A row without any gives the zero vector.
        pooling: `"cls"` (first token), `"mean"`, `"max"` or `"last"`.

    Returns:
        Shape (batch, hidden_size).
    """
    attended = attention_mask.bool()
    if pooling == "mean":
        # Filled, not multiplied: what a backbone leaves on padding may not be a number.
        total = hidden_state.masked_fill(~attended.unsqueeze(-1), 0).sum(1)
        return total / attended.sum(1, keepdim=True).clamp_min(1)
    if pooling == "max":
        highest = hidden_state.masked_fill(~attended.unsqueeze(-1), -torch.inf).amax(1)
        return highest.masked_fill(~attended.any(1, keepdim=True), 0)
    positions = torch.arange(attended.shape[1], device=attended.device)
    order = positions if pooling == "last" else -positions - 1
    index = torch.where(attended, order, -attended.shape[1] - 1).argmax(1)
    chosen = hidden_state[torch.arange(len(hidden_state), device=hidden_state.device), index]
    return chosen.masked_fill(~attended.any(1, keepdim=True), 0)


class Standardize(nn.Module):
    """Centres and scales every feature with statistics fitted once on the training rows.

    Args:
        in_features: width of the features.

    Attributes:
        mean: per feature, shape (in_features,).
        scale: reciprocal standard deviation, 0 for a feature that is constant, shape (in_features,).
        fitted: 1 once the statistics are set, shape ().
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(in_features))
        self.register_buffer("scale", torch.empty(in_features))
        self.register_buffer("fitted", torch.empty((), dtype=torch.int64))
        self._known_fitted = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget the statistics."""
        nn.init.zeros_(self.mean)
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.fitted)
        self._known_fitted = False

    @property
    def is_fitted(self) -> bool:
        """Whether the statistics are set. The answer yes is kept, so that no later call waits for the device."""
        if not self._known_fitted:
            self._known_fitted = self.fitted.device.type != "meta" and bool(self.fitted)
        return self._known_fitted

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, variance: Tensor) -> int:
        """Fix the statistics.

        Args:
            mean: of the training rows, shape (in_features,).
            variance: of the training rows, shape (in_features,).

        Returns:
            How many features have a deviation under 1e-6 of the median; their scale is 0.

        Raises:
            ValueError: if a statistic is not finite.
        """
        if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            column = int((~(torch.isfinite(mean) & torch.isfinite(variance))).nonzero()[0])
            raise ValueError(
                f"feature column {column} of the training rows is not finite: remove NaN and infinity first"
            )
        deviation = variance.clamp_min(0).sqrt()
        constant = deviation <= DEGENERATE_DEVIATION * deviation.median()
        scale = torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, deviation))
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.fitted.fill_(1)
        self._known_fitted = True
        return int(constant.sum())

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features of shape (batch, in_features)."""
        if not self.is_fitted:
            raise RuntimeError(
                "the feature statistics are not fitted: train with CRTrainer, or call "
                "model.fit_feature_norm(features) on the training rows first"
            )
        return (features - self.mean).mul_(self.scale)


@torch.no_grad()
def feature_moments(batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of each feature, in float64, in one pass.

    Args:
        batches: each of shape (rows, in_features).

    Returns:
        The number of rows, the mean and the sum of squared deviations, each of shape (in_features,).

    Raises:
        ValueError: if there is no row.

    Source: Chan, Golub and LeVeque (1983), the pairwise update.
    """
    total: tuple[int, Tensor, Tensor] | None = None
    for batch in batches:
        if len(batch) == 0:
            continue
        rows = batch.double()
        mean = rows.mean(0)
        total = merge_moments(total, (len(rows), mean, (rows - mean).square().sum(0)))
    if total is None:
        raise ValueError("there are no training rows to fit the feature statistics on")
    return total


def merge_moments(
    first: tuple[int, Tensor, Tensor] | None, second: tuple[int, Tensor, Tensor]
) -> tuple[int, Tensor, Tensor]:
    """Moments of two sets of rows together, as `feature_moments` gives them for each."""
    if first is None:
        return second
    count = first[0] + second[0]
    shift = second[1] - first[1]
    mean = first[1] + shift * (second[0] / count)
    squares = first[2] + second[2] + shift.square() * (first[0] * second[0] / count)
    return count, mean, squares


def token_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Rows in batches of similar length, longest first, so that little is padded.

    Args:
        lengths: tokens of each row.
        token_budget: tokens in a batch, padding included; a longer row is a batch of its own.

    Yields:
        Row numbers of one batch; every row comes once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
