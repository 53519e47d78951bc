"""Many heads trained on the same features in one program.

K heads of one shape differ in what a `HeadSpec` says. Their parameters are stacked on a leading axis, so that a step
of all is a handful of batched matrix products and one fused optimizer pass. Every head keeps its own initialisation,
data order, dropout stream, gradient clipping and best epoch: it does not depend on the heads trained beside it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from ..errors import DataError
from ..modeling import CRConfig, CRHead
from .schedules import check_schedule, scheduled_lambda
from .stacked import (
    REUSED_BYTES,
    Rows,
    Stacked,
    StackedAdamW,
    TrainingRows,
    all_rows,
    check_subsets,
    default_group_size,
    initial_parameters,
    stacked_forward,
    stacked_logits,
    stacked_task_loss,
)
from .stacked_dropout import StackedDropout

DATA_ORDERS = ("per_head", "shared")
METRICS = ("accuracy", "loss")


@dataclass(frozen=True)
class HeadSpec:
    """What one head of a sweep does not share with the others.

    Args:
        seed: of its initialisation, data order and dropout.
        dreg_lambda: the DREG coefficient at the start (after the warm-up), 0.02 by default.
        dreg_lambda_end: the coefficient at the end; `None` (default) means 0 for linear and cosine.
        dreg_schedule: one of `schedules.DREG_SCHEDULES`, `"constant"` by default.
        dreg_warmup_steps: linear rise from 0; below 1 a fraction of all steps.
        learning_rate: the peak, 3e-4 by default.
        weight_decay: decoupled, on weights alone, 0.1 by default.
        threshold_learning_rate: the peak of an ordinal head's thresholds; `None` (default) means learning_rate.
        dropout: after each CR layer, 0.1 by default; exact to one part in 65536.
        train_indices: the training rows in use; `None` (default) means all of them.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    seed: int = 0
    dreg_lambda: float = 0.02
    dreg_lambda_end: float | None = None
    dreg_schedule: str = "constant"
    dreg_warmup_steps: float = 0.0
    learning_rate: float = 3e-4
    threshold_learning_rate: float | None = None
    weight_decay: float = 0.1
    dropout: float = 0.1
    train_indices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_schedule(self.dreg_schedule, self.dreg_lambda, self.dreg_lambda_end, self.dreg_warmup_steps)
        for name in ("learning_rate", "threshold_learning_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} is not allowed: use a finite number, 0 or above")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not allowed: use 0 or above and below 1")
        if self.train_indices is not None:
            object.__setattr__(self, "train_indices", tuple(int(index) for index in self.train_indices))

    @property
    def rates(self) -> tuple[float, float, float]:
        """Learning rate, that of the thresholds, and weight decay."""
        threshold_rate = self.threshold_learning_rate
        return self.learning_rate, self.learning_rate if threshold_rate is None else threshold_rate, self.weight_decay

    def lambda_at(self, step: int, total_steps: int) -> float:
        """The DREG coefficient at a step, see `schedules.scheduled_lambda`."""
        return scheduled_lambda(
            step, total_steps, self.dreg_lambda, self.dreg_lambda_end, self.dreg_schedule, self.dreg_warmup_steps
        )


