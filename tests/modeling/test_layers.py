"""layers.py against numpy, autograd and brute force, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from cr_hf.modeling.activations import ACTIVATIONS, hermite_coefficients
from cr_hf.modeling.layers import (
    COEFFICIENT_NOISE,
    CRLayer,
    Standardize,
    feature_moments,
    merge_moments,
    pool,
)


class TestCRLayer:
    @pytest.mark.parametrize("degree", [1, 3, 5])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_derivative_is_the_diagonal_of_the_jacobian(self, activation: str, degree: int) -> None:
        layer = CRLayer(6, 5, degree=degree, activation=activation, polynomial_range=1.0).double()
        features = torch.randn(9, 6).double() * 3
        value, derivative = layer(features)
        jacobian = vmap(jacrev(lambda row: layer(row.unsqueeze(0))[0].squeeze(0)))(features)
        torch.testing.assert_close(jacobian, derivative.unsqueeze(-1) * layer.linear.weight, rtol=1e-10, atol=1e-12)
        assert value.shape == derivative.shape == (9, 5)

    def test_parameters_have_the_documented_names_and_shapes(self) -> None:
        shapes = {name: tuple(parameter.shape) for name, parameter in CRLayer(6, 5).named_parameters()}
        assert shapes == {"coefficients": (4, 5), "linear.weight": (5, 6), "linear.bias": (5,)}
        fixed = {name for name, _ in CRLayer(6, 5, activation="gelu").named_parameters()}
        assert fixed == {"linear.weight", "linear.bias"}

    @pytest.mark.parametrize("degree", [1, 3, 5])
    @pytest.mark.parametrize("start", ["hermite", "identity"])
    def test_coefficients_start_near_the_chosen_polynomial(self, start: str, degree: int) -> None:
        layer = CRLayer(2, 4000, degree=degree, coefficient_init=start)
        near_gelu = hermite_coefficients(degree, layer.polynomial_range)
        mean = torch.tensor(near_gelu if start == "hermite" else [0.0, 1.0] + [0.0] * (degree - 1))
        noise = layer.coefficients.detach() - mean.unsqueeze(-1)
        assert noise.mean(1).abs().max() < 5 * COEFFICIENT_NOISE / math.sqrt(4000)
        assert noise.std(1).tolist() == pytest.approx([COEFFICIENT_NOISE] * (degree + 1), rel=0.1)

    def test_linear_map_starts_as_torch_starts_it(self) -> None:
        layer = CRLayer(64, 500)
        bound = 1 / math.sqrt(64)
        assert layer.linear.weight.abs().max() <= bound
        assert layer.linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"activation": "swish"}, r"activation='swish'.*polynomial, gelu"),
            ({"coefficient_init": "zeros"}, r"coefficient_init='zeros'.*hermite, identity"),
            ({"degree": 0}, r"degree=0.*1 or more"),
            ({"polynomial_range": 0.0}, r"polynomial_range=0.0.*above 0"),
            ({"polynomial_range": float("nan")}, r"polynomial_range=nan.*above 0"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CRLayer(2, 2, **arguments)

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [({}, "degree=3, polynomial_range=1.5"), ({"activation": "gelu"}, "activation=gelu")],
    )
    def test_print(self, arguments: dict[str, str], shown: str) -> None:
        assert shown in repr(CRLayer(2, 2, **arguments))


def brute_force_pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One row after the other, one token after the other."""
    rows = []
    for states, attended in zip(hidden, mask, strict=True):
        kept = [state for state, on in zip(states, attended.tolist(), strict=True) if on]
        if not kept:
            rows.append(torch.zeros(hidden.shape[-1]))
        elif pooling in ("cls", "last"):
            rows.append(kept[0 if pooling == "cls" else -1])
        else:
            stacked = torch.stack(kept)
            rows.append(stacked.mean(0) if pooling == "mean" else stacked.max(0).values)
    return torch.stack(rows)


class TestPool:
    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_any_mask(self, pooling: str) -> None:
        masks = torch.tensor([[int(bit) for bit in f"{number:05b}"] for number in range(32)])  # every mask of length 5
        hidden = torch.randn(32, 5, 3) - 2  # negative on average: a zero from padding would win the maximum
        torch.testing.assert_close(pool(hidden, masks, pooling), brute_force_pool(hidden, masks, pooling))

    @pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float32])
    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_any_type_of_mask(self, pooling: str, dtype: torch.dtype) -> None:
        hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
        torch.testing.assert_close(pool(hidden, mask.to(dtype), pooling), brute_force_pool(hidden, mask, pooling))

    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    @pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
    def test_padding_never_leaks_in(self, rubbish: float, pooling: str) -> None:
        # Attention over a row of padding alone is not a number in some backbones.
        hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
        spoiled = hidden.masked_fill(mask.unsqueeze(-1) == 0, rubbish)
        torch.testing.assert_close(pool(spoiled, mask, pooling), pool(hidden, mask, pooling))

    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_no_token_at_all_gives_zeros_and_no_bad_gradient(self, pooling: str) -> None:
        hidden = torch.randn(2, 3, 4, requires_grad=True)
        pooled = pool(hidden, torch.tensor([[0, 0, 0], [1, 1, 0]]), pooling)
        pooled.sum().backward()
        assert torch.equal(pooled[0], torch.zeros(4))
        assert torch.isfinite(hidden.grad).all()
        assert torch.equal(hidden.grad[0], torch.zeros(3, 4))

    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_keeps_the_dtype(self, pooling: str) -> None:
        assert pool(torch.randn(2, 3, 4).bfloat16(), torch.ones(2, 3), pooling).dtype == torch.bfloat16


