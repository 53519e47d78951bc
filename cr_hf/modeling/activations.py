"""The elementwise functions of a CR layer, learnable polynomials and fixed ones, each with its derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class FixedActivation(NamedTuple):
    """An elementwise function without parameters. Beyond |z| = 40 it must be a straight line, to float64's precision.

    Args:
        value_and_derivative: both of a tensor z, each of its shape.
        second_derivative: of a tensor z, of its shape; 0 where there is none.
        largest_slope: the largest |derivative| over all z, rounded up.
        steepest: where the derivative is largest or least, in rising order; between them it is monotone.
        sharpest: the same of the second derivative.
    """

    value_and_derivative: Callable[[Tensor], tuple[Tensor, Tensor]]
    second_derivative: Callable[[Tensor], Tensor]
    largest_slope: float = 1.0
    steepest: tuple[float, ...] = ()
    sharpest: tuple[float, ...] = ()


def _gelu(z: Tensor) -> tuple[Tensor, Tensor]:
    distribution = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    density = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return z * distribution, torch.addcmul(distribution, z, density)


def _gelu_bend(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) * (2 - z * z) / math.sqrt(2 * math.pi)


def _relu(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(z), (z > 0).to(z.dtype)


def _tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(z)
    return value, 1 - value * value


def _tanh_bend(z: Tensor) -> Tensor:
    value, slope = _tanh(z)
    return -2 * value * slope


def _silu(z: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(z)
    value = z * gate
    return value, gate + value * (1 - gate)


def _silu_bend(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1 - gate) * (2 + z * (1 - 2 * gate))


GELU_STEEPEST, SILU_STEEPEST, SILU_SHARPEST = math.sqrt(2), 2.399357280515467, 3.435840993535111
TANH_SHARPEST = math.atanh(1 / math.sqrt(3))
GELU_SLOPE = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
FIXED_ACTIVATIONS = {
    "gelu": FixedActivation(_gelu, _gelu_bend, GELU_SLOPE, (-GELU_STEEPEST, GELU_STEEPEST), (-2.0, 0.0, 2.0)),
    "relu": FixedActivation(_relu, torch.zeros_like),
    "tanh": FixedActivation(_tanh, _tanh_bend, 1.0, (0.0,), (-TANH_SHARPEST, TANH_SHARPEST)),
    "silu": FixedActivation(
        _silu, _silu_bend, 1.0998394, (-SILU_STEEPEST, SILU_STEEPEST), (-SILU_SHARPEST, 0.0, SILU_SHARPEST)
    ),
}
ACTIVATIONS = ("polynomial", *FIXED_ACTIVATIONS)


def polynomial(z: Tensor, coefficients: Tensor, polynomial_range: float | None = None) -> tuple[Tensor, Tensor]:
    """Value and derivative of one polynomial per unit, by Horner's rule, each of the shape of `z`.

    Outside `[-polynomial_range, polynomial_range]` the polynomial goes on as its tangent, so that the slope stays
    bounded on inputs never seen in training. Value and slope are continuous there, the second derivative jumps.

    Args:
        z: pre-activations, shape (..., batch, out_features).
        coefficients: lowest degree first, shape (..., degree + 1, out_features).
        polynomial_range: where the linear tails begin; `None` for no tails.

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
        z, coefficients, derivative = ctx.saved_tensors  # z and p'(c): (..., batch, out)
        terms = coefficients.unsqueeze(-2).unbind(-3)
        tails = ctx.reach != math.inf
        inside = z.clamp(-ctx.reach, ctx.reach) if tails else z
        # Gradient of the k-th coefficient, summed over the batch: c**k by_value + k c**(k - 1) by_slope, each from the
        # one below; by_power is c**(k - 1) by_slope.
        by_power = torch.addcmul(by_derivative, by_value, z - inside) if tails else by_derivative
        by_coefficient = torch.addcmul(by_power, by_value, inside)
        sums = [by_value.sum(-2), by_coefficient.sum(-2)]
        through_curvature = torch.zeros_like(terms[0])
        for power, term in enumerate(terms[2:], 2):
            # p''(c) by_slope, term by term: k (k - 1) a_k c**(k - 2) by_slope.
            through_curvature = torch.addcmul(through_curvature, by_power, term, value=power * (power - 1))
            by_power = by_power * inside
            by_coefficient = torch.addcmul(by_power, by_coefficient, inside)
            sums.append(by_coefficient.sum(-2))
        if tails and len(terms) > 2:
            # The clamp's own backward makes a boolean mask, which takes ten times as long on a CPU.
            through_curvature = torch.ops.aten.hardtanh_backward(through_curvature, z, -ctx.reach, ctx.reach)
        return torch.addcmul(through_curvature, by_value, derivative), torch.stack(sums, -2), None


