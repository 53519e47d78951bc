"""Diagnostics against autograd, brute force and scipy, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cr_hf.errors import DataError
from cr_hf.evaluation.lipschitz import certified_shares, largest_slope_found, lipschitz_bound
from cr_hf.evaluation.metrics import compute_classification_metrics
from cr_hf.evaluation.sensitivity import (
    calibration,
    curvature,
    diagnose_features,
    dreg_per_layer,
    fit_temperature,
    gradient_tail_ratio,
    input_gradient_norms,
    non_linearity,
    summarise_gradients,
)
from cr_hf.evaluation.statistics import sample_rows
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.modeling.head import CRHead

IN_FEATURES, ROWS = 6, 40


def features_of(rows: int = ROWS, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, IN_FEATURES, generator=generator, dtype=torch.float64) * 3 + 1


def head_of(seed: int = 0, spread: float = 2.0, **fields: Any) -> CRHead:
    """A fitted float64 head whose weights are larger than at the start, so that it is far from linear."""
    torch.manual_seed(seed)
    values = {"in_features": IN_FEATURES, "num_labels": 3, "hidden_sizes": [8, 7], "dropout": 0.5, **fields}
    head = CRHead(CRConfig(**values)).double().eval()
    with torch.no_grad():
        for layer in head.layers:
            layer.linear.weight.mul_(spread)
            if layer.coefficients is not None:
                layer.coefficients.add_(0.3 * torch.randn_like(layer.coefficients))
    if hasattr(head.feature_norm, "set_statistics"):
        rows = features_of()
        head.feature_norm.set_statistics(rows.mean(0), rows.var(0, correction=0))
    return head


def jacobian_of(head: CRHead, row: Tensor) -> Tensor:
    """Of the logits by the normalised features of one raw row, by autograd through the head's own forward."""
    point = head.feature_norm(row[None])[0]
    norm, head.feature_norm = head.feature_norm, torch.nn.Identity()
    found = torch.autograd.functional.jacobian(lambda x: head(x[None])[0][0], point)
    head.feature_norm = norm
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation": "gelu"},
        {"objective": "ordinal", "ordinal_loss": "cumulative_link"},
        {"feature_norm": "layer_norm"},
    ],
)
def test_gradients_are_those_of_autograd(fields: dict[str, Any]) -> None:
    head, rows = head_of(**fields), features_of()
    labels = torch.arange(ROWS) % 3
    logits = head(rows)[0]
    found = {name: input_gradient_norms(head, rows, name, labels) for name in ("margin", "logit", "loss")}
    for row in range(ROWS):
        jacobian = jacobian_of(head, rows[row])
        first, second = logits[row].topk(2).indices
        error = logits[row].softmax(-1) - F.one_hot(labels[row], 3)
        expected = {"margin": jacobian[first] - jacobian[second], "logit": jacobian[first], "loss": error @ jacobian}
        for name, gradient in expected.items():
            assert found[name][row].item() == pytest.approx(gradient.norm().item(), rel=1e-9), name


def test_gradients_do_not_depend_on_chunks_dropout_or_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    head, rows = head_of(), features_of()
    whole = input_gradient_norms(head, rows)
    monkeypatch.setattr("cr_hf.evaluation.sensitivity.CHUNK_ROWS", 7)
    head.train()
    with torch.no_grad():
        assert torch.allclose(input_gradient_norms(head, rows), whole, rtol=1e-12)
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_linear_head_of_two_classes_has_tail_ratio_one() -> None:
    head, rows = head_of(hidden_sizes=[], num_labels=2), features_of()
    weight = head.readout.weight
    norms = input_gradient_norms(head, rows)
    torch.testing.assert_close(norms, (weight[0] - weight[1]).norm().expand(ROWS))
    assert gradient_tail_ratio(norms.detach()) == pytest.approx(1, abs=1e-12)
    assert non_linearity(head, rows) == 0
    assert curvature(head, rows) == pytest.approx(0, abs=1e-9)


def test_tail_ratio_interpolates_the_quantile() -> None:
    assert gradient_tail_ratio(torch.arange(1.0, 102.0)) == pytest.approx(100 / 51)
    assert gradient_tail_ratio(np.array([1.0, 3.0])) == pytest.approx(2.98 / 2)
    assert math.isnan(gradient_tail_ratio(torch.zeros(5)))