@dataclass(frozen=True)
class SweepArguments:
    """How all heads of a sweep are trained. Names that `TrainingArguments` has too mean what they mean there.

    Args:
        num_train_epochs: 6 by default.
        batch_size: rows of a step, 128 by default; the last batch of an epoch may be smaller.
        lr_scheduler_type: as `transformers.get_scheduler` takes it, `"cosine"` by default.
        warmup_steps: of the learning rate; below 1 a fraction of all steps.
        max_grad_norm: every head's gradient is clipped to it by itself, 1.0 by default; 0 for no clipping.
        data_order: `"per_head"` (default): the order of the rows follows from the head's seed. `"shared"`: one order
            for all heads. It spares gathering rows for each head, 15 % of a step at 2688 features and nothing at
            384: not worth seeds that agree on a part of what a seed decides.
        data_seed: of the shared order.
        metric_for_best_model: `"accuracy"` (default) or `"loss"` on the validation rows.
        load_best_model_at_end: keep the weights of the best epoch (default), of equal ones the first; else the last.
        early_stopping_patience: a head ends after this many epochs without a better metric; `None` (default): never.
        dtype: of parameters and arithmetic, float32 by default.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    num_train_epochs: int = 6
    batch_size: int = 128
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.0
    max_grad_norm: float = 1.0
    data_order: str = "per_head"
    data_seed: int = 0
    metric_for_best_model: str = "accuracy"
    load_best_model_at_end: bool = True
    early_stopping_patience: int | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in ("num_train_epochs", "batch_size", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: use 1 or above")
        for name in ("warmup_steps", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: use 0 or above")
        for name, allowed in (("data_order", DATA_ORDERS), ("metric_for_best_model", METRICS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: use one of {', '.join(allowed)}")


@dataclass
class HeadResult:
    """One trained head.

    Args:
        spec: what it was trained with.
        config: of the head, with the spec's dropout and lambda.
        state: every tensor of `CRHead`, the feature statistics included, on the CPU.
        accuracies: on the validation rows after each epoch; NaN where a logit is not finite.
        losses: task loss on the validation rows after each epoch.
        best_epoch: the epoch of `state`, 0 the first; `None` if no epoch had a finite metric: the state is then the
            initial one.
        diverged: the first step (0 the first) with a loss or gradient that is not finite; `None` if there is none.
    """

    spec: HeadSpec
    config: CRConfig
    state: dict[str, Tensor]
    accuracies: list[float]
    losses: list[float]
    best_epoch: int | None
    diverged: int | None

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by the names of `CRHead`."""
        return dict(self.state)

    def head(self) -> CRHead:
        """The head as a module in evaluation mode, in the type it was trained in."""
        head = CRHead(self.config).to(self.state["readout.weight"].dtype)
        head.load_state_dict(self.state)
        return head.eval()


