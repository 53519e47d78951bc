"""The Jacobian of a layer at many rows, and what it does to weighted lengths, in float32 with its error bounded.

A matrix product of a row's Jacobian with itself is what a certificate costs. In float32 it takes a third of the time,
and its rounding is bounded by lengths that are known, so what is found stays an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-30
LEAST_GUESS = 1e-12
FIRST_STEPS = 3
# Sums of what is not negative, in float32: the relative error that none has, and what is lost below its least number.
RELATIVE, ABSOLUTE = 1e-4, 1e-20
SHORTEST = 1e-17  # of a row: the squares of its entries are lost


@dataclass
class LayerJacobian:
    """The Jacobian J of a layer's pre-activations by the features, in units of `scale`. A first layer has rows = 1.

    Args:
        matrix: J / scale up to `error`, shape (rows, units, columns).
        error: what the length of a row of it is off at most, float64, shape (rows, units).
        scale: float64, shape (rows, 1).
    """

    matrix: Tensor
    error: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        products = self.matrix @ self.matrix.mT
        rounding = self.rounding(products.shape[-1] + self.matrix.shape[-1])
        lengths = products.diagonal(dim1=-2, dim2=-1).double().sqrt() * (1 + rounding) + self.error + SHORTEST
        # |J J'| is at most `products` + slack lengths' + lengths slack'.
        self.products = products.abs_().squeeze(0)
        self.lengths, self.slack = (
            one.to(products.dtype).clamp_min(TINY) for one in (lengths, self.error + rounding * lengths)
        )
        self.norms = lengths * self.scale
        self.guesses: dict[str, Tensor] = {}

    def rounding(self, terms: int) -> float:
        """The relative error that a sum of so many products has at most."""
        return (terms + 8) * torch.finfo(self.matrix.dtype).eps

    @classmethod
    def of_first(cls, weight: Tensor) -> LayerJacobian:
        """Of a first layer, whose Jacobian is its float64 weight, shape (units, columns)."""
        # float32 may be set to mean less than that; then, and where float64 is quick, it is not used.
        is_single = weight.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        scale = weight.abs().amax().clamp_min(TINY)
        weight = weight.unsqueeze(0) / scale
        matrix = weight.float() if is_single else weight
        return cls(matrix, torch.finfo(matrix.dtype).eps * weight.norm(dim=-1) + TINY, scale.view(1, 1))

    def after(self, slope: Tensor, weight: Tensor) -> LayerJacobian:
        """Of the next layer, of weight (units out, units), where this layer's units have slopes (rows, units)."""
        steepest, largest = slope.abs().amax(-1, keepdim=True).clamp_min(TINY), weight.abs().amax().clamp_min(TINY)
        slope, weight = slope / steepest, weight / largest
        dtype = self.matrix.dtype
        # (rows, units out, units) @ (rows, units, columns)
        matrix = (weight.to(dtype) * slope.to(dtype).unsqueeze(1)) @ self.matrix.squeeze(0)
        off = self.error + self.rounding(slope.shape[-1]) * self.lengths.double()
        return LayerJacobian(matrix, (slope.abs() * off) @ weight.abs().T + TINY, self.scale * steepest * largest)

    def largest_square(self, weights: Tensor, purpose: str) -> Tensor:
        """A bound of the largest sum over units of weight * (J d)**2 over |d| <= 1, (rows, k), of (rows, k, units).

        That is the top eigenvalue of |J J'| diag(weights) at most, which no (M v) / v of a v above 0 stays below. The
        best v of one call is where the next one of the same purpose starts.
        """
        largest = weights.amax(-1, keepdim=True).clamp_min(TINY)
        scaled = (weights / largest).to(self.products.dtype)
        guess, steps = self.guesses.get(purpose), 1
        if guess is None:
            guess, steps = torch.ones_like(scaled), FIRST_STEPS
        for _ in range(steps):
            moved = self._moved(scaled * guess)
            found = (moved / guess).amax(-1)
            guess = (moved / moved.amax(-1, keepdim=True).clamp_min(TINY)).clamp_min(LEAST_GUESS)
        self.guesses[purpose] = guess
        return (found.double() * (1 + RELATIVE) + ABSOLUTE) * largest.squeeze(-1) * self.scale.square()

    def _moved(self, vectors: Tensor) -> Tensor:
        """A bound of vectors @ |J J'| / scale**2, of vectors (rows, k, units) that are not negative."""
        slack = (vectors @ self.slack.unsqueeze(-1)) * self.lengths.unsqueeze(1)
        return (
            (vectors @ self.products)
            .add_(slack)
            .add_((vectors @ self.lengths.unsqueeze(-1)) * self.slack.unsqueeze(1))
        )
