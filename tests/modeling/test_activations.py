"""activations.py against numpy, torch and autograd, in float64."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

from cr_hf.modeling.activations import (
    FIXED_ACTIVATIONS,
    fixed_activation,
    hermite_coefficients,
    polynomial,
    worst_squared_slopes,
)

REFERENCES = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
}


def away_from(z: Tensor, *points: float) -> Tensor:
    """Push pre-activations at least 1e-3 away from the points where a derivative jumps."""
    for point in points:
        z = torch.where((z - point).abs() < 1e-3, point + 2e-3, z)
    return z


class TestPolynomial:
    @pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
    def test_equals_numpy_without_tails(self, degree: int) -> None:
        z, coefficients = torch.randn(7, 4).double() * 3, torch.randn(degree + 1, 4).double()
        value, derivative = polynomial(z, coefficients)
        for unit in range(4):
            reference = np.polynomial.Polynomial(coefficients[:, unit].numpy())
            np.testing.assert_allclose(value[:, unit], reference(z[:, unit].numpy()), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                derivative[:, unit], reference.deriv()(z[:, unit].numpy()), rtol=1e-12, atol=1e-12
            )

    @pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
    def test_goes_on_as_its_tangent_outside_the_range(self, degree: int) -> None:
        reach, coefficients = 1.5, torch.randn(degree + 1, 3).double()
        z = torch.tensor([-40.0, -3.0, -1.5, -0.2, 0.0, 1.4, 1.5, 2.0, 1e6]).double().unsqueeze(-1).expand(-1, 3)
        value, derivative = polynomial(z, coefficients, reach)
        edge = z.clamp(-reach, reach)
        for unit in range(3):
            reference = np.polynomial.Polynomial(coefficients[:, unit].numpy())
            slope = reference.deriv()(edge[:, unit].numpy())
            tangent = reference(edge[:, unit].numpy()) + slope * (z - edge)[:, unit].numpy()
            np.testing.assert_allclose(derivative[:, unit], slope, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(value[:, unit], tangent, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_value_and_slope_are_continuous_at_the_range(self, sign: float) -> None:
        coefficients, step = torch.randn(4, 5).double(), 1e-9
        inside = torch.full((1, 5), sign * (2.0 - step)).double()
        outside = torch.full((1, 5), sign * (2.0 + step)).double()
        for before, after in zip(
            polynomial(inside, coefficients, 2.0), polynomial(outside, coefficients, 2.0), strict=True
        ):
            torch.testing.assert_close(before, after, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("extreme", [-1e30, 1e30])
    def test_tails_keep_extreme_inputs_finite(self, extreme: float, dtype: torch.dtype) -> None:
        z = torch.full((2, 4), extreme, dtype=dtype, requires_grad=True)
        coefficients = torch.randn(4, 4, dtype=dtype, requires_grad=True)
        value, derivative = polynomial(z, coefficients, 6.0)
        gradients = torch.autograd.grad(value.sum() + derivative.square().sum(), (z, coefficients))
        assert all(torch.isfinite(tensor).all() for tensor in (value, derivative, *gradients))
        # The contrast shows what the tails are for.
        assert not torch.isfinite(polynomial(z.float(), coefficients.float())[0]).any()

    @pytest.mark.parametrize("reach", [None, 1.0])
    def test_runs_many_heads_at_once(self, reach: float | None) -> None:
        z, coefficients = torch.randn(3, 2, 5, 4) * 2, torch.randn(3, 2, 4, 4)
        value, derivative = polynomial(z, coefficients, reach)
        assert value.shape == derivative.shape == z.shape
        for i in range(3):
            for j in range(2):
                alone = polynomial(z[i, j], coefficients[i, j], reach)
                torch.testing.assert_close(value[i, j], alone[0])
                torch.testing.assert_close(derivative[i, j], alone[1])

    @pytest.mark.parametrize("reach", [None, 1.0, 100.0])
    @pytest.mark.parametrize("degree", [1, 2, 3, 5])
    def test_first_and_second_derivatives(self, degree: int, reach: float | None) -> None:
        z = away_from(torch.randn(4, 3).double() * 1.5, -1.0, 1.0).requires_grad_()
        coefficients = torch.randn(degree + 1, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z, a: polynomial(z, a, reach), (z, coefficients))
        assert torch.autograd.gradgradcheck(lambda z, a: polynomial(z, a, reach), (z, coefficients))

    @pytest.mark.parametrize("reach", [1.0, 100.0])
    def test_empty_tails_change_no_bit(self, reach: float) -> None:
        z = torch.randn(50, 8).clamp(-2, 2).requires_grad_()
        coefficients = torch.randn(4, 8, requires_grad=True)
        # One row in the tails brings the whole batch to the general formula.
        far = torch.cat([z, torch.full((1, 8), 2 * reach)])
        found = []
        for rows in (z, far):
            value, derivative = (part[:50] for part in polynomial(rows, coefficients, reach))
            gradients = torch.autograd.grad(value.sin().sum() + derivative.square().sum(), (z, coefficients))
            found.append((value, derivative, *gradients))
        for alone, beside in zip(*found, strict=True):
            torch.testing.assert_close(alone, beside, rtol=1e-6, atol=1e-6)
        assert torch.equal(found[0][0], found[1][0])

    def test_where_values_cannot_be_seen(self) -> None:
        z, coefficients = torch.randn(6, 3, 4) * 2, torch.randn(4, 4)
        value, derivative = polynomial(z, coefficients, 1.0)
        mapped = vmap(lambda rows: polynomial(rows, coefficients, 1.0))(z)
        torch.testing.assert_close(mapped, (value, derivative))
        # A trace made on rows inside the range also holds outside.
        traced = torch.jit.trace(lambda rows: polynomial(rows, coefficients, 1.0), (z.clamp(-0.5, 0.5),))
        torch.testing.assert_close(traced(z), (value, derivative))
        with FakeTensorMode() as mode:
            fake = polynomial(mode.from_tensor(z), mode.from_tensor(coefficients), 1.0)
        assert [part.shape for part in fake] == [z.shape, z.shape]
        assert polynomial(z.to("meta"), coefficients.to("meta"), 1.0)[0].shape == z.shape

    @pytest.mark.parametrize("z", [torch.empty(0, 4), torch.full((2, 4), torch.nan)])
    def test_no_rows_and_no_numbers(self, z: Tensor) -> None:
        value, derivative = polynomial(z, torch.randn(4, 4), 1.0)
        assert value.shape == derivative.shape == z.shape
        assert torch.isnan(value).all()


class TestFixedActivation:
    @pytest.mark.parametrize("activation", FIXED_ACTIVATIONS)
    def test_equals_torch_in_value_and_derivative(self, activation: str) -> None:
        z = torch.linspace(-9, 9, 301).double().requires_grad_()
        value, derivative = fixed_activation(z, activation)
        reference = REFERENCES[activation](z)
        (slope,) = torch.autograd.grad(reference.sum(), z, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(derivative, slope, rtol=1e-12, atol=1e-14)
        found = FIXED_ACTIVATIONS[activation].second_derivative(z)
        torch.testing.assert_close(found, bend, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("activation", FIXED_ACTIVATIONS)
    def test_gradcheck(self, activation: str) -> None:
        z = away_from(torch.randn(5, 4).double() * 2, 0.0).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: fixed_activation(z, activation)[0], (z,))
        if activation != "relu":  # its derivative is piecewise constant, and carries no gradient
            assert torch.autograd.gradcheck(lambda z: fixed_activation(z, activation)[1], (z,))

    @pytest.mark.parametrize("activation", FIXED_ACTIVATIONS)
    @pytest.mark.parametrize("extreme", [-1e30, -50.0, 0.0, 50.0, 1e30])
    def test_extreme_inputs_stay_finite(self, extreme: float, activation: str) -> None:
        z = torch.full((3,), extreme, requires_grad=True)
        value, derivative = fixed_activation(z, activation)
        total = value.sum() + derivative.sum()
        (gradient,) = torch.autograd.grad(total, z)
        assert all(torch.isfinite(tensor).all() for tensor in (value, derivative, gradient))

    def test_relu_is_flat_at_zero(self) -> None:
        assert fixed_activation(torch.zeros(1), "relu")[1].item() == 0.0

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"activation='swish'.*polynomial, gelu, relu, tanh, silu"):
            fixed_activation(torch.zeros(1), "swish")


class TestHermiteStart:
    @pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 8])
    def test_is_the_gaussian_least_squares_fit_of_gelu(self, degree: int) -> None:
        # Another way: project on orthonormal Hermite polynomials by Gauss quadrature, then change the basis.
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        gelu = np.array([0.5 * z * (1 + math.erf(z / math.sqrt(2))) for z in nodes])
        weights = weights / weights.sum()
        projection = [
            (weights * gelu * np.polynomial.hermite_e.HermiteE.basis(k)(nodes)).sum() / math.factorial(k)
            for k in range(degree + 1)
        ]
        expected = np.zeros(degree + 1)
        converted = np.polynomial.hermite_e.herme2poly(projection)
        expected[: len(converted)] = converted
        np.testing.assert_allclose(hermite_coefficients(degree), expected, rtol=0, atol=1e-12)

    def test_cubic_to_three_digits(self) -> None:
        assert hermite_coefficients(3) == pytest.approx((0.071, 0.5, 0.212, 0.0), abs=5e-4)

    def test_cubic_in_closed_form(self) -> None:
        # E[gelu] = 1/(2 sqrt(pi)) and E[gelu (z**2 - 1)]/2 = 3/(8 sqrt(pi)), by Stein's lemma.
        first, second = 1 / (2 * math.sqrt(math.pi)), 3 / (8 * math.sqrt(math.pi))
        assert hermite_coefficients(3) == pytest.approx((first - second, 0.5, second, 0.0), abs=1e-12)

    @pytest.mark.parametrize("reach", [0.5, 1.0, 1.5, 3.0])
    @pytest.mark.parametrize("degree", [2, 3, 5])
    def test_with_tails_no_other_polynomial_is_nearer(self, degree: int, reach: float) -> None:
        def distance(coefficients: np.ndarray) -> float:
            def squared(z: float) -> float:
                end = min(max(z, -reach), reach)
                powers = np.arange(len(coefficients))
                value = coefficients @ (end**powers + powers * end ** np.maximum(powers - 1, 0) * (z - end))
                gelu = 0.5 * z * (1 + math.erf(z / math.sqrt(2)))
                return (value - gelu) ** 2 * math.exp(-z * z / 2)

            return scipy.integrate.quad(squared, -12, 12, points=[-reach, reach], epsabs=1e-13)[0]

        found = np.array(hermite_coefficients(degree, reach))
        nearest = distance(found)
        for index in range(degree + 1):
            for step in (-1e-3, 1e-3):
                assert distance(found + step * np.eye(degree + 1)[index]) > nearest

    def test_wide_tails_change_nothing(self) -> None:
        assert hermite_coefficients(3, 30.0) == pytest.approx(hermite_coefficients(3), abs=1e-10)


class TestWorstSquaredSlopes:
    @pytest.mark.parametrize("degree", [1, 2, 3])
    @pytest.mark.parametrize("reach", [0.3, 1.5, 6.0])
    def test_is_the_largest_on_a_dense_grid(self, degree: int, reach: float) -> None:
        torch.manual_seed(0)
        coefficients = torch.randn(7, degree + 1, 40, dtype=torch.float64)
        coefficients[0, -1] = 0.0  # no vertex, or one that is infinitely far away
        found = worst_squared_slopes(coefficients, reach)
        z = torch.linspace(-2 * reach, 2 * reach, 40_001, dtype=torch.float64)
        for index, own in enumerate(coefficients):
            slopes = polynomial(z.unsqueeze(-1).expand(-1, 40), own, reach)[1]
            highest = slopes.square().amax(0)
            assert (found[index] >= highest * (1 - 1e-12)).all()
            torch.testing.assert_close(found[index], highest, rtol=1e-6, atol=1e-9)

    def test_gradient(self) -> None:
        torch.manual_seed(1)
        coefficients = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda values: worst_squared_slopes(values, 1.5), coefficients)

    def test_of_the_zero_polynomial(self) -> None:
        coefficients = torch.zeros(4, 2, requires_grad=True)
        worst_squared_slopes(coefficients, 1.5).sum().backward()
        assert torch.equal(coefficients.grad, torch.zeros(4, 2))
