"""`SweepHead`: one head of a sweep, as `CRTrainer` would be given it, and what a sweep cannot train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import SchedulerType

from ..evaluation import Task
from ..modeling import CRConfig
from .arguments import CRTrainingArguments
from .preparation import normalized_class_weights

# What a sweep has one way of; another value is refused by name.
CONFIG_ONLY = {
    "feature_norm": ("standardize",),
    "dreg_mode": ("layer", "worst"),
}
ARGUMENTS_ONLY: dict[str, tuple[Any, ...]] = {
    "optim": ("adamw_torch_fused", "adamw_torch"),
    **dict.fromkeys(("optim_args", "optim_target_modules", "neftune_noise_alpha", "deepspeed"), (None,)),
    **dict.fromkeys(("fp16", "fp16_full_eval", "bf16_full_eval", "torch_compile", "auto_find_batch_size"), (False,)),
}
EVALUATION_ONLY = {"eval_strategy": ("epoch",), "eval_delay": (0, None)}
STEPPED_BY_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
# Heads that agree in these train in one program.
SHAPE = (
    *("in_features", "hidden_sizes", "num_labels", "degree", "activation", "polynomial_range"),
    *("problem_type", "pos_weight", "objective", "ordinal_loss", "soft_labels", "dreg_mode"),
)
SHARED = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "train_sampling_strategy"),
    *("metric_for_best_model", "greater_is_better", "load_best_model_at_end"),
)


@dataclass(frozen=True, eq=False)
class SweepHead:
    """One head of a sweep: what `CRTrainer` would be given to train it alone on features.

    Args:
        config: of the head.
        arguments: of its training; everything that has an effect on a head on features is honoured or refused.
        train_indices: the training rows in use; `None` (default) means all of them.
        early_stopping_patience: evaluations without a better metric before training stops; `None` (default): never.
        penalty_weight: weight of the penalty of another `group_type` than DREG's, 0.0 by default.
    """

    config: CRConfig
    arguments: CRTrainingArguments
    train_indices: Sequence[int] | NDArray[np.int64] | None = None
    early_stopping_patience: int | None = None
    penalty_weight: float = 0.0

    def check(self) -> None:
        """Refuse what a sweep does not have.

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        arguments, patience = self.arguments, self.early_stopping_patience
        if patience is not None and patience < 1:
            raise ValueError(f"early_stopping_patience={patience} is not allowed: use 1 or above")
        for name, only in CONFIG_ONLY.items():
            if getattr(self.config, name) not in only:
                raise ValueError(f"{name}={getattr(self.config, name)!r} is not for a sweep: use {only[0]!r}")
        compared = arguments.load_best_model_at_end or patience is not None
        for name, allowed in {**ARGUMENTS_ONLY, **(EVALUATION_ONLY if compared else {})}.items():
            value = getattr(arguments, name)
            value = value.value if isinstance(value, Enum) else value
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not for a sweep: use {allowed[0]!r}")
        if SchedulerType(arguments.lr_scheduler_type) in STEPPED_BY_METRIC:
            kind = SchedulerType(arguments.lr_scheduler_type).value
            raise ValueError(f"lr_scheduler_type={kind!r} is not for a sweep: use 'linear'")
        task = Task.of(self.config)
        if not task.is_single and (self.label_smoothing or arguments.class_weights is not None):
            raise ValueError(f"label_smoothing and class_weights: not for problem_type={self.config.problem_type!r}")
        copy.copy(self.config).set_label_smoothing(self.label_smoothing)
        metrics = task.metrics
        if self.metric not in metrics:
            raise ValueError(f"metric_for_best_model={self.metric!r} is not allowed: use one of {', '.join(metrics)}")
        arguments.check_lambda(self.config.dreg_lambda)

    @property
    def metric(self) -> str:
        """The metric of the best epoch, that of the task where none is named."""
        return (self.arguments.metric_for_best_model or Task.of(self.config).best_metric).removeprefix("eval_")

    @property
    def label_smoothing(self) -> float:
        """Share of the target spread over all classes, that of the arguments or else of the configuration."""
        return float(self.arguments.label_smoothing_factor or self.config.label_smoothing)

    def lambda_at(self, step: int, total_steps: int) -> float:
        """The DREG coefficient at a step."""
        return self.arguments.lambda_at(step, total_steps, self.config.dreg_lambda)

    @property
    def batch_size(self) -> int:
        """Rows of an optimizer step."""
        own = self.arguments
        return own.per_device_train_batch_size * own.gradient_accumulation_steps * own.world_size

    @property
    def rates(self) -> tuple[float, float, float]:
        """Learning rate, that of the thresholds, and weight decay."""
        own = self.arguments
        rate = own.learning_rate if own.head_learning_rate is None else own.head_learning_rate
        return rate, rate if own.threshold_learning_rate is None else own.threshold_learning_rate, own.weight_decay

    def configured(self, labels: Tensor) -> CRConfig:
        """The configuration as `CRTrainer` leaves it; `labels` are the classes of all training rows, shape (rows,)."""
        config, own = copy.copy(self.config), self.arguments
        config.set_label_smoothing(self.label_smoothing)
        if own.class_weights is not None:
            used = labels if self.train_indices is None else labels[torch.as_tensor(np.asarray(self.train_indices))]
            counts = torch.bincount(used, minlength=int(config.num_labels or 0)).tolist()
            config.class_weights = normalized_class_weights(own.class_weights, counts)
        return config

    @cached_property
    def subset(self) -> tuple[int, ...] | None:
        """The training rows in use, `None` for all of them."""
        return None if self.train_indices is None else tuple(int(index) for index in self.train_indices)

    @cached_property
    def key(self) -> str:
        """Equal for heads that can train in one program."""
        own = self.arguments
        shared = [getattr(self.config, name) for name in SHAPE] + [getattr(own, name) for name in SHARED]
        # Some schedules with arguments of their own read the learning rate.
        rate = own.learning_rate if own.lr_scheduler_kwargs else None
        return repr([*shared, self.label_smoothing, rate, self.early_stopping_patience])
