"""DREG (Differential Regularization): the penalty on every layer's Jacobian, and the schedules of its coefficient.

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

DREG_MODES = ("layer", "chain")
DREG_SCHEDULES = ("constant", "linear", "cosine", "exponential")


def layer_dreg(derivative: Tensor | None, weight: Tensor) -> Tensor:
    """Squared Frobenius norm of one layer's Jacobian, averaged over the batch.

    Args:
        derivative: p'(z) at this layer's pre-activations, shape (..., batch, out_features); `None` for the readout,
            whose derivative is 1.
        weight: the layer's weight, shape (..., out_features, in_features).

    Returns:
        Shape (...), a scalar for one layer, in squared output units per squared input unit.

    Raises:
        ValueError: if the two disagree on out_features.

    Source: arXiv 2605.15463; the closed form is at the head of this file.
    """
    if derivative is not None and derivative.shape[-1] != weight.shape[-2]:
        raise ValueError(
            f"derivative has {derivative.shape[-1]} units but weight has {weight.shape[-2]} rows: "
            "pass the derivative and the weight of the same layer"
        )
    return network_dreg([derivative], [weight])[..., 0]


def network_dreg(derivatives: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor:
    """`layer_dreg` of every layer.

    Args:
        derivatives: of each layer.
        weights: of each layer.

    Returns:
        Shape (..., num_layers).
    """
    norms = iter(squared_norms(weights, [derivative for derivative in derivatives if derivative is not None]))
    row_norms = [next(norms) for _ in weights]
    penalties = [
        rows.sum(-1) if derivative is None else (next(norms) * rows).sum(-1) / derivative.shape[-2]
        for derivative, rows in zip(derivatives, row_norms, strict=True)
    ]
    return torch.stack(penalties, -1)


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
    """Directions T with E[T'T] = I, for `chain_dreg`.

    Args:
        in_features: length of a direction.
        num_tangents: how many random orthogonal ones, at least 1; `None`, or in_features and more, for the identity,
            which makes the norm exact.
        seed: of a stream apart from data order and dropout.

    Returns:
        Shape (num_tangents or in_features, in_features), float64 on the CPU.

    Raises:
        ValueError: if num_tangents is below 1.
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
    """Squared Frobenius norm of the Jacobian of every prefix of the network, by forward-mode propagation of tangents.

    Args:
        derivatives: p'(z) of each layer, shape (batch, out_features); `None` where it is 1 (the readout).
        weights: of each layer, shape (out_features, in_features).
        tangents: rows T with E[T'T] = I, shape (num_tangents, in_features of the first layer); the identity gives the
            exact norm, `chain_tangents` an unbiased estimate.
        dropout_masks: what each layer's output was multiplied with (0 or 1 / keep), shape (batch, out_features), or
            `None` for no dropout.

    Returns:
        The norms ||J_l ... J_1||**2, averaged over the batch, shape (num_layers,).

    Source: this package's reading of the papers' chained penalty.
    """
    propagated = tangents.unsqueeze(1)
    penalties = []
    for derivative, weight, mask in zip(derivatives, weights, dropout_masks, strict=True):
        propagated = propagated @ weight.T
        if derivative is not None:
            propagated = propagated * derivative
        penalties.append(propagated.square().sum(-1).sum(0).mean())
        if mask is not None:
            propagated = propagated * mask
    return torch.stack(penalties)


def check_schedule(schedule: str, start: float, end: float | None, warmup_steps: float) -> None:
    """Refuse a schedule of lambda that cannot be computed.

    Args:
        schedule: one of `DREG_SCHEDULES`.
        start: lambda after the warm-up, at least 0.
        end: lambda at the end; `None` (only for constant) means start.
        warmup_steps: below 1 a fraction of all steps, else a number of steps.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    if schedule not in DREG_SCHEDULES:
        raise ValueError(f"dreg_schedule={schedule!r} is unknown: use one of {', '.join(DREG_SCHEDULES)}")
    for name, value in (("dreg_lambda", start), ("dreg_lambda_end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} must be a finite number, 0 or above")
    if schedule == "constant" and end is not None and end != start:
        raise ValueError(
            f"dreg_lambda_end={end} has no effect under dreg_schedule='constant': use linear, cosine or exponential"
        )
    if schedule == "exponential" and not (start > 0 and (end if end is not None else 0.0) > 0):
        raise ValueError(
            f"dreg_schedule='exponential' needs both ends above 0, got dreg_lambda={start} and dreg_lambda_end={end}"
        )
    if not 0 <= warmup_steps < math.inf:
        raise ValueError(f"dreg_warmup_steps={warmup_steps} must be 0 or above (below 1: a fraction of all steps)")


def scheduled_lambda(
    step: int,
    total_steps: int,
    start: float,
    end: float | None = None,
    schedule: str = "constant",
    warmup_steps: float = 0.0,
) -> float:
    """The DREG coefficient at a step: a pure function, so that a resumed run continues exactly.

    Args:
        step: optimizer steps done, from 0 to total_steps.
        total_steps: of the whole training, at least 1.
        start: lambda after the warm-up.
        end: lambda at the end of training; `None` means 0 for linear and cosine, start for constant.
        schedule: one of `DREG_SCHEDULES`.
        warmup_steps: length of a linear rise from 0 to start; below 1 a fraction of total_steps.

    Returns:
        lambda, at least 0.

    Raises:
        ValueError: see `check_schedule`.

    Source: the regimes of arXiv 2606.07908; the formulas are this package's own.
    """
    check_schedule(schedule, start, end, warmup_steps)
    warmup = math.ceil(warmup_steps * total_steps) if warmup_steps < 1 else int(warmup_steps)
    if step < warmup:
        return start * step / warmup
    if schedule == "constant":
        return start
    stop = 0.0 if end is None else end
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    if schedule == "linear":
        return start + (stop - start) * done
    if schedule == "cosine":
        return stop + (start - stop) * 0.5 * (1 + math.cos(math.pi * done))
    return start ** (1 - done) * stop**done
