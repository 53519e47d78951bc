"""`CRTrainingArguments`: the arguments of `CRTrainer`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from .schedules import DREG_SCHEDULES, check_schedule

LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("learning_rate", "weight_decay", "num_train_epochs", "max_grad_norm"), 0),
    **dict.fromkeys(("dataloader_num_workers", "seed"), 0),
}
LARGEST_SEED = 2**32 - 1  # numpy's


@dataclass
class CRTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the schedule of the DREG coefficient and a learning rate for the head.

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
        threshold_learning_rate: learning rate of the thresholds of an ordinal objective, 0.02 by default: they have
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
            if not least <= value < math.inf:
                raise ValueError(f"{name}={value} is not allowed: use a number, {least} or above")
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed={self.seed} is not allowed: use a number, {LARGEST_SEED} or below")
        super().__post_init__()
        if self.dreg_lambda is not None:
            check_schedule(self.dreg_schedule, self.dreg_lambda, self.dreg_lambda_end, self.dreg_warmup_steps)
        for name in ("head_learning_rate", "threshold_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not rate >= 0:
                raise ValueError(f"{name}={rate} is not allowed: use a number, 0 or above")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} is not allowed: use a number above 0, at most 1")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise ValueError(
                f"class_weights={self.class_weights!r} is not allowed: use 'balanced' or a list, one number per class"
            )