class HeadGroup:
    """Heads with equally many training rows, in training."""

    def __init__(
        self,
        features: Rows,
        labels: Tensor,
        specs: Sequence[HeadSpec],
        config: CRConfig,
        arguments: SweepArguments,
        device: torch.device,
    ) -> None:
        self.specs, self.config, self.arguments = specs, config, arguments
        seeds = [spec.seed for spec in specs]
        self.parameters = self.leaves = initial_parameters(config, seeds, arguments.dtype, device)
        like = self.parameters["readout.bias"].detach()
        self.rows = TrainingRows(features, labels, [spec.train_indices for spec in specs], like)
        self.dropout = StackedDropout([spec.dropout for spec in specs], seeds, config.hidden_sizes, like)
        order_seeds = [arguments.data_seed] if arguments.data_order == "shared" else seeds
        self.orders = [torch.Generator().manual_seed(seed) for seed in order_seeds]
        total = arguments.num_train_epochs * math.ceil(self.rows.num_rows / arguments.batch_size)
        self.lambdas = like.new_tensor([[spec.lambda_at(step, total) for spec in specs] for step in range(total)])
        self.penalised = bool(self.lambdas.any())
        self.adamw = StackedAdamW(self.parameters, [spec.rates for spec in specs], arguments.max_grad_norm)
        warmup = arguments.warmup_steps
        warmup_steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
        self.scheduler = get_scheduler(arguments.lr_scheduler_type, self.adamw.optimizer, warmup_steps, total)
        self.step = 0
        self.diverged = torch.full((len(specs),), -1, device=device)

    def train_epoch(self) -> None:
        """One pass of every head over its training rows."""
        order = torch.stack([torch.randperm(self.rows.num_rows, generator=generator) for generator in self.orders])
        for positions in order.split(self.arguments.batch_size, dim=1):
            self.train_step(*self.rows.batch(positions))

    def train_step(self, features: Tensor, labels: Tensor) -> None:
        """One optimizer step of every head, on features (1 or K, batch, in_features) and labels (1 or K, batch)."""
        masks = self.dropout.masks(features.shape[1])
        logits, dreg = stacked_forward(self.parameters, features.expand(len(self.specs), -1, -1), self.config, masks)
        losses = stacked_task_loss(logits, labels, self.config)
        self.update(losses + self.lambdas[self.step] * dreg if self.penalised else losses)

    def update(self, losses: Tensor) -> None:
        """Backward and optimizer, on the losses of all heads, shape (K,)."""
        # A head's loss depends on its own parameters alone, so the gradient of the sum holds each head's own.
        gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        norms = self.adamw.step(dict(zip(self.leaves, gradients, strict=True)))
        self.scheduler.step()
        fine = torch.isfinite(norms + losses.detach()) | (self.diverged >= 0)
        self.diverged = torch.where(fine, self.diverged, self.step)
        self.step += 1

    def evaluate(self, features: Rows, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy (NaN where a logit is not finite) and task loss of every head on raw features, each (K,)."""
        batch_size = self.arguments.batch_size
        logits = stacked_logits(self.parameters, self.rows.mean, self.rows.scale, features, self.config, batch_size)
        accuracy = (logits.argmax(-1) == labels).to(logits.dtype).mean(1)
        finite = torch.isfinite(logits).flatten(1).all(1)
        return torch.where(finite, accuracy, torch.nan), stacked_task_loss(logits, labels.unsqueeze(0), self.config)

    def train(self, features: Rows, labels: Tensor) -> list[HeadResult]:
        """All epochs; features and labels are the validation rows."""
        arguments, count = self.arguments, len(self.specs)
        kept = {name: values.detach().clone() for name, values in self.parameters.items()}
        best = torch.full((count,), -torch.inf, dtype=arguments.dtype)
        kept_epoch, waited = torch.full((count,), -1), torch.zeros(count)
        active = torch.ones(count, dtype=torch.bool)
        curves: list[tuple[list[float], list[float]]] = [([], []) for _ in self.specs]
        for epoch in range(arguments.num_train_epochs):
            self.train_epoch()
            accuracy, loss = (values.cpu() for values in self.evaluate(features, labels))
            metric = accuracy if arguments.metric_for_best_model == "accuracy" else -loss
            better = active & (metric > best)
            chosen = better if arguments.load_best_model_at_end else active
            best, kept_epoch = torch.where(better, metric, best), torch.where(chosen, epoch, kept_epoch)
            for name, values in self.parameters.items():
                kept[name][chosen] = values.detach()[chosen]
            for index in active.nonzero().flatten().tolist():
                curves[index][0].append(float(accuracy[index]))
                curves[index][1].append(float(loss[index]))
            waited = torch.where(better, 0, waited + 1)
            if arguments.early_stopping_patience is not None:
                active = active & (waited < arguments.early_stopping_patience)
            if not active.any():
                break
        return [self._result(index, kept, curves[index], int(kept_epoch[index])) for index in range(count)]

    def _result(self, index: int, kept: Stacked, curves: tuple[list[float], list[float]], epoch: int) -> HeadResult:
        spec = self.specs[index]
        config = copy.deepcopy(self.config)
        config.dropout, config.dreg_lambda = spec.dropout, spec.dreg_lambda
        subset = min(index, len(self.rows.mean) - 1)
        state = {
            "feature_norm.mean": self.rows.mean[subset, 0],
            "feature_norm.scale": self.rows.scale[subset, 0],
            "feature_norm.fitted": torch.ones((), dtype=torch.int64),
            **{name: values[index] for name, values in kept.items()},
        }
        return HeadResult(
            spec=spec,
            config=config,
            state={name: values.cpu().clone() for name, values in state.items()},
            accuracies=curves[0],
            losses=curves[1],
            best_epoch=epoch if epoch >= 0 else None,
            diverged=int(self.diverged[index]) if self.diverged[index] >= 0 else None,
        )


def train_heads(
    features: Rows,
    labels: Sequence[int] | Rows,
    specs: Sequence[HeadSpec],
    config: CRConfig,
    arguments: SweepArguments | None = None,
    *,
    validation_features: Rows,
    validation_labels: Sequence[int] | Rows,
    device: str | torch.device | None = None,
    group_size: int | None = None,
    group_type: type[HeadGroup] = HeadGroup,
) -> list[HeadResult]:
    """Train one head per spec, many at a time.

    Args:
        features: training rows, shape (rows, in_features); a memory map is read once per subset.
        labels: class indices of the training rows, shape (rows,).
        specs: the heads.
        config: of every head: `in_features`, `hidden_sizes`, `num_labels`, `activation`, `objective`,
            `label_smoothing` and so on. Its dropout and lambda are not read: every spec has its own.
        arguments: what all heads share; `SweepArguments()` by default.
        validation_features: rows that choose each head's best epoch, shape (rows, in_features).
        validation_labels: class indices of the validation rows.
        device: `None` (default) takes the GPU if there is one.
        group_size: heads in one program; `None` (default) computes it, see `default_group_size`.
        group_type: what trains them; for penalties other than DREG see `penalties.py`.

    Returns:
        One result per spec, in the order of the specs.

    Raises:
        ValueError: if the configuration asks for what a sweep does not have.
        DataError: if rows, labels or indices cannot be used.
    """
    arguments = arguments or SweepArguments()
    _check_config(config)
    targets = _checked_labels("labels", features, labels, config)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    validation_targets = _checked_labels("validation_labels", validation_features, validation_labels, config)
    validation = (all_rows(validation_features, device), validation_targets.to(device))
    num_rows = [len(features) if spec.train_indices is None else len(spec.train_indices) for spec in specs]
    check_subsets([spec.train_indices for spec in specs], len(features))
    if device.type == "cpu":
        # The first freed block of a size makes glibc's malloc keep blocks up to that size.
        torch.empty(REUSED_BYTES, dtype=torch.uint8)
    # Heads of one learning rate and decay side by side share an optimizer pass.
    order = sorted(range(len(specs)), key=lambda i: (num_rows[i], specs[i].rates))
    results: dict[int, HeadResult] = {}
    for rows, run in groupby(order, lambda i: num_rows[i]):
        members = list(run)
        copies = any(specs[i].train_indices is not None for i in members)
        size = group_size or default_group_size(
            config, arguments.batch_size, arguments.dtype, device, rows if copies else 0
        )
        for part in np.array_split(members, math.ceil(len(members) / size)):
            group = group_type(features, targets, [specs[i] for i in part], config, arguments, device)
            results.update(zip(part.tolist(), group.train(*validation), strict=True))
    return [results[index] for index in range(len(specs))]


def _check_config(config: CRConfig) -> None:
    for name, only in (
        ("problem_type", "single_label_classification"),
        ("feature_norm", "standardize"),
        ("dreg_mode", "layer"),
    ):
        if getattr(config, name) != only:
            raise ValueError(f"{name}={getattr(config, name)!r} is not for a sweep: use {only!r}, or CRTrainer")


def _checked_labels(name: str, features: Rows, labels: Sequence[int] | Rows, config: CRConfig) -> Tensor:
    if features.ndim != 2 or features.shape[1] != config.in_features:
        shape = tuple(features.shape)
        raise DataError(f"features for {name} have the shape {shape}: give (rows, in_features={config.in_features})")
    classes = labels.cpu() if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if len(classes) != len(features) or not len(classes):
        raise DataError(f"{name} has {len(classes)} entries for {len(features)} rows of features: give one per row")
    num_labels = int(config.num_labels or 0)
    if classes.is_floating_point() or classes.min() < 0 or classes.max() >= num_labels:
        raise DataError(f"{name} must be whole numbers from 0 to {num_labels - 1}")
    return classes.long()


def predict_heads(
    results: Sequence[HeadResult],
    features: Rows,
    *,
    device: str | torch.device | None = None,
    batch_size: int = 128,
) -> Tensor:
    """Logits of several heads of one shape.

    Args:
        results: of `train_heads`.
        features: raw, shape (rows, in_features).
        device: `None` (default) takes the GPU if there is one.
        batch_size: rows at a time.

    Returns:
        Shape (len(results), rows, num_labels), on the CPU.

    Raises:
        RuntimeError: if the heads have different shapes.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stacked = {name: torch.stack([result.state[name] for result in results]).to(device) for name in results[0].state}
    mean, scale = (stacked[f"feature_norm.{name}"].unsqueeze(1) for name in ("mean", "scale"))
    return stacked_logits(stacked, mean, scale, features, results[0].config, batch_size).cpu()
