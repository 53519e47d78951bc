"""Properties that hold for any input that hypothesis can think of: finite, or a clear error."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cr_hf import CRConfig
from cr_hf.modeling.activations import ACTIVATIONS, fixed_activation, polynomial
from cr_hf.modeling.configuration_cr import FEATURE_NORMS, POOLINGS
from cr_hf.modeling.layers import pool
from cr_hf.modeling.objectives import OrderedThresholds, ordinal_log_probabilities
from cr_hf.training.arguments import DREG_SCHEDULES, check_schedule, scheduled_lambda

settings.register_profile("steady", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("steady")

ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5000)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=3)
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "hidden_sizes": st.lists(st.integers(1, 4096), max_size=4),
    "degree": st.integers(1, 12),
    "activation": st.sampled_from(ACTIVATIONS),
    "polynomial_range": st.none() | st.floats(1e-3, 1e3),
    "dropout": st.floats(0, 0.999),
    "pooling": st.sampled_from(POOLINGS),
    "feature_norm": st.sampled_from(FEATURE_NORMS),
    "dreg_lambda": st.floats(0, 1e6),
    "dreg_mode": st.sampled_from(["layer", "chain"]),
    "dreg_num_tangents": st.none() | st.integers(1, 512),
    "max_seq_length": st.none() | st.integers(1, 10**6),
    "num_labels": st.integers(2, 300),
    "in_features": st.integers(1, 10**6),
}


@given(st.fixed_dictionaries(FIELDS))
def test_a_config_survives_json(fields: dict[str, Any]) -> None:
    config = CRConfig(**fields)
    again = CRConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.to_json_string() == config.to_json_string()
    assert all(getattr(again, name) == value for name, value in fields.items())


@given(st.sampled_from(sorted(FIELDS)), ANYTHING)
def test_a_wrong_field_is_one_line_that_names_it(name: str, value: Any) -> None:
    try:
        config = CRConfig(**{"in_features": 4, "num_labels": 2, name: value})
    except ValueError as error:
        message = str(error)
    else:
        assert CRConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
        return
    assert name in message
    assert "\n" not in message


@given(
    st.sampled_from(DREG_SCHEDULES),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1) | st.integers(2, 500),
    st.integers(1, 10_000),
    st.data(),
)
def test_schedules_stay_between_their_ends(
    schedule: str, start: float, end: float | None, warmup: float, total: int, data: st.DataObject
) -> None:
    try:
        check_schedule(schedule, start, end, warmup)
    except ValueError:  # the ends do not fit the schedule
        assert schedule in ("constant", "exponential") or (start, end) == (0, None)
        return
    step = data.draw(st.integers(0, total + 10))
    value = scheduled_lambda(step, total, start, end, schedule, warmup)
    assert math.isfinite(value)
    assert 0 <= value <= max(start, end or 0.0) * (1 + 1e-9)


@given(
    st.sampled_from(POOLINGS),
    arrays("bool", st.tuples(st.integers(1, 5), st.integers(1, 9))),
    st.sampled_from([0.0, math.nan, math.inf]),
)
def test_pooling_with_any_mask(pooling: str, mask: Any, on_padding: float) -> None:
    attended = torch.from_numpy(mask)
    states = torch.randn(*attended.shape, 3).masked_fill(~attended.unsqueeze(-1), on_padding)
    pooled = pool(states, attended.long(), pooling)
    assert pooled.shape == (len(attended), 3)
    assert pooled.isfinite().all()
    assert (pooled[~attended.any(1)] == 0).all()
    reference = {"mean": lambda rows: rows.mean(0), "max": lambda rows: rows.amax(0)}
    reference |= {"cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}
    for row, rows in enumerate(attended):
        if rows.any():
            torch.testing.assert_close(pooled[row], reference[pooling](states[row][rows]))


@given(
    st.integers(2, 12),
    st.lists(st.floats(-1e8, 1e8, width=32), min_size=1, max_size=6),
    st.floats(-60, 60),
)
def test_ordinal_probabilities_are_finite_for_any_score_and_threshold(
    classes: int, scores: list[float], shift: float
) -> None:
    thresholds = OrderedThresholds(classes)
    with torch.no_grad():
        for parameter in thresholds.parameters():
            parameter.add_(shift)
    ordered = thresholds()
    assert (ordered.diff() >= 0).all()
    score = torch.tensor(scores, requires_grad=True)
    logits = ordinal_log_probabilities(score.unsqueeze(-1), ordered)
    assert logits.isfinite().all()
    logits.max(-1).values.sum().backward()
    assert score.grad.isfinite().all()
    torch.testing.assert_close(logits.detach().exp().sum(-1), torch.ones(len(scores)), atol=1e-4, rtol=0)


@given(
    st.integers(1, 6),
    st.floats(0.1, 20),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=8),
)
def test_a_polynomial_with_tails_is_finite_and_its_slope_bounded(
    degree: int, reach: float, values: list[float]
) -> None:
    generator = torch.Generator().manual_seed(degree)
    coefficients = torch.randn(degree + 1, len(values), generator=generator)
    z = torch.tensor([values], requires_grad=True)
    value, slope = polynomial(z, coefficients, reach)
    assert value.isfinite().all()
    inside = torch.linspace(-reach, reach, 2001)[:, None]
    powers = torch.arange(1, degree + 1)
    largest = sum(k * coefficients[k] * inside ** (k - 1) for k in powers.tolist()).abs().amax(0)
    assert (slope.abs() <= largest * 1.01 + 1e-3).all()
    value.sum().backward()
    torch.testing.assert_close(z.grad, slope.detach(), rtol=1e-4, atol=1e-5)


@given(
    st.sampled_from([name for name in ACTIVATIONS if name != "polynomial"]), st.floats(-(2.0**100), 2.0**100, width=32)
)
def test_fixed_activations_are_finite(activation: str, z: float) -> None:
    value, slope = fixed_activation(torch.tensor([z]), activation)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert slope.abs().item() <= 1.2
