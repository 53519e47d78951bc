"""Schedules of the DREG coefficient."""

import math
from collections.abc import Callable

import pytest

from cr_hf.training.arguments import DREG_SCHEDULES, check_schedule, scheduled_lambda


@pytest.mark.parametrize(
    ("schedule", "closed_form"),
    [
        ("constant", lambda t: 0.4),
        ("linear", lambda t: 0.4 + (0.1 - 0.4) * t),
        ("cosine", lambda t: 0.1 + (0.4 - 0.1) * (1 + math.cos(math.pi * t)) / 2),
        ("exponential", lambda t: 0.4 * (0.1 / 0.4) ** t),
    ],
)
@pytest.mark.parametrize("warmup", [0, 5])
def test_closed_forms(schedule: str, closed_form: Callable[[float], float], warmup: int) -> None:
    end = None if schedule == "constant" else 0.1
    for step in range(warmup, 26):
        expected = closed_form((step - warmup) / (25 - warmup))
        assert scheduled_lambda(step, 25, 0.4, end, schedule, warmup) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", DREG_SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3, 0.2])
def test_both_ends_and_never_beyond(schedule: str, warmup: float) -> None:
    end = 0.4 if schedule == "constant" else 0.1
    values = [scheduled_lambda(step, 20, 0.4, end, schedule, warmup) for step in range(25)]
    start = 0 if warmup == 0 else math.ceil(warmup * 20) if warmup < 1 else warmup
    assert values[start] == pytest.approx(0.4)
    assert values[20:] == pytest.approx([end] * 5)
    assert all(0 <= value <= 0.4 + 1e-12 for value in values)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_end_is_zero_unless_given(schedule: str) -> None:
    assert scheduled_lambda(10, 10, 0.4, None, schedule) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.4, 4), (0.34, 4), (1, 1), (0.999, 10), (20, 20)])
def test_warmup_rises_from_zero_in_steps_or_as_a_fraction(warmup: float, steps: int) -> None:
    values = [scheduled_lambda(step, 10, 0.4, None, "constant", warmup) for step in range(11)]
    assert values == pytest.approx([0.4 * min(1, step / steps) for step in range(11)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_lambda_zero_is_zero_throughout(schedule: str) -> None:
    assert [scheduled_lambda(step, 5, 0.0, None, schedule, 2) for step in range(6)] == [0.0] * 6


def test_resume_is_exact() -> None:
    whole = [scheduled_lambda(step, 30, 0.02, 0.001, "cosine", 0.1) for step in range(31)]
    again = [scheduled_lambda(step, 30, 0.02, 0.001, "cosine", 0.1) for step in reversed(range(31))]
    assert whole == again[::-1]


@pytest.mark.parametrize("total_steps", [1, 2])
@pytest.mark.parametrize("schedule", DREG_SCHEDULES)
def test_very_short_training(schedule: str, total_steps: int) -> None:
    end = 0.4 if schedule == "constant" else 0.1
    values = [scheduled_lambda(step, total_steps, 0.4, end, schedule) for step in range(total_steps + 1)]
    assert (values[0], values[-1]) == pytest.approx((0.4, end))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", 0.1, None, 0), r"dreg_schedule='step' is unknown: use one of constant, linear"),
        (("constant", -0.1, None, 0), r"dreg_lambda=-0.1 must be a finite number, 0 or above"),
        (("constant", math.nan, None, 0), r"dreg_lambda=nan"),
        (("linear", 0.1, math.inf, 0), r"dreg_lambda_end=inf"),
        (("linear", 0.1, -1.0, 0), r"dreg_lambda_end=-1.0"),
        (("constant", 0.1, 0.2, 0), r"dreg_lambda_end=0.2 has no effect under dreg_schedule='constant'"),
        (("exponential", 0.1, 0.0, 0), r"needs both ends above 0, got dreg_lambda=0.1 and dreg_lambda_end=0.0"),
        (("exponential", 0.1, None, 0), r"needs both ends above 0.*dreg_lambda_end=None"),
        (("exponential", 0.0, 0.1, 0), r"needs both ends above 0.*dreg_lambda=0.0"),
        (("linear", 0.1, None, -1), r"dreg_warmup_steps=-1 must be"),
        (("linear", 0.1, None, math.nan), r"dreg_warmup_steps=nan must be"),
        (("linear", 0.1, None, math.inf), r"dreg_warmup_steps=inf must be"),
    ],
)
def test_what_cannot_be_computed_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_schedule(*arguments)
    schedule, start, end, warmup = arguments
    with pytest.raises(ValueError, match=message):
        scheduled_lambda(0, 10, start, end, schedule, warmup)
