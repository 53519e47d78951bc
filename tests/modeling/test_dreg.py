"""dreg.py against the explicit Jacobian of torch.func, in float64."""

import math
import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import functional_call, jacrev, vmap

from cr_hf.modeling.activations import ACTIVATIONS, polynomial
from cr_hf.modeling.dreg import (
    chain_dreg,
    chain_tangents,
    network_dreg,
)
from cr_hf.modeling.layers import CRLayer
from cr_hf.training.arguments import scheduled_lambda

DEGREES = [1, 2, 3, 4, 5]
# (activation, degree): every degree of the polynomial, and every fixed activation once.
LAYER_KINDS = [("polynomial", degree) for degree in DEGREES] + [(name, 3) for name in ACTIVATIONS[1:]]
# (batch, in_features, out_features)
SIZES = [(1, 1, 1), (7, 5, 3), (3, 4, 11), (16, 13, 13)]
# (polynomial_range, scale of the inputs): inside, across, far outside, and without tails.
REGIMES = [(50.0, 1.0), (1.0, 1.5), (0.5, 100.0), (None, 1.5)]


def explicit_norm(layer: CRLayer, parameters: dict[str, Tensor], features: Tensor) -> Tensor:
    """Mean over the batch of the squared Frobenius norm of the Jacobian that autograd builds."""

    def value(row: Tensor) -> Tensor:
        return functional_call(layer, parameters, (row.unsqueeze(0),))[0].squeeze(0)

    return vmap(jacrev(value))(features).square().sum((-2, -1)).mean()


def layer_dreg(derivative: Tensor | None, weight: Tensor) -> Tensor:
    return network_dreg([derivative], [weight])[..., 0]


def closed_form(layer: CRLayer, parameters: dict[str, Tensor], features: Tensor) -> Tensor:
    _, derivative = functional_call(layer, parameters, (features,))
    return layer_dreg(derivative, parameters["linear.weight"])


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-300)).item()


