"""The elementwise functions of a CR layer, learnable polynomials and fixed ones, each with its derivative."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

FIXED_ACTIVATIONS = ("gelu", "relu", "tanh", "silu")
ACTIVATIONS = ("polynomial", *FIXED_ACTIVATIONS)


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
    if plain_operations():
        return horner(z, coefficients, reach)
    return _Polynomial.apply(z, coefficients, math.inf if _is_within(z, reach) else reach)


def plain_operations() -> bool:
    """Whether to leave the gradient to autograd: a compiler or a trace needs to see it, or there is none."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled()


def _is_within(z: Tensor, reach: float) -> bool:
    """Whether the tails are seen to be empty, as they mostly are: a third of the work is theirs."""
    if reach == math.inf or z.device.type != "cpu" or z.numel() == 0:
        return False
    try:
        return bool(z.detach().abs().amax() < reach)
    except RuntimeError:  # under vmap, or of a fake tensor, there are no values to see
        return False


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
    `by_power` at first, and the only way through c that remains is p''(c), inside the range.
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
        tails = ctx.reach != math.inf
        inside = z.clamp(-ctx.reach, ctx.reach) if tails else z
        # Of the k-th coefficient: c**k by_value + k c**(k - 1) by_slope, each from the one below.
        by_power = torch.addcmul(by_derivative, by_value, z - inside) if tails else by_derivative
        by_coefficient = torch.addcmul(by_power, by_value, inside)
        sums = [by_value.sum(-2), by_coefficient.sum(-2)]
        through_curvature = torch.zeros_like(terms[0])
        for power, term in enumerate(terms[2:], 2):
            through_curvature = torch.addcmul(through_curvature, by_power, term, value=power * (power - 1))
            by_power = by_power * inside
            by_coefficient = torch.addcmul(by_power, by_coefficient, inside)
            sums.append(by_coefficient.sum(-2))
        if tails and len(terms) > 2:
            # The clamp's own backward makes a boolean mask, which takes ten times as long on a CPU.
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
