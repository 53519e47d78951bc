"""The layers of a CR classifier, in plain torch: pooling, standardisation, and the CR layer.

A CR layer is a linear map followed by an elementwise function whose derivative is known in closed form: a learnable
polynomial with linear tails, or a fixed activation (see `activations.py`). Value and derivative are returned together,
because DREG (see `dreg.py`) needs the derivative that the forward pass has half computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS, fixed_activation, hermite_coefficients, polynomial

COEFFICIENT_INITS = ("hermite", "identity")
COEFFICIENT_NOISE = 0.01
DEGENERATE_DEVIATION = 1e-6


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
