"""`CRTrainer`: the Trainer that composes the task loss with DREG and watches both."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial, reduce
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, Subset
from transformers.trainer_utils import TrainOutput, get_last_checkpoint, has_length, rotate_checkpoints, seed_worker
from transformers.utils import logging

from ..errors import CheckpointError, NonFiniteError
from ..modeling import Standardize, feature_moments, merge_moments
from .arguments import CRTrainingArguments
from .checkpoints import STAGING, STATE, check_fits, checkpoint_to_resume, left_out, publish, stopped_early
from .class_labels import check_class_labels, normalized_class_weights
from .parameter_groups import split_by_rate
from .sampling import EpochBatchSampler, token_lengths
from .schedules import check_schedule, scheduled_lambda
from .trainer_diagnostics import DiagnosticTrainer

logger = logging.get_logger(__name__)


class CRTrainer(DiagnosticTrainer):
    """`Trainer` with `loss = task_loss + lambda_t * dreg.sum()`.

    Beside what `Trainer` does, it logs `task_loss`, `dreg`, `dreg_lambda`, DREG per layer and, evaluating, the
    gradient tail ratio; fits the standardisation
    on the training rows before the first step; gives the head and every layer of the backbone its own learning rate
    and spares coefficients and thresholds from weight decay; weights micro-batches by their rows, so that accumulation
    and several processes equal one large batch; writes checkpoints that are whole or not there, and resumes exactly;
    and stops at the first non-finite loss or gradient it notices, before anything is saved. A model that is not a CR
    model (a baseline) trains with its own loss under the same rules.

    Args:
        model: a CR model, or any model for comparison.
        args: a `CRTrainingArguments`.
        **kwargs: as `Trainer` takes them.

    Raises:
        ValueError: if `args` are of another class, if the schedule cannot be computed, or if the machine's GPUs would
            be driven by `nn.DataParallel`, which mixes up the per-layer penalties.
    """

    args: CRTrainingArguments
    loss_is_scaled_for_ga = False

    def __init__(self, model: nn.Module | None = None, args: CRTrainingArguments | None = None, **kwargs: Any) -> None:
        if not isinstance(args, CRTrainingArguments):
            raise ValueError(f"CRTrainer needs args=CRTrainingArguments(...), got {type(args).__name__}")
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process: start with `accelerate launch` (one process per GPU), "
                "or set CUDA_VISIBLE_DEVICES to one of them"
            )
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self._parts: Tensor | None = None
        self._parts_steps = 0
        self._window_rows: int | Tensor | None = None
        self._micro_batch = 0
        self._batches: EpochBatchSampler | None = None
        self._staging: Path | None = None
        self._is_stopped = False
        self._first_bad_step = torch.tensor(-1, device=args.device)
        config = self._cr_config
        if config is None:
            return
        if args.label_smoothing_factor:
            config.label_smoothing = args.label_smoothing_factor
            self.label_smoother = None
        check_schedule(args.dreg_schedule, self._dreg_lambda_start, args.dreg_lambda_end, args.dreg_warmup_steps)

    @property
    def _cr_config(self) -> Any:
        model = self._cr_model
        return None if model is None else model.config

    @property
    def _dreg_lambda_start(self) -> float:
        return self._cr_config.dreg_lambda if self.args.dreg_lambda is None else self.args.dreg_lambda

    @property
    def dreg_lambda(self) -> float:
        """The DREG coefficient of the current step."""
        return scheduled_lambda(
            self.state.global_step,
            max(1, self.state.max_steps),
            self._dreg_lambda_start,
            self.args.dreg_lambda_end,
            self.args.dreg_schedule,
            self.args.dreg_warmup_steps,
        )

    # ---- before the first step ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, as `Trainer.train` does, after fitting what has to be fitted on the training rows.

        Raises:
            NonFiniteError: at the first logging step or save after a loss or gradient stopped being finite.
            CheckpointError: if there is no complete checkpoint to resume from, or it is of another model.
            ValueError: if the labels are no classes, or what is asked for needs a training set of known length.
        """
        self._parts, self._parts_steps = None, 0
        self._first_bad_step.fill_(-1)
        self._is_stopped = False
        if resume_from_checkpoint:
            chosen = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir), self.args.world_size)
            check_fits(chosen, self.accelerator.unwrap_model(self.model))
            resume_from_checkpoint, self._is_stopped = str(chosen), stopped_early(chosen)
        if self._cr_model is not None:
            config = self._cr_config
            labels = self._training_labels()
            if labels is not None and config.problem_type == "single_label_classification":
                check_class_labels(labels, config.num_labels, config.objective)
            if self.args.class_weights is not None:
                config.class_weights = self._scaled_class_weights(self.args.class_weights, labels)
            if not resume_from_checkpoint:
                self._fit_feature_norm()
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except UnpicklingError as error:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds a pickle of more than tensors and numbers, which is not read: resume "
                "from an earlier checkpoint, or train anew"
            ) from error

    def _training_labels(self) -> Any:
        """All labels, where they can be had without reading the rows, else `None`."""
        dataset: Any = self.train_dataset
        if hasattr(dataset, "labels"):
            return np.asarray(dataset.labels)
        columns = getattr(dataset, "column_names", None) or ()
        found = [name for name in ("labels", "label") if name in columns and has_length(dataset)]
        return np.asarray(dataset[found[0]][:]) if found else None

    def _scaled_class_weights(self, weights: list[float] | str, labels: Any) -> list[float]:
        if labels is None:
            raise ValueError("class_weights need a training set with a column of labels: give the weights to CRConfig")
        counted = Counter(labels.tolist())
        counts = [counted[label] for label in range(self._cr_config.num_labels)]
        return normalized_class_weights(weights, counts)

    def _fit_feature_norm(self) -> None:
        model = self._cr_model
        norms = [module for module in model.modules() if isinstance(module, Standardize)]
        if not norms or all(norm.is_fitted for norm in norms):
            return
        if not has_length(self.train_dataset):
            raise ValueError("feature_norm='standardize' needs a training set of known length: use 'layer_norm'")
        count, mean, squares = feature_moments(self._training_features())
        gathered: list[Any] = [(count, mean.cpu(), squares.cpu())]
        if self.args.world_size > 1:
            gathered = gather_object(gathered)
        model.set_feature_moments(*reduce(merge_moments, gathered))

    @torch.no_grad()
    def _training_features(self) -> Iterator[Tensor]:
        """Features of this process's share of the training rows, each row once."""
        dataset: Any = self.train_dataset
        collator = self.data_collator
        share = range(self.args.process_index, len(dataset), self.args.world_size)
        model = self._cr_model
        model.eval()
        if hasattr(dataset, "column_names"):
            dataset = self._remove_unused_columns(dataset)
        for batch in DataLoader(
            Subset(dataset, share), batch_size=self.args.per_device_eval_batch_size, collate_fn=collator
        ):
            inputs = self._prepare_inputs(batch)
            yield model.get_features(**{name: value for name, value in inputs.items() if name != "labels"})

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters with weight decay: as in `Trainer`, but coefficients and thresholds are spared."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not name.endswith("coefficients") and ".thresholds." not in name]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with `head_learning_rate` for the head and `layer_decay` over the backbone."""
        optimizer = super().create_optimizer(model)
        args, chosen = self.args, self.model if model is None else model
        rates = (args.head_learning_rate, args.threshold_learning_rate, args.layer_decay)
        if chosen is None or rates == (None, None, None):
            return optimizer
        optimizer.param_groups = split_by_rate(optimizer.param_groups, chosen, *rates)
        return optimizer

    # ---- the data ----

    def get_train_dataloader(self) -> DataLoader:
        """Batches whose rows are a function of (seed, epoch): see `EpochBatchSampler`.

        Raises:
            ValueError: if lengths are asked for and there are none.
        """
        args, dataset = self.args, self.train_dataset
        self._batches = None
        if isinstance(dataset, IterableDataset | None) or not has_length(dataset):
            return super().get_train_dataloader()
        collator = self.data_collator
        if isinstance(dataset, datasets.Dataset):
            rows: Any = self._remove_unused_columns(dataset, description="training")
        else:
            rows, collator = dataset, self._get_collator_with_removed_columns(collator, description="training")
        by_length = args.train_sampling_strategy == "group_by_length"
        self._batches = EpochBatchSampler(
            len(rows),
            self._train_batch_size,
            args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=args.train_sampling_strategy != "sequential",
            lengths=token_lengths(dataset, args.length_column_name) if by_length else None,
            processes=args.world_size,
            process=args.process_index,
            drop_last=args.dataloader_drop_last,
        )
        return DataLoader(
            rows,
            batch_sampler=self._batches,
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their order: sorted by length, as `Trainer` would, predictions no longer match their rows."""
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 and has_length(eval_dataset) else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._is_stopped or self.state.global_step >= self.state.max_steps:
            # Resumed from the last checkpoint of a run that was done: `Trainer` would take one step more.
            self.control.should_training_stop = True
            return
        if self._batches is not None:
            # Not through the loader: the one that skips what was done before a resume hides the sampler.
            self._batches.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    # ---- the loss ----

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step; their rows are counted to weight each by its share."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        sizes = [len(batch["labels"]) for batch in batches if "labels" in batch]
        self._window_rows = sum(sizes) if sizes and len(sizes) == len(batches) else None
        if self.args.world_size > 1 and self._window_rows is not None:
            rows: Any = torch.tensor(self._window_rows, device=device, dtype=torch.float64)
            self._window_rows = self.accelerator.reduce(rows, "sum") / self.args.world_size
        self._micro_batch = 0
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Task loss + lambda_t * DREG while training, the task loss alone in evaluation.

        Args:
            model: the wrapped model.
            inputs: of the model, `labels` among them.
            return_outputs: return (loss, outputs).
            num_items_in_batch: unused, the loss is a mean over rows.

        Returns:
            The loss, a scalar, and the outputs if asked for.
        """
        training = model.training
        cr_model = self._cr_model
        if cr_model is None:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            parts = [loss]
        else:
            if training and cr_model.config.dreg_mode == "chain":
                cr_model.seed_tangents(
                    self.args.seed + 1_000_003 * (self.state.global_step * 1009 + self._micro_batch)
                )
            outputs = model(**inputs)
            loss = outputs.task_loss
            parts = [loss]
            if training:
                loss = loss + self.dreg_lambda * outputs.dreg.sum()
                parts += outputs.dreg.unbind()
        if training:
            share = self._row_share(inputs)
            loss = loss * share
            self._record(loss, torch.stack([part.detach() for part in parts]) * share)
        return (loss, outputs) if return_outputs else loss

    def _row_share(self, inputs: dict[str, Any]) -> float | Tensor:
        """Rows of this micro-batch over the mean rows of the micro-batches of this step, of all processes."""
        self._micro_batch += 1
        if self._window_rows is None or "labels" not in inputs:
            return 1.0
        return len(inputs["labels"]) * self.current_gradient_accumulation_steps / self._window_rows

    @torch.no_grad()
    def _record(self, loss: Tensor, parts: Tensor) -> None:
        parts = parts / self.current_gradient_accumulation_steps
        self._parts = parts if self._parts is None else self._parts + parts
        bad = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad, self.state.global_step + 1, self._first_bad_step)

    # ---- logging and saving ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the parts of the loss beside a training loss.

        Raises:
            NonFiniteError: if the loss or the gradient norm is not finite.
        """
        if "loss" in logs and self._parts is not None:
            steps = self.state.global_step - self._parts_steps
            means = self.accelerator.gather(self._parts[None]).mean(0).div(steps).tolist()
            self._parts, self._parts_steps = None, self.state.global_step
            logs["task_loss"] = means[0]
            if len(means) > 1:
                logs["dreg"] = math.fsum(means[1:])
                logs["dreg_lambda"] = self.dreg_lambda
                for number, value in enumerate(means[1:-1], start=1):
                    logs[f"dreg_layer_{number}"] = value
                logs["dreg_readout"] = means[-1]
            super().log(logs, start_time)
            self._stop_if_not_finite(logs)
            return
        super().log(logs, start_time)

    def _stop_if_not_finite(self, logs: dict[str, float]) -> None:
        step = int(self._first_bad_step)
        if step >= 0 or not math.isfinite(logs["loss"]):
            parts = ", ".join(f"{name}={logs[name]:.4g}" for name in ("task_loss", "dreg") if name in logs)
            self._stop(f"the loss is not finite at step {step if step >= 0 else self.state.global_step} ({parts})")
        norm = logs.get("grad_norm")
        if norm is not None and not math.isfinite(norm) and self.accelerator.scaler is None:
            self._stop(f"the gradient norm is {norm} at step {self.state.global_step}")

    def _stop(self, cause: str) -> None:
        last = get_last_checkpoint(self.args.output_dir)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was saved before"
        raise NonFiniteError(
            f"{cause}: training stopped, {kept}; lower learning_rate or dreg_lambda, or check the data"
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = int(self._first_bad_step)
        if step >= 0:
            self._stop(f"the loss is not finite at step {step}")
        for name, parameter in model.named_parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            if parameter.requires_grad and not torch.isfinite(local).all():
                self._stop(f"{name} is not finite after step {self.state.global_step}, its gradient was not")
        folder, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        self._staging = folder / STAGING
        if self.args.should_save:
            shutil.rmtree(self._staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        staged, self._staging = self._staging, None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(folder / name)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staged / name / STATE))
            publish(staged / name, folder / name)
            staged.rmdir()
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints are written: the staging folder while one is being saved."""
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A head-only model leaves its backbone out of its checkpoints.
        missing = sorted(set(load_result.missing_keys) - left_out(self.accelerator.unwrap_model(self.model)))
        if missing:
            raise CheckpointError(f"the checkpoint lacks {missing[0]}: resume from a checkpoint of this very model")
        super()._issue_warnings_after_load(load_result)