class TestStandardize:
    @staticmethod
    def fitted(rows: Tensor) -> tuple[Standardize, int]:
        count, mean, squares = feature_moments([rows])
        norm = Standardize(rows.shape[1]).double()
        return norm, norm.set_statistics(mean, squares / count)

    def test_centres_and_scales(self) -> None:
        rows = torch.randn(50, 6).double() * torch.logspace(-2, 2, 6).double() + 5
        norm, left_out = self.fitted(rows)
        expected = (rows.numpy() - rows.numpy().mean(0)) / rows.numpy().std(0)
        np.testing.assert_allclose(norm(rows).numpy(), expected, rtol=1e-9, atol=1e-9)
        assert left_out == 0

    def test_constant_columns_are_left_out_and_counted(self) -> None:
        rows = torch.randn(20, 5)
        rows[:, 1] = 3.7
        rows[:, 4] = rows[:, 4] * 1e-9  # next to constant beside the others
        norm, left_out = self.fitted(rows)
        assert left_out == 2
        assert norm.scale[[1, 4]].tolist() == [0.0, 0.0]
        assert torch.equal(norm(torch.full((1, 5), 1e6).double())[0, [1, 4]], torch.zeros(2).double())

    def test_all_columns_constant(self) -> None:
        norm, left_out = self.fitted(torch.ones(4, 3))
        assert left_out == 3
        assert torch.equal(norm(torch.randn(2, 3).double()), torch.zeros(2, 3).double())

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_column_that_is_not_finite_is_named(self, bad: float) -> None:
        rows = torch.randn(4, 3)
        rows[2, 1] = bad
        with pytest.raises(ValueError, match="column 1"):
            self.fitted(rows)

    def test_unfitted_refuses(self) -> None:
        norm = Standardize(3)
        assert not norm.is_fitted
        with pytest.raises(RuntimeError, match=r"not fitted.*fit_feature_norm"):
            norm(torch.randn(2, 3))

    def test_statistics_travel_in_the_state_dict(self) -> None:
        norm, _ = self.fitted(torch.randn(8, 3))
        other = Standardize(3).double()
        other.load_state_dict(norm.state_dict())
        rows = torch.randn(2, 3).double()
        assert other.is_fitted
        assert torch.equal(other(rows), norm(rows))

    def test_reset_forgets(self) -> None:
        norm, _ = self.fitted(torch.randn(8, 3))
        assert norm.is_fitted
        norm.reset_parameters()
        assert not norm.is_fitted


class TestMoments:
    @pytest.mark.parametrize("sizes", [[60], [20, 20, 20], [1, 0, 57, 2], [1] * 60])
    def test_batches_equal_all_at_once(self, sizes: list[int]) -> None:
        rows = torch.randn(60, 4).double() * 3 + 1000  # far from zero: the textbook formula would lose digits
        count, mean, squares = feature_moments(rows.split(sizes))
        assert count == 60
        np.testing.assert_allclose(mean, rows.numpy().mean(0), rtol=1e-13)
        np.testing.assert_allclose(squares / count, rows.numpy().var(0), rtol=1e-11)

    def test_half_precision_rows_are_summed_in_double(self) -> None:
        rows = torch.randn(1000, 2).bfloat16()
        _, mean, squares = feature_moments(rows.split(100))
        assert mean.dtype == squares.dtype == torch.float64
        np.testing.assert_allclose(mean, rows.double().numpy().mean(0), rtol=1e-12)

    def test_merging_is_associative(self) -> None:
        parts = [feature_moments([torch.randn(n, 3)]) for n in (5, 1, 30)]
        left = merge_moments(merge_moments(parts[0], parts[1]), parts[2])
        right = merge_moments(parts[0], merge_moments(parts[1], parts[2]))
        assert left[0] == right[0] == 36
        torch.testing.assert_close(left[1:], right[1:], rtol=1e-12, atol=1e-12)
        assert merge_moments(None, parts[0]) is parts[0]

    @pytest.mark.parametrize("batches", [[], [torch.empty(0, 3)]])
    def test_no_rows(self, batches: list[Tensor]) -> None:
        with pytest.raises(ValueError, match="no training rows"):
            feature_moments(batches)
