"""`CRTrainingArguments`: the arguments of `CRTrainer`, and the schedules of the DREG coefficient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels

DREG_SCHEDULES = ("constant", "linear", "cosine", "exponential")
AT_LEAST_1 = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("eval_accumulation_steps", "ddp_timeout"),
)
AT_LEAST_0 = (
    *("learning_rate", "head_learning_rate", "threshold_learning_rate", "weight_decay", "num_train_epochs"),
    *("dataloader_num_workers", "seed", "data_seed", "label_smoothing_factor", "neftune_noise_alpha"),
    *("logging_steps", "eval_steps", "save_steps", "eval_delay", "max_grad_norm"),
)
LEAST = {**dict.fromkeys(AT_LEAST_1, 1), **dict.fromkeys(AT_LEAST_0, 0)}
LARGEST_SEED = 2**32 - 1  # numpy's
MOST = {"seed": LARGEST_SEED, "data_seed": LARGEST_SEED, "label_smoothing_factor": 1}
COMPILE_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CHOICES: dict[str, tuple[Any, ...]] = {
    "train_sampling_strategy": ("random", "sequential", "group_by_length"),
    "include_num_input_tokens_seen": ("no", "all", "non_padding", False, True),
    "torch_compile_mode": COMPILE_MODES,
    **dict.fromkeys(("log_level", "log_level_replica"), tuple(trainer_log_levels)),
}
"""Values that `TrainingArguments` takes unseen and that would fail, or be passed over, once training has begun."""


@dataclass
class CRTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the schedule of the DREG coefficient and a learning rate for the head.

    Learning rate, epochs and batch size are those of `TrainingArguments`, which are for fine-tuning. A head on a
    frozen backbone learns little with them: take those of recipes/text.yaml, or `CRClassifier`, which also encodes
    every text once instead of every epoch.

    Defaults changed from `TrainingArguments`:
        logging_nan_inf_filter: False, so that a NaN is seen and stops the run.
        ddp_find_unused_parameters: False, since every trainable parameter always gets a gradient.
        restore_callback_states_from_checkpoint: True, so that early stopping resumes exactly.

    Args:
        dreg_lambda: the DREG coefficient at the start (after the warm-up); `None` (default) takes the model
            configuration's `dreg_lambda`.
        dreg_lambda_end: the coefficient at the end; `None` (default) means 0 for linear and cosine.
        dreg_schedule: `"constant"` (default), `"linear"`, `"cosine"` or `"exponential"`.
        dreg_warmup_steps: linear rise from 0; below 1 a fraction of all steps. 0.0 by default.
        head_learning_rate: learning rate of the head; `None` (default) means `learning_rate`.
        threshold_learning_rate: learning rate of the thresholds of a cumulative link, 0.02 by default: they have
            units to go where weights have hundredths. `None` means that of the head.
        layer_decay: factor of the learning rate from one layer of the backbone to the one below it, above 0 and at
            most 1; `None` (default) means 1.
        class_weights: `"balanced"`, or one factor per class; scaled by the trainer to mean 1 over the training rows.
            `None` (default) for none.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    dreg_lambda: float | None = field(default=None, metadata={"help": "DREG coefficient; None: the model config's."})
    dreg_lambda_end: float | None = field(default=None, metadata={"help": "DREG coefficient at the end of training."})
    dreg_schedule: str = field(default="constant", metadata={"help": f"One of {', '.join(DREG_SCHEDULES)}."})
    dreg_warmup_steps: float = field(default=0.0, metadata={"help": "Linear rise from 0; below 1: a fraction."})
    head_learning_rate: float | None = field(default=None, metadata={"help": "None: learning_rate."})
    threshold_learning_rate: float | None = field(default=0.02, metadata={"help": "None: that of the head."})
    layer_decay: float | None = field(default=None, metadata={"help": "Learning rate factor per backbone layer."})
    class_weights: list[float] | str | None = field(default=None, metadata={"help": "'balanced' or a list."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Off: a NaN stops the run."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "No parameter is unused."})
    restore_callback_states_from_checkpoint: bool = field(default=True, metadata={"help": "For exact resume."})

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"{name}={value} is not allowed: use a number, {least} or above")
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise ValueError(f"{name}={value} is not allowed: use a number, {most} or below")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: use one of {known}")
        if not isinstance(self.trackio_static_space_id, str | bool | None):
            raise ValueError(
                f"trackio_static_space_id={self.trackio_static_space_id!r} is not allowed: use text or false"
            )
        if isinstance(self.dreg_lambda, str):
            raise ValueError(f"dreg_lambda={self.dreg_lambda!r} is not allowed: use a number, or auto in a recipe")
        super().__post_init__()
        start, end = self.dreg_lambda, self.dreg_lambda_end
        if start is None:  # the model's, which the trainer will check: any will do to look at the rest
            start, end = 1.0, None if self.dreg_schedule == "constant" else end
        check_schedule(self.dreg_schedule, start, end, self.dreg_warmup_steps)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} is not allowed: use a number above 0, at most 1")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise ValueError(
                f"class_weights={self.class_weights!r} is not allowed: use 'balanced' or a list, one number per class"
            )

    def check_lambda(self, of_model: float) -> None:
        """`check_schedule` for a model whose configuration has this `dreg_lambda`."""
        start = of_model if self.dreg_lambda is None else self.dreg_lambda
        check_schedule(self.dreg_schedule, start, self.dreg_lambda_end, self.dreg_warmup_steps)

    def lambda_at(self, step: int, total_steps: int, of_model: float) -> float:
        """`scheduled_lambda` for a model whose configuration has this `dreg_lambda`."""
        start = of_model if self.dreg_lambda is None else self.dreg_lambda
        ends = (start, self.dreg_lambda_end)
        return scheduled_lambda(step, max(1, total_steps), *ends, self.dreg_schedule, self.dreg_warmup_steps)


def check_schedule(schedule: str, start: float, end: float | None, warmup_steps: float) -> None:
    """Refuse a schedule of lambda that `scheduled_lambda` cannot compute.

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
        start: lambda after the warm-up, at least 0.
        end: lambda at the end of training; `None` means 0 for linear and cosine, start for constant.
        schedule: one of `DREG_SCHEDULES`.
        warmup_steps: length of a linear rise from 0 to start; below 1 a fraction of total_steps.

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
