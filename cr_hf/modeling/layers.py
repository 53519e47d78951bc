"""The layers of a CR classifier, in plain torch: the CR layer, dropout, pooling and standardisation.

A CR layer is a linear map followed by an elementwise function whose derivative is known in closed form: a learnable
polynomial with linear tails, or a fixed activation (see `activations.py`). Value and derivative are returned together,
because DREG (see `dreg.py`) needs the derivative that the forward pass has half computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from .activations import (
    ACTIVATIONS,
    FIXED_ACTIVATIONS,
    fixed_activation,
    hermite_coefficients,
    polynomial,
    worst_squared_slopes,
)

Moments: TypeAlias = tuple[int, Tensor, Tensor]
COEFFICIENT_INITS = ("hermite", "identity")
COEFFICIENT_NOISE = 0.01
DEGENERATE_DEVIATION = 1e-6
BEFORE_ALL = -(2**31)  # a position that no token has
MASK_LEVELS = 2**16  # of dropout: what 16 random bits tell apart


class CRLayer(nn.Module):
    """A linear map followed by an elementwise function with a known derivative.

    Args:
        in_features: width of the input.
        out_features: number of units.
        degree, activation, polynomial_range: see `CRConfig`.
        coefficient_init: `"hermite"` (the best polynomial to GELU under N(0, 1)) or `"identity"` (p(z) = z), each plus
            normal noise of standard deviation 0.01.

    Attributes:
        linear: the `nn.Linear`.
        coefficients: lowest degree first, shape (degree + 1, out_features); `None` for a fixed activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        degree: int = 3,
        activation: str = "polynomial",
        polynomial_range: float | None = 1.5,
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
            start = hermite_coefficients(self.degree, self.polynomial_range)
        else:
            start = (0.0, 1.0, *[0.0] * (self.degree - 1))
        with torch.no_grad():
            for row, mean in zip(self.coefficients, start, strict=True):
                nn.init.normal_(row, mean=mean, std=COEFFICIENT_NOISE)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """From (batch, in_features) to h = p(z) and p'(z), each of shape (batch, out_features)."""
        return self.activate(self.linear(features))

    def activate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h = p(z) and p'(z), each of the shape of z."""
        if self.coefficients is None:
            return fixed_activation(z, self.activation)
        return polynomial(z, self.coefficients, self.polynomial_range)

    @property
    def worst_squared_slopes(self) -> Tensor | float:
        """The largest p'(z)**2 over all z, shape (out_features,), or one number for a fixed activation."""
        if self.coefficients is None:
            return FIXED_ACTIVATIONS[self.activation].largest_slope ** 2
        return worst_squared_slopes(self.coefficients, cast(float, self.polynomial_range))  # `CRConfig` sees to it

    def extra_repr(self) -> str:
        """What `print(layer)` shows beside the linear map."""
        if self.coefficients is None:
            return f"activation={self.activation}"
        return f"degree={self.degree}, polynomial_range={self.polynomial_range}"


def to_mask(drawn: Tensor, keep: Tensor | float) -> Tensor:
    """Turn random numbers into a dropout mask of 0 and 1 / keep, in place.

    Args:
        drawn: uniform over the signed whole numbers of 16 bits, shape (..., n), in float32 or float64.
        keep: chance of keeping a unit, a whole number of parts in 65536, above 0; one number, or shape (..., 1).
    """
    last_dropped = (1 - keep) * MASK_LEVELS - MASK_LEVELS // 2 - 1
    # Between whole numbers the clamped difference is the comparison, without a slow boolean tensor.
    return drawn.sub_(last_dropped).clamp_(0, 1).mul_(1 / keep)


def _fill_mask(mask: Tensor, keep: float) -> None:
    count = mask.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    units = mask.view(-1)
    units.copy_(bits.view(torch.int16)[:count])
    to_mask(units, keep)


# To a compiler one operation: it cannot trace `random_`, and its own draws are the slow ones. Two layers' masks would
# be drawn once for both, were it not for the fresh tensor that each is written to.
_compiled_fill_mask = torch.library.custom_op("cr_hf::fill_dropout_mask", _fill_mask, mutates_args=("mask",))


class Dropout(nn.Dropout):
    """`nn.Dropout` that draws 16 random bits for a decision, so a rate is exact to one part in 65536.

    torch's own draws a number for every unit, which takes a CPU four times as long, and longer than all the
    elementwise work of a CR layer; under `torch.compile` longer still.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero units at random and scale the others by 1 / keep, in training only."""
        keep = round((1 - self.p) * MASK_LEVELS) / MASK_LEVELS
        precise = input.dtype in (torch.float32, torch.float64)
        if not (self.training and precise and input.device.type == "cpu" and 0 < keep < 1):
            return super().forward(input)
        mask = torch.empty(input.shape, dtype=input.dtype, device=input.device)
        (_compiled_fill_mask if torch.compiler.is_compiling() else _fill_mask)(mask, keep)
        return input * mask


def pool(hidden_state: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector per text, shape (batch, hidden_size), from its attended tokens, whatever the padding side.

    Args:
        hidden_state: shape (batch, length, hidden_size).
        attention_mask: 1 on attended tokens, shape (batch, length). A row without any gives the zero vector.
        pooling: `"cls"` (first token), `"mean"`, `"max"` or `"last"`.
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
    index = torch.where(attended, order, BEFORE_ALL).argmax(1)
    chosen = hidden_state[torch.arange(hidden_state.shape[0], device=hidden_state.device), index]
    return chosen.masked_fill(~attended.any(1, keepdim=True), 0)


class Standardize(nn.Module):
    """Centres and scales every feature with statistics fitted once on the training rows.

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
        """Fix mean and variance of the training rows, each of shape (in_features,).

        Returns:
            How many features have a deviation under 1e-6 of the median; their scale is 0.

        Raises:
            ValueError: if a statistic is not finite.
        """
        is_finite = torch.isfinite(mean) & torch.isfinite(variance)
        if not is_finite.all():
            column = int((~is_finite).nonzero()[0])
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
def feature_moments(batches: Iterable[Tensor]) -> Moments:
    """Count of rows, mean and sum of squared deviations of each feature, in float64, in one pass over batches.

    Raises:
        ValueError: if there is no row.

    Source: Chan, Golub and LeVeque (1983), the pairwise update.
    """
    total: Moments | None = None
    for batch in batches:
        if len(batch):
            rows = batch.double()
            mean = rows.mean(0)
            total = merge_moments(total, (len(rows), mean, (rows - mean).square().sum(0)))
    if total is None:
        raise ValueError("there are no training rows to fit the feature statistics on")
    return total


def merge_moments(first: Moments | None, second: Moments) -> Moments:
    """Moments of two sets of rows together, from what `feature_moments` returns for each."""
    if first is None:
        return second
    count = first[0] + second[0]
    shift = second[1] - first[1]
    mean = first[1] + shift * (second[0] / count)
    squares = first[2] + second[2] + shift.square() * (first[0] * second[0] / count)
    return count, mean, squares
