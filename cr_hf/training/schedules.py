"""Schedules of the DREG coefficient over training."""

from __future__ import annotations

import math

DREG_SCHEDULES = ("constant", "linear", "cosine", "exponential")


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