def test_intervals_are_those_of_scipy() -> None:
    norms = np.random.default_rng(1).lognormal(size=500)
    found = summarise_gradients(norms)
    expected = scipy.stats.bootstrap(
        (norms,), lambda x, axis: np.quantile(x, 0.99, axis=axis) / x.mean(axis), method="percentile", n_resamples=4000
    ).confidence_interval
    assert found["tail_ratio_interval"] == pytest.approx([expected.low, expected.high], rel=0.05)
    low, high = found["tail_ratio_interval"]
    assert low <= gradient_tail_ratio(norms) <= high
    assert found["peak_interval"][1] == norms.max()
    assert found == summarise_gradients(norms)


def test_non_linearity_is_one_minus_r_squared_of_a_linear_fit() -> None:
    head, rows = head_of(hidden_sizes=[8]), features_of()
    layer = head.layers[0]
    z = layer.linear(head.feature_norm(rows)).detach().numpy()
    value = layer(head.feature_norm(rows))[0].detach().numpy()
    residual = sum(np.polyfit(z[:, unit], value[:, unit], 1, full=True)[1][0] for unit in range(8))
    expected = residual / ((value - value.mean(0)) ** 2).sum()
    assert non_linearity(head, rows) == pytest.approx(expected, rel=1e-9)
    with torch.no_grad():
        layer.coefficients[2:] = 0
        layer.linear.weight.div_(10)
    assert non_linearity(head, rows) == pytest.approx(0, abs=1e-12)


def test_dreg_per_layer_is_that_of_the_forward_pass() -> None:
    head, rows = head_of(), features_of()
    torch.testing.assert_close(torch.tensor(dreg_per_layer(head, rows)).double(), head(rows, output_dreg=True)[1])


def test_curvature_of_a_parabola_is_known() -> None:
    """With p(z) = z**2 the logits are parabolas on every line: |f''| = 2 |w| dz**2, and f' = 2 z dz w."""
    head, rows = head_of(hidden_sizes=[1], degree=2, polynomial_range=None), features_of(2)
    with torch.no_grad():
        head.layers[0].coefficients.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
    z0, z1 = head.layers[0].linear(head.feature_norm(rows)).detach().flatten().tolist()
    length = scipy.integrate.quad(lambda t: abs(z0 + t * (z1 - z0)), 0, 1)[0]
    # 32 pieces, of whose second differences there are 31.
    assert curvature(head, rows) == pytest.approx(abs(z1 - z0) / length * 31 / 32, rel=0.01)


# ---- the bound ----

heads = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "spread": st.sampled_from([0.3, 1.0, 4.0]),
        "degree": st.integers(1, 7),
        "activation": st.sampled_from(["polynomial", "polynomial", "gelu", "relu", "tanh", "silu"]),
        "polynomial_range": st.sampled_from([0.5, 2.0, 6.0]),
        "hidden_sizes": st.sampled_from([[], [1], [5], [4, 6], [3, 3, 3]]),
        "objective": st.sampled_from(["cross_entropy", "ordinal"]),
        "ordinal_loss": st.just("cumulative_link"),
        "feature_norm": st.sampled_from(["standardize", "layer_norm"]),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(fields=heads)
def test_the_bound_is_never_below_a_slope_that_is_found(fields: dict[str, Any]) -> None:
    head = head_of(**fields)
    rows = features_of(20)
    bound, found = lipschitz_bound(head), largest_slope_found(head, rows, starts=8, steps=20)
    assert 0 < found <= bound
    slopes = [jacobian_of(head, row) for row in rows] if head.thresholds is None else []
    assert max((torch.linalg.matrix_norm(slope, ord=2).item() for slope in slopes), default=0.0) <= bound
    points = head.feature_norm(rows)
    norm, head.feature_norm = head.feature_norm, torch.nn.Identity()
    thresholds, head.thresholds = head.thresholds, None
    change = torch.linalg.vector_norm(head(points[:10])[0] - head(points[10:])[0], dim=-1)
    head.feature_norm, head.thresholds = norm, thresholds
    assert (change <= bound * torch.linalg.vector_norm(points[:10] - points[10:], dim=-1)).all()
    raw = lipschitz_bound(head, raw=True)
    if fields["feature_norm"] == "layer_norm":
        assert raw == math.inf
    elif head.thresholds is None:
        change = torch.linalg.vector_norm(head(rows[:10])[0] - head(rows[10:])[0], dim=-1)
        assert (change <= raw * torch.linalg.vector_norm(rows[:10] - rows[10:], dim=-1)).all()


