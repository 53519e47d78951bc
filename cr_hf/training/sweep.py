"""Many heads trained on the same features in one program, each as `CRTrainer` would train it alone.

K heads of one shape are stacked on a leading axis, so that a step of all is a handful of batched matrix products and
one fused optimizer pass. Every head keeps its own initialisation, data order, dropout stream, gradient clipping and
best epoch: it does not depend on the heads trained beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import get_scheduler

from ..data import SINGLE
from ..errors import DataError
from ..evaluation import Task
from ..modeling import CRConfig, CRHead, class_losses, target_losses
from .stacked import (
    REUSED_BYTES,
    Rows,
    Stacked,
    StackedAdamW,
    StackedDropout,
    TrainingRows,
    all_rows,
    default_group_size,
    initial_parameters,
    stacked_forward,
    stacked_logits,
)
from .sweep_head import SweepHead

EVALUATED_ROWS = 128  # at a time


@dataclass
class HeadResult:
    """One trained head.

    Args:
        setup: what it was trained with.
        config: of the head, with label smoothing and class weights of the arguments.
        state: every tensor of `CRHead`, the feature statistics included, on the CPU.
        accuracies: on the validation rows after each epoch; NaN where a logit is not finite, and for numbers.
        losses: task loss on the validation rows after each epoch.
        best_epoch: the epoch of `state`, 0 the first; `None` if no epoch had a finite metric: the state is then the
            initial one.
        diverged: the first step (0 the first) with a loss or gradient that is not finite; `None` if there is none.
    """

    setup: SweepHead
    config: CRConfig
    state: dict[str, Tensor]
    accuracies: list[float]
    losses: list[float]
    best_epoch: int | None
    diverged: int | None

    @property
    def accuracy(self) -> float:
        """On the validation rows, of the epoch that is kept; 0 where no epoch had finite logits."""
        return 0.0 if self.best_epoch is None else self.accuracies[self.best_epoch]

    def head(self) -> CRHead:
        """The head as a module in evaluation mode, in the type it was trained in."""
        head = CRHead(self.config).to(self.state["readout.weight"].dtype)
        head.load_state_dict(self.state)
        return head.eval()


class HeadGroup:
    """Heads with one `key` and equally many training rows, in training."""

    def __init__(
        self,
        features: Rows,
        labels: Tensor,
        heads: Sequence[SweepHead],
        dtype: torch.dtype,
        device: torch.device,
        weights: Tensor | None = None,
    ) -> None:
        self.heads, self.configs = heads, [head.configured(labels) for head in heads]
        self.config, self.arguments, self.batch_size = self.configs[0], heads[0].arguments, heads[0].batch_size
        seeds = [head.arguments.seed for head in heads]
        self.parameters = self.leaves = initial_parameters(self.configs, seeds, dtype, device)
        like = self.parameters["readout.bias"].detach()
        self.rows = TrainingRows(features, labels, [head.subset for head in heads], like, weights)
        self.row_weights: Tensor | None = None  # of the rows of a training step, (1 or K, batch)
        rates, micro_batch = [config.dropout for config in self.configs], self.arguments.per_device_train_batch_size
        self.dropout = StackedDropout(rates, seeds, self.config.hidden_sizes, micro_batch, like)
        own = [head.arguments.data_seed for head in heads]
        self.order_seeds = [seed if data is None else data for seed, data in zip(seeds, own, strict=True)]
        full, rest = divmod(self.rows.num_rows, self.batch_size)
        epoch = max(1, full + (rest > 0 and not self.arguments.dataloader_drop_last))
        steps = self.arguments.max_steps
        self.total = steps if steps > 0 else math.ceil(self.arguments.num_train_epochs * epoch)
        self.epochs = math.ceil(self.total / epoch)
        self.lambdas = like.new_tensor(
            [[head.lambda_at(step, self.total) for head in heads] for step in range(self.total)]
        )
        self.penalised = bool(self.lambdas.any())
        self.penalty_weights = like.new_tensor([head.penalty_weight for head in heads])
        classes = int(self.config.num_labels or 0)
        factors = like.new_tensor([config.class_weights or [1.0] * classes for config in self.configs])
        self.class_weights = None if bool((factors == 1).all()) else factors
        self.adamw = StackedAdamW(self.parameters, [head.rates for head in heads], self.arguments)
        self.scheduler = get_scheduler(
            self.arguments.lr_scheduler_type,
            self.adamw.optimizer,
            self.arguments.get_warmup_steps(self.total),
            self.total,
            self.arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )
        self.step = 0
        self.diverged = torch.full((len(heads),), -1, device=device)

    def train_epoch(self, epoch: int) -> None:
        """One pass of every head over its training rows, in the order of `EpochBatchSampler`."""
        count = self.rows.num_rows
        order = torch.arange(count).unsqueeze(0)
        if self.arguments.train_sampling_strategy != "sequential":
            seeds = self.order_seeds[:1] if len(set(self.order_seeds)) == 1 else self.order_seeds
            generators = [torch.Generator().manual_seed(seed + epoch) for seed in seeds]
            order = torch.stack([torch.randperm(count, generator=generator) for generator in generators])
        for positions in order.split(self.batch_size, dim=1):
            is_short = self.arguments.dataloader_drop_last and positions.shape[1] < self.batch_size
            if self.step < self.total and not is_short:
                features, labels, self.row_weights = self.rows.batch(positions)
                self.train_step(features, labels)
        self.row_weights = None

    def train_step(self, features: Tensor, labels: Tensor) -> None:
        """One optimizer step of every head, on features (1 or K, batch, in_features) and labels (1 or K, batch)."""
        masks = self.dropout.masks(self.step, features.shape[1])
        rows = self.read_rows(features)
        logits, dreg = stacked_forward(self.effective_parameters(), rows, self.config, masks)
        losses = self.task_losses(logits, labels)
        total = losses + self.lambdas[self.step] * dreg if self.penalised else losses
        self.update(total + self.penalty(rows, logits, losses))

    def read_rows(self, features: Tensor) -> Tensor:
        """What the heads read of features (1 or K, batch, in_features), shape (K, batch, in_features)."""
        return features.expand(len(self.heads), -1, -1)

    def effective_parameters(self) -> Stacked:
        """The parameters that are in force."""
        return self.leaves

    def penalty(self, rows: Tensor, logits: Tensor, losses: Tensor) -> Tensor | float:
        """What is added to the losses of the heads, shape (K,), beside DREG; nothing unless a subclass says."""
        return 0.0

    def task_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`objectives.task_loss` of each head, (K,), from logits (K, batch, num_labels) and labels (1 or K, batch)."""
        config = self.config
        if config.problem_type == SINGLE:
            labels = labels.expand(logits.shape[:2])
            rows = (logits.flatten(0, 1), labels.flatten())
            losses = class_losses(*rows, config.label_smoothing, config.soft_labels, config.squared_emd)
            losses = losses.view(labels.shape)
        else:  # labels are targets, (1 or K, batch, num_labels)
            losses = target_losses(logits, labels.expand_as(logits), str(config.problem_type), config.pos_weight)
        if self.class_weights is not None:
            losses = losses * self.class_weights.gather(1, labels)
        return (losses if self.row_weights is None else losses * self.row_weights).mean(1)

    def update(self, losses: Tensor) -> None:
        """Backward and optimizer, on the losses of all heads, shape (K,)."""
        # A head's loss depends on its own parameters alone, so the gradient of the sum holds each head's own.
        gradients = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        norms = self.adamw.step(dict(zip(self.leaves, gradients, strict=True)))
        self.scheduler.step()
        fine = torch.isfinite(norms + losses.detach()) | (self.diverged >= 0)
        self.diverged = torch.where(fine, self.diverged, self.step)
        self.step += 1

    def evaluate(self, features: Rows, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Accuracy (NaN where a logit is not finite), task loss and metric of every head, each of shape (K,)."""
        mean, scale = self.rows.mean, self.rows.scale
        logits = stacked_logits(self.parameters, mean, scale, features, self.config, EVALUATED_ROWS)
        finite = torch.isfinite(logits).flatten(1).all(1)
        name, task = self.heads[0].metric, Task.of(self.config)
        right = logits.argmax(-1) == labels if task.is_single else ((logits > 0) == (labels > 0.5)).all(-1)
        accuracy = torch.where(finite & (not task.is_regression), right.to(logits.dtype).mean(1), torch.nan)
        loss = self.task_losses(logits, labels.unsqueeze(0))
        if name in ("accuracy", "loss"):
            return accuracy, loss, accuracy if name == "accuracy" else loss
        found = [
            task.compute_metrics(own.double().cpu().numpy(), labels.cpu().numpy())[name] if is_finite else math.nan
            for own, is_finite in zip(logits, finite, strict=True)
        ]
        return accuracy, loss, loss.new_tensor(found)

    def train(self, features: Rows, labels: Tensor) -> list[HeadResult]:
        """All epochs; features and labels are the validation rows."""
        head, count = self.heads[0], len(self.heads)
        kept = {name: values.detach().clone() for name, values in self.parameters.items()}
        best = torch.full((count,), -torch.inf, dtype=kept["readout.bias"].dtype)
        kept_epoch, waited = torch.full((count,), -1), torch.zeros(count)
        active = torch.ones(count, dtype=torch.bool)
        curves: list[tuple[list[float], list[float]]] = [([], []) for _ in self.heads]
        more_is_better = self.arguments.greater_is_better
        if more_is_better is None:
            more_is_better = Task.of(self.config).metrics[head.metric]
        for epoch in range(self.epochs):
            self.train_epoch(epoch)
            accuracy, loss, metric = (values.cpu() for values in self.evaluate(features, labels))
            metric = metric if more_is_better else -metric
            better = active & (metric > best)
            chosen = better if self.arguments.load_best_model_at_end else active
            best, kept_epoch = torch.where(better, metric, best), torch.where(chosen, epoch, kept_epoch)
            for name, values in self.parameters.items():
                kept[name][chosen] = values.detach()[chosen]
            for index in active.nonzero().flatten().tolist():
                curves[index][0].append(float(accuracy[index]))
                curves[index][1].append(float(loss[index]))
            waited = torch.where(better, 0, waited + 1)
            if head.early_stopping_patience is not None:
                active = active & (waited < head.early_stopping_patience)
            if not active.any():
                break
        return [self._result(index, kept, curves[index], int(kept_epoch[index])) for index in range(count)]

    def _result(self, index: int, kept: Stacked, curves: tuple[list[float], list[float]], epoch: int) -> HeadResult:
        subset = min(index, len(self.rows.mean) - 1)
        state = {
            "feature_norm.mean": self.rows.mean[subset, 0],
            "feature_norm.scale": self.rows.scale[subset, 0],
            "feature_norm.fitted": torch.ones((), dtype=torch.int64),
            **{name: values[index] for name, values in kept.items()},
        }
        return HeadResult(
            setup=self.heads[index],
            config=self.configs[index],
            state={name: values.cpu().clone() for name, values in state.items()},
            accuracies=curves[0],
            losses=curves[1],
            best_epoch=epoch if epoch >= 0 else None,
            diverged=int(self.diverged[index]) if self.diverged[index] >= 0 else None,
        )


def train_heads(
    features: Rows,
    labels: Sequence[int] | Rows,
    heads: Sequence[SweepHead],
    *,
    validation_features: Rows,
    validation_labels: Sequence[int] | Rows,
    dtype: torch.dtype = torch.float32,
    group_size: int | None = None,
    group_type: type[HeadGroup] = HeadGroup,
    weights: NDArray[np.floating] | None = None,
) -> list[HeadResult]:
    """Train heads, many at a time, each as `CRTrainer` would train it alone; one result per head, in their order.

    On a CPU a head has the initialisation, data order and dropout of `CRTrainer` with the same arguments, and differs
    by rounding alone. On a GPU dropout is drawn otherwise.

    Args:
        features: training rows, shape (rows, in_features); a memory map is read once per subset.
        labels: class indices of the training rows, shape (rows,), or targets, shape (rows, num_labels), as the heads'
            `problem_type` says.
        heads: what to train, all on the device of the first one's arguments.
        validation_features: rows that choose each head's best epoch, shape (rows, in_features).
        validation_labels: their class indices or targets.
        dtype: of parameters and arithmetic, float32 by default.
        group_size: heads in one program; `None` (default) computes it, see `default_group_size`.
        group_type: what trains them; for penalties other than DREG see `study/penalties.py`.
        weights: factor of the loss of each training row, shape (rows,), 0 or above, with a mean of 1 over them for the
            penalty to weigh the same; `None` (default) for none. Validation rows have none.

    Raises:
        ValueError: if a head asks for what a sweep does not have.
        DataError: if rows, labels or indices cannot be used.
    """
    if not heads:
        return []
    for head in heads:
        head.check()
    device, config = heads[0].arguments.device, heads[0].config
    targets = _checked_labels("labels", features, labels, config)
    of_rows = None if weights is None else torch.from_numpy(weights)
    validation_targets = _checked_labels("validation_labels", validation_features, validation_labels, config)
    validation = (all_rows(validation_features, device), validation_targets.to(device))
    last = len(features) - 1
    for number, subset in enumerate(head.subset for head in heads):
        if subset is not None and not (subset and min(subset) >= 0 and max(subset) <= last):
            raise DataError(f"train_indices of head {number} must name rows from 0 to {last}, at least one")
    if device.type == "cpu":
        # The first freed block of a size makes glibc's malloc keep blocks up to that size.
        torch.empty(REUSED_BYTES, dtype=torch.uint8)
    results: dict[int, HeadResult] = {}
    for members in _programs(heads, len(features), dtype, device, group_size):
        group = group_type(features, targets, [heads[i] for i in members], dtype, device, of_rows)
        results.update(zip(members, group.train(*validation), strict=True))
    return [results[index] for index in range(len(heads))]


def _programs(
    heads: Sequence[SweepHead], rows: int, dtype: torch.dtype, device: torch.device, group_size: int | None
) -> Iterator[list[int]]:
    """The numbers of the heads that train together: of one key and equally many rows, no more than memory is for."""
    num_rows = [rows if head.subset is None else len(head.subset) for head in heads]
    # Heads of one learning rate and decay side by side share an optimizer pass.
    order = sorted(range(len(heads)), key=lambda i: (num_rows[i], heads[i].key, heads[i].rates))
    for (count, _), run in groupby(order, lambda i: (num_rows[i], heads[i].key)):
        members = list(run)
        copied = count if any(heads[i].subset is not None for i in members) else 0
        first = heads[members[0]]
        size = group_size or default_group_size(first.config, first.batch_size, dtype, device, copied)
        yield from (part.tolist() for part in np.array_split(members, math.ceil(len(members) / size)))


def _checked_labels(name: str, features: Rows, labels: Sequence[int] | Rows, config: CRConfig) -> Tensor:
    if features.ndim != 2 or features.shape[1] != config.in_features:
        shape = tuple(features.shape)
        raise DataError(f"features for {name} have the shape {shape}: give (rows, in_features={config.in_features})")
    classes = labels.cpu() if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if len(classes) != len(features) or not len(classes):
        raise DataError(f"{name} has {len(classes)} entries for {len(features)} rows of features: give one per row")
    num_labels = int(config.num_labels or 0)
    if config.problem_type != SINGLE:
        targets = (classes.unsqueeze(1) if classes.ndim == 1 else classes).float()
        if targets.shape[1:] != (num_labels,) or not targets.isfinite().all():
            raise DataError(f"{name} must be finite numbers of the shape (rows, {num_labels})")
        return targets
    if classes.is_floating_point() or classes.min() < 0 or classes.max() >= num_labels:
        raise DataError(f"{name} must be whole numbers from 0 to {num_labels - 1}")
    return classes.long()


def predict_heads(
    results: Sequence[HeadResult], features: Rows, *, device: str | torch.device | None = None, batch_size: int = 128
) -> Tensor:
    """Logits of several heads of one shape, shape (len(results), rows, num_labels), on the CPU.

    Args:
        results: returned by `train_heads`.
        features: raw, shape (rows, in_features).
        device: `None` (default) takes the GPU if there is one.
        batch_size: rows at a time, 128 by default.

    Raises:
        RuntimeError: if the heads have different shapes.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stacked = {name: torch.stack([result.state[name] for result in results]).to(device) for name in results[0].state}
    mean, scale = (stacked[f"feature_norm.{name}"].unsqueeze(1) for name in ("mean", "scale"))
    return stacked_logits(stacked, mean, scale, features, results[0].config, batch_size).cpu()