class TestLayerDreg:
    @pytest.mark.parametrize(("reach", "scale"), REGIMES)
    @pytest.mark.parametrize(("batch", "in_features", "out_features"), SIZES)
    @pytest.mark.parametrize(("activation", "degree"), LAYER_KINDS)
    def test_equals_the_explicit_jacobian(
        self,
        activation: str,
        degree: int,
        batch: int,
        in_features: int,
        out_features: int,
        reach: float | None,
        scale: float,
    ) -> None:
        layer = CRLayer(in_features, out_features, degree, activation, reach).double()
        if layer.coefficients is not None:
            nn.init.normal_(layer.coefficients)
        parameters, features = dict(layer.named_parameters()), torch.randn(batch, in_features).double() * scale
        expected = explicit_norm(layer, parameters, features)
        assert relative_error(closed_form(layer, parameters, features), expected) <= 1e-10

    @given(
        seed=st.integers(0, 2**31),
        batch=st.integers(1, 9),
        widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        kind=st.sampled_from(LAYER_KINDS),
        reach=st.one_of(st.none(), st.floats(0.1, 10)),
        scale=st.floats(0.1, 20),
    )
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    def test_equals_it_at_random_widths_and_batches(
        self,
        seed: int,
        batch: int,
        widths: tuple[int, int],
        kind: tuple[str, int],
        reach: float | None,
        scale: float,
    ) -> None:
        torch.manual_seed(seed)
        layer = CRLayer(*widths, degree=kind[1], activation=kind[0], polynomial_range=reach).double()
        parameters, features = dict(layer.named_parameters()), torch.randn(batch, widths[0]).double() * scale
        expected = explicit_norm(layer, parameters, features)
        actual = closed_form(layer, parameters, features)
        assert relative_error(actual, expected) <= 1e-10 or max(actual, expected) < 1e-30

    @pytest.mark.parametrize(("reach", "scale"), REGIMES)
    @pytest.mark.parametrize(("activation", "degree"), LAYER_KINDS)
    def test_gradients_equal_those_of_the_explicit_norm(
        self, activation: str, degree: int, reach: float | None, scale: float
    ) -> None:
        layer = CRLayer(5, 4, degree, activation, reach).double()
        if layer.coefficients is not None:
            nn.init.normal_(layer.coefficients)
        parameters = dict(layer.named_parameters())
        inputs = {**parameters, "features": (torch.randn(6, 5).double() * scale).requires_grad_()}
        actual, expected = (
            torch.autograd.grad(
                norm(layer, parameters, inputs["features"]),
                list(inputs.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for norm in (closed_form, explicit_norm)
        )
        for name, ours, reference in zip(inputs, actual, expected, strict=True):
            # The floor is for tanh, whose slope vanishes to rounding error far outside.
            torch.testing.assert_close(
                ours, reference, rtol=1e-10, atol=1e-20, msg=lambda text, n=name: f"{n}: {text}"
            )

    def test_the_readout_has_derivative_one(self) -> None:
        weight = torch.randn(3, 7).double()
        jacobian = jacrev(lambda row: nn.functional.linear(row, weight))(torch.randn(7).double())
        assert relative_error(layer_dreg(None, weight), jacobian.square().sum()) <= 1e-10
        assert relative_error(layer_dreg(torch.ones(4, 3).double(), weight), jacobian.square().sum()) <= 1e-10

    def test_many_heads_at_once(self) -> None:
        derivative, weight = torch.randn(3, 6, 4), torch.randn(3, 4, 5)
        together = layer_dreg(derivative, weight)
        alone = torch.stack([layer_dreg(*pair) for pair in zip(derivative, weight, strict=True)])
        torch.testing.assert_close(together, alone)
        torch.testing.assert_close(layer_dreg(None, weight), torch.stack([layer_dreg(None, one) for one in weight]))

    def test_is_a_mean_over_rows(self) -> None:
        derivative, weight = torch.randn(8, 4), torch.randn(4, 5)
        halves = [layer_dreg(half, weight) for half in derivative.split(4)]
        torch.testing.assert_close(layer_dreg(derivative, weight), sum(halves) / 2)

    def test_works_without_autograd(self) -> None:
        layer = CRLayer(3, 4)
        with torch.inference_mode():
            assert layer_dreg(layer(torch.randn(2, 3))[1], layer.linear.weight) > 0


class Network(nn.Module):
    """CR layers, dropout with given masks, and a readout: what `chain_dreg` differentiates."""

    def __init__(self, widths: list[int], activation: str, keep: float | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CRLayer(low, high, activation=activation, polynomial_range=1.0) for low, high in pairwise(widths[:-1])
        )
        self.readout = nn.Linear(widths[-2], widths[-1])
        self.keep = keep

    def masks(self, batch: int) -> list[Tensor | None]:
        if self.keep is None:
            return [None] * (len(self.layers) + 1)
        drawn = [torch.rand(batch, layer.linear.out_features).double() < self.keep for layer in self.layers]
        return [*(mask.double() / self.keep for mask in drawn), None]

    def prefix(self, row: Tensor, masks: list[Tensor | None], length: int) -> Tensor:
        """Output of layer `length` for one row; dropout comes after a layer, so it touches the next one's input."""
        hidden = row.unsqueeze(0)
        for index in range(length):
            if index > 0 and masks[index - 1] is not None:
                hidden = hidden * masks[index - 1]
            hidden = self.layers[index](hidden)[0] if index < len(self.layers) else self.readout(hidden)
        return hidden.squeeze(0)

    def parts(self, features: Tensor, masks: list[Tensor | None]) -> tuple[list[Tensor | None], list[Tensor]]:
        hidden, derivatives = features, []
        for layer, mask in zip(self.layers, masks[:-1], strict=True):
            hidden, derivative = layer(hidden)
            hidden = hidden if mask is None else hidden * mask
            derivatives.append(derivative)
        return [*derivatives, None], [*(layer.linear.weight for layer in self.layers), self.readout.weight]

    def explicit(self, features: Tensor, masks: list[Tensor | None]) -> Tensor:
        norms = []
        for length in range(1, len(self.layers) + 2):
            rows = [
                jacrev(self.prefix)(row, [None if mask is None else mask[i : i + 1] for mask in masks], length)
                for i, row in enumerate(features)
            ]
            norms.append(torch.stack(rows).square().sum((-2, -1)).mean())
        return torch.stack(norms)


def orthonormal(width: int) -> Tensor:
    """Any complete orthonormal set of directions."""
    return torch.linalg.qr(torch.randn(width, width).double())[0]


CHAINS = [([4, 3], "polynomial"), ([6, 5, 3], "polynomial"), ([5, 7, 4, 2], "polynomial"), ([5, 7, 4, 2], "tanh")]


class TestChainDreg:
    @pytest.mark.parametrize("keep", [None, 0.6])
    @pytest.mark.parametrize(("widths", "activation"), CHAINS)
    def test_exact_with_the_identity_and_with_as_many_tangents_as_features(
        self, widths: list[int], activation: str, keep: float | None
    ) -> None:
        network, features = Network(widths, activation, keep).double(), torch.randn(5, widths[0]).double() * 2
        masks = network.masks(5)
        derivatives, weights = network.parts(features, masks)
        expected = network.explicit(features, masks)
        for tangents in (torch.eye(widths[0]).double(), orthonormal(widths[0]), chain_tangents(widths[0], None, 3)):
            actual = chain_dreg(derivatives, weights, tangents, masks)
            assert actual.shape == (len(widths) - 1,)
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)

    def test_gradients_equal_those_of_the_explicit_norm(self) -> None:
        network, features = Network([4, 5, 3, 2], "polynomial", 0.7).double(), torch.randn(3, 4).double()
        masks, parameters = network.masks(3), list(network.parameters())
        ours = chain_dreg(*network.parts(features, masks), torch.eye(4).double(), masks).sum()
        actual = torch.autograd.grad(ours, parameters, materialize_grads=True)
        expected = torch.autograd.grad(
            network.explicit(features, masks).sum(), parameters, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("num_tangents", [1, 3, 7])
    def test_unbiased_within_three_standard_errors(self, num_tangents: int) -> None:
        network, features = Network([8, 6, 3], "polynomial", 0.6).double(), torch.randn(4, 8).double()
        masks = network.masks(4)
        with torch.no_grad():
            derivatives, weights = network.parts(features, masks)
            exact = chain_dreg(derivatives, weights, torch.eye(8).double(), masks)
            draws = torch.stack(
                [chain_dreg(derivatives, weights, chain_tangents(8, num_tangents, seed), masks) for seed in range(600)]
            )
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - exact).abs() <= 3 * error).all()
        assert (error / exact < 0.05).all()  # tight enough for a bias of scale to be seen

    def test_first_layer_alone_is_the_layer_norm(self) -> None:
        network, features = Network([4, 5, 2], "polynomial", None).double(), torch.randn(6, 4).double()
        masks = network.masks(6)
        derivatives, weights = network.parts(features, masks)
        chained = chain_dreg(derivatives, weights, torch.eye(4).double(), masks)
        torch.testing.assert_close(chained[0], layer_dreg(derivatives[0], weights[0]), rtol=1e-12, atol=0)