def test_the_search_climbs() -> None:
    head, rows = head_of(), features_of()
    at_rows = max(torch.linalg.matrix_norm(jacobian_of(head, row), ord=2).item() for row in rows)
    found = largest_slope_found(head, rows)
    assert at_rows < found <= lipschitz_bound(head)
    assert found == largest_slope_found(head, rows)
    linear = head_of(hidden_sizes=[])
    assert largest_slope_found(linear, rows) == pytest.approx(lipschitz_bound(linear), rel=1e-8)


def test_there_is_no_bound_without_tails() -> None:
    assert lipschitz_bound(head_of(polynomial_range=None)) == math.inf


# ---- calibration ----


def test_of_a_wide_head_a_random_sample_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = head_of(), features_of()
    labels = head(features)[0].argmax(-1)
    assert certified_shares(head, features)["rows"] == ROWS
    monkeypatch.setattr("cr_hf.evaluation.lipschitz.CERTIFIED_OPERATIONS", 0)
    monkeypatch.setattr("cr_hf.evaluation.lipschitz.FEWEST_CERTIFIED", 7)
    found, sample = certified_shares(head, features, labels), sample_rows(ROWS, 7)
    assert found["rows"] == 7
    assert found == certified_shares(head, features[sample], labels[sample])
    assert found["accuracy"] == found["unchanged"]


def test_temperature_is_the_best_one() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 4)) * 5
    labels = np.array([generator.choice(4, p=row) for row in scipy.special.softmax(logits / 3, axis=-1)])
    found = fit_temperature(logits, labels)
    best = scipy.optimize.minimize(
        lambda t: F.cross_entropy(torch.tensor(logits / t), torch.tensor(labels)).item(), [1.0], method="Nelder-Mead"
    )
    assert found == pytest.approx(best.x[0], rel=1e-3)
    measured = calibration(logits, labels, found)
    name = "expected_calibration_error"
    assert measured[name] == compute_classification_metrics(logits, labels, ordered=False)[name]
    assert measured[f"{name}_at_temperature"] < measured[name]


# ---- all of it ----


def test_diagnose_features_is_whole_and_json() -> None:
    head, linear, rows = head_of(), head_of(hidden_sizes=[]), features_of()
    found = diagnose_features(head, rows, torch.arange(ROWS) % 3, linear)
    norms = input_gradient_norms(head, rows)
    assert found["rows"] == ROWS
    assert set(found["gradients"]) == {"margin", "logit", "loss"}
    assert found["gradients"]["margin"]["tail_ratio"] == gradient_tail_ratio(norms.detach())
    assert found["gradients"]["margin"]["peak"] == norms.max().item()
    assert found["linear"]["tail_ratio"] < found["gradients"]["margin"]["tail_ratio"]
    assert found["largest_slope_found"] <= found["lipschitz_bound"]
    assert found["lipschitz_of"] == "logits"
    endless = diagnose_features(
        head_of(polynomial_range=None, objective="ordinal", ordinal_loss="cumulative_link"), rows
    )
    assert endless["lipschitz_bound"] is None
    assert endless["linear"] is None
    assert endless["lipschitz_of"] == "score"


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_other_problems_are_measured_by_the_logit(problem_type: str) -> None:
    head, rows = head_of(problem_type=problem_type, num_labels=2), features_of()
    found = diagnose_features(head, rows, torch.ones(ROWS, 2))
    assert set(found["gradients"]) == {"logit", "loss"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [(torch.full((1, IN_FEATURES), math.nan), "row 0 of the features holds NaN"), (features_of(0), "no rows")],
)
def test_bad_rows_are_named(rows: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        diagnose_features(head_of(), rows)


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (["slope"], {}, "output='slope' is unknown"),
        (["loss"], {}, "needs labels"),
        (["margin"], {"num_labels": 1, "problem_type": "regression"}, "needs two logits"),
    ],
)
def test_outputs_that_cannot_be_had(arguments: list[str], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        input_gradient_norms(head_of(**fields), features_of(), *arguments)