def fixed_activation(z: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Value and derivative of a fixed activation, each of the shape of `z`.

    Args:
        z: pre-activations, any shape.
        activation: one of `FIXED_ACTIVATIONS`; gelu is the exact one (erf), relu has derivative 0 at 0.
    """
    if activation in FIXED_ACTIVATIONS:
        return FIXED_ACTIVATIONS[activation].value_and_derivative(z)
    raise ValueError(f"activation={activation!r} is unknown: use one of {', '.join(ACTIVATIONS)}")


@lru_cache
def hermite_coefficients(degree: int, polynomial_range: float | None = None) -> tuple[float, ...]:
    """Coefficients of the polynomial closest to GELU under z ~ N(0, 1), lowest degree first.

    Least squares on a grid fine and wide enough for float64. The polynomial is taken with its linear tails, so that a
    narrow range starts near GELU as well. For degree 3 without tails about (0.071, 0.5, 0.212, 0).

    Args:
        degree: of the polynomial.
        polynomial_range: where the linear tails begin; `None` (default) for no tails.

    Source: the Hermite projection; this package's own choice of start.
    """
    z = torch.linspace(-14, 14, 5601, dtype=torch.float64, device="cpu")
    root_weight = torch.exp(-0.25 * z * z)
    units = torch.eye(degree + 1, dtype=torch.float64, device="cpu")
    reach = math.inf if polynomial_range is None else polynomial_range
    basis = horner(z.unsqueeze(-1).expand(-1, degree + 1), units, reach)[0]  # (z, degree + 1): the powers, with tails
    target = fixed_activation(z, "gelu")[0]
    design, goal = basis * root_weight.unsqueeze(-1), (target * root_weight).unsqueeze(-1)
    return tuple(torch.linalg.lstsq(design, goal, driver="gelsd").solution.flatten().tolist())


def worst_squared_slopes(coefficients: Tensor, polynomial_range: float) -> Tensor:
    """The largest p'(z)**2 of each cubic (or lower) polynomial over all z, exact and differentiable, shape (..., out).

    The tails are as steep as the ends of the range, so the largest |p'| is at an end or, if it is inside, at the
    vertex of p'. The vertex moves with the coefficients, but p'' is 0 there, so its own gradient is not needed.

    Args:
        coefficients: lowest degree first, shape (..., degree + 1, out_features), degree 3 at most.
        polynomial_range: where the linear tails begin.
    """
    slope, *rest = coefficients.unbind(-2)[1:]
    curvature = rest[0] if rest else torch.zeros_like(slope)
    cubic = rest[1] if len(rest) > 1 else torch.zeros_like(slope)
    with torch.no_grad():
        vertex = (-curvature / (3 * cubic)).nan_to_num(0.0).clamp(-polynomial_range, polynomial_range)
        end = torch.full_like(vertex, polynomial_range)
        points = torch.stack([-end, vertex, end])
    return (slope + points * (2 * curvature + 3 * cubic * points)).square().amax(0)
