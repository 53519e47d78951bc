"""Dropout against what `nn.Dropout` promises."""

import shutil

import pytest
import torch
from torch import Tensor, nn

from cr_hf.modeling.layers import Dropout


@pytest.fixture
def fresh_compiler():
    """torch.compile without what earlier tests left behind."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_are_dropped_at_the_asked_rate_and_the_mean_is_kept(rate: float, dtype: torch.dtype):
    torch.manual_seed(0)
    output = Dropout(rate)(torch.ones(400, 501, dtype=dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.unique(), torch.tensor([0, 1 / (1 - rate)], dtype=dtype), rtol=1e-4, atol=0)
    deviation = (rate * (1 - rate) / output.numel()) ** 0.5
    assert abs(float((output == 0).double().mean()) - rate) < 4 * deviation
    assert abs(float(output.mean()) - 1) < 4 * deviation / (1 - rate)


def test_units_rows_and_calls_are_independent():
    torch.manual_seed(0)
    dropout = Dropout(0.5)
    first, second = dropout(torch.ones(200, 64)), dropout(torch.ones(200, 64))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.04
    for one in (first, first.T):
        correlations = torch.corrcoef(one) - torch.eye(len(one))
        assert correlations.abs().mean() < 0.15
        assert abs(float(correlations.mean())) < 0.01


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 5), (2, 3, 7)])
def test_any_shape(shape: tuple[int, ...]):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_the_gradient_is_the_mask():
    features = torch.randn(8, 16, requires_grad=True)
    output = Dropout(0.3)(features)
    (gradient,) = torch.autograd.grad(output.sum(), features)
    torch.testing.assert_close(output, gradient * features)


def test_a_seed_gives_the_same_mask_and_leaves_as_much_randomness():
    outputs, following = [], []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(Dropout(0.5)(torch.ones(9, 9)))
        following.append(torch.rand(4))
    assert torch.equal(*outputs)
    assert torch.equal(*following)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_rates_that_need_no_draw(rate: float, kept: float):
    torch.testing.assert_close(Dropout(rate)(torch.ones(5, 5)), torch.full((5, 5), kept))


def test_nothing_is_dropped_in_evaluation():
    features = torch.randn(5, 5)
    assert torch.equal(Dropout(0.9).eval()(features), features)


class TwoDropouts(nn.Module):
    """What a head has: a mask after each layer, of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = Dropout(0.5)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.dropout(features), self.dropout(features)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_masks_differ_between_layers_and_steps_and_serve_the_backward_pass_too():
    compiled = torch.compile(TwoDropouts(), fullgraph=True)
    seen = []
    for _ in range(3):
        features = torch.ones(64, 64, requires_grad=True)
        outputs = compiled(features)
        for output in outputs:
            assert 0.4 < float((output == 0).float().mean()) < 0.6
        (gradient,) = torch.autograd.grad(outputs[0].sum() + 3 * outputs[1].sum(), features)
        torch.testing.assert_close(gradient, outputs[0] + 3 * outputs[1])
        seen.extend(output.detach() for output in outputs)
    assert not any(torch.equal(one, other) for index, one in enumerate(seen) for other in seen[:index])
