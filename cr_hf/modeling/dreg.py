"""DREG (Differential Regularization): the penalty on every layer's Jacobian.

The Jacobian of a layer, diag(p'(z)) W, is never built. Its squared Frobenius norm is
sum_i p_i'(z_i)**2 ||W_i||**2, which the forward pass has all the parts of: no double backward, valid under `no_grad`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .activations import plain_operations

DREG_MODES = ("layer", "worst", "chain")


def network_dreg(derivatives: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor:
    """Squared Frobenius norm of each layer's Jacobian, averaged over the batch, shape (..., num_layers).

    Args:
        derivatives: p'(z) of each layer, shape (..., batch, out_features); `None` for the readout, whose p' is 1.
        weights: of each layer, shape (..., out_features, in_features).

    Source: arXiv 2605.15463; the closed form is at the head of this file.
    """
    norms = iter(squared_norms(weights, [derivative for derivative in derivatives if derivative is not None]))
    row_norms = [next(norms) for _ in weights]
    penalties = [
        rows.sum(-1) if derivative is None else (next(norms) * rows).sum(-1) / derivative.shape[-2]
        for derivative, rows in zip(derivatives, row_norms, strict=True)
    ]
    return torch.stack(penalties, -1)


def worst_dreg(squared_slopes: Sequence[Tensor | float], weights: Sequence[Tensor]) -> Tensor:
    """Squared Frobenius norm of every layer's Jacobian where it is largest, over all inputs, shape (..., num_layers).

    sum_i max_z p_i'(z)**2 ||W_i||**2: no example can be steeper, and none is needed to compute it.

    Args:
        squared_slopes: the largest p'(z)**2 of each unit of each layer, shape (..., out_features), or one number for
            all; 1 for the readout.
        weights: of each layer, shape (..., out_features, in_features).

    Source: this package's own.
    """
    norms = squared_norms(weights, [])
    return torch.stack([(slopes * rows).sum(-1) for slopes, rows in zip(squared_slopes, norms, strict=True)], -1)


def squared_norms(by_row: Sequence[Tensor], by_column: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Sums of squares of each row of the first tensors, then of each column of the others."""
    norms = _squared_norms if plain_operations() else _SquaredNorms.apply
    return norms(len(by_row), *by_row, *by_column)


def _squared_norms(rows_of: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    # torch's norm of rows is one pass over memory; that of columns takes ten times as long as the squares.
    return tuple(
        torch.linalg.vector_norm(values, dim=-1).square() if index < rows_of else values.square().sum(-2)
        for index, values in enumerate(tensors)
    )


class _SquaredNorms(torch.autograd.Function):
    """A gradient in one pass over memory, and one node in the graph for all layers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows_of: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _squared_norms(rows_of, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.rows_of, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dims = [-1 if index < ctx.rows_of else -2 for index in range(len(gradients))]
        pairs = zip(ctx.saved_tensors, gradients, dims, strict=True)
        return None, *(values * (2 * gradient).unsqueeze(dim) for values, gradient, dim in pairs)


def chain_tangents(in_features: int, num_tangents: int | None, seed: int) -> Tensor:
    """Directions T with E[T'T] = I, for `chain_dreg`, shape (num_tangents, in_features), float64 on the CPU.

    Args:
        in_features: length of a direction.
        num_tangents: random orthogonal ones; `None`, or in_features and more, for the identity: the norm is exact.
        seed: of a stream apart from data order and dropout.
    """
    if num_tangents is None or num_tangents >= in_features:
        return torch.eye(in_features, dtype=torch.float64, device="cpu")
    if num_tangents < 1:
        raise ValueError(f"num_tangents={num_tangents} must be 1 or above, or None for the exact norm")
    generator = torch.Generator("cpu").manual_seed(seed)
    normal = torch.randn(in_features, num_tangents, generator=generator, dtype=torch.float64, device="cpu")
    orthonormal, _ = torch.linalg.qr(normal)
    return orthonormal.T * math.sqrt(in_features / num_tangents)


def chain_dreg(
    derivatives: Sequence[Tensor | None],
    weights: Sequence[Tensor],
    tangents: Tensor,
    dropout_masks: Sequence[Tensor | None],
) -> Tensor:
    """||J_l ... J_1||**2 of every prefix of the network, averaged over the batch, shape (num_layers,).

    The Jacobians are never built: tangents are propagated forwards, layer by layer.

    Args:
        derivatives: p'(z) of each layer, shape (batch, out_features); `None` where it is 1 (the readout).
        weights: of each layer, shape (out_features, in_features).
        tangents: from `chain_tangents`.
        dropout_masks: for each layer 0 or 1 / keep, shape (batch, out_features), or `None` for no dropout.

    Source: this package's reading of the papers' chained penalty.
    """
    propagated = tangents.unsqueeze(1)  # (tangents, 1, in): the same for every row of the batch
    penalties = []
    for derivative, weight, mask in zip(derivatives, weights, dropout_masks, strict=True):
        propagated = propagated @ weight.T  # (tangents, 1 or batch, out)
        if derivative is not None:
            propagated = propagated * derivative  # (tangents, batch, out): J_l ... J_1 T'
        penalties.append(propagated.square().sum(-1).sum(0).mean())  # over units, then tangents, then rows
        if mask is not None:
            propagated = propagated * mask  # the next layer's input went through the same mask
    return torch.stack(penalties)