class TestChainTangents:
    @pytest.mark.parametrize("num_tangents", [1, 4, 5])
    def test_rows_are_orthogonal_of_the_length_that_makes_it_unbiased(self, num_tangents: int) -> None:
        tangents = chain_tangents(6, num_tangents, seed=0)
        gram = torch.eye(num_tangents).double() * 6 / num_tangents
        torch.testing.assert_close(tangents @ tangents.T, gram, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("num_tangents", [None, 6, 8])
    def test_as_many_as_features_is_exact(self, num_tangents: int | None) -> None:
        # A table of six columns under the default of eight directions.
        assert torch.equal(chain_tangents(6, num_tangents, seed=0), torch.eye(6).double())

    @pytest.mark.parametrize("num_tangents", [None, 2])
    def test_global_random_state_is_left_alone(self, num_tangents: int | None) -> None:
        before = torch.get_rng_state()
        chain_tangents(6, num_tangents, seed=1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_pure_function_of_the_seed(self) -> None:
        first, second, other = (chain_tangents(6, 2, seed) for seed in (1, 1, 2))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("num_tangents", [None, 2])
    def test_the_default_device_does_not_matter(self, num_tangents: int | None) -> None:
        with torch.device("meta"):
            assert chain_tangents(6, num_tangents, seed=0).device.type == "cpu"

    @pytest.mark.parametrize("num_tangents", [0, -1])
    def test_too_few(self, num_tangents: int) -> None:
        with pytest.raises(ValueError, match=rf"num_tangents={num_tangents} must be 1 or above"):
            chain_tangents(6, num_tangents, seed=0)


class Penalised(nn.Module):
    """One CR layer with its penalty, lambda applied outside the compiled region, as the trainer does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = CRLayer(6, 5, polynomial_range=1.0)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = self.layer(features)
        return value.square().mean(), layer_dreg(derivative, self.layer.linear.weight)

    def gradients(self, compiled: nn.Module, features: Tensor, dreg_lambda: float) -> tuple[Tensor, ...]:
        loss, penalty = compiled(features)
        return torch.autograd.grad(loss + dreg_lambda * penalty, list(self.parameters()))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
class TestCompile:
    def test_one_graph_while_lambda_changes(self) -> None:
        module, features = Penalised(), torch.randn(7, 6) * 2
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for step in range(6):
            dreg_lambda = scheduled_lambda(step, 5, 0.4, 0.1, "cosine", 2)
            actual = module.gradients(compiled, features, dreg_lambda)
            torch.testing.assert_close(actual, module.gradients(module, features, dreg_lambda))
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]

    @pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
    def test_inductor_gives_the_same_gradients(self) -> None:
        module, features = Penalised(), torch.randn(7, 6) * 2
        compiled = torch.compile(module, fullgraph=True)
        torch.testing.assert_close(module.gradients(compiled, features, 0.1), module.gradients(module, features, 0.1))

    def test_chain_is_one_graph(self) -> None:
        features, tangents, mask = torch.randn(7, 6), torch.eye(6), torch.ones(7, 5)
        layer, readout = CRLayer(6, 5), torch.randn(3, 5)

        def penalty(features: Tensor) -> Tensor:
            derivative = layer(features)[1]
            return chain_dreg([derivative, None], [layer.linear.weight, readout], tangents, [mask, None])

        compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(features), penalty(features))


def test_polynomial_is_differentiable_twice_for_an_autograd_penalty() -> None:
    """A penalty by autograd (the tail ratio's gradient, say) has to go through the layer as well."""
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z, a: polynomial(z, a, None)[0], (z, coefficients))
