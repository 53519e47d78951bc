"""`CRTrainer`: the Trainer that composes the task loss with DREG and watches both."""

from __future__ import annotations

import copy
import inspect
import math
import tempfile
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, get_last_checkpoint
from transformers.utils import is_liger_kernel_available

from ..errors import CheckpointError, NonFiniteError
from ..evaluation import default_output, gradient_tail_ratio, input_gradient_norms
from ..modeling import CRPreTrainedModel
from .arguments import CRTrainingArguments
from .checkpoints import checkpoint_to_resume, stopped_early
from .kept_features import forget_features, keep_features
from .preparation import (
    SAMPLE_WEIGHT,
    check_labels,
    check_token_labels,
    fit_feature_norm,
    hint_at_rate,
    normalized_class_weights,
    split_by_rate,
    training_labels,
    with_dreg,
)
from .sampling import dropout_seed
from .trainer_base import ExactTrainer

TAIL_ROWS = 1024


class CRTrainer(ExactTrainer):
    """`Trainer` with `loss = task_loss + lambda_t * dreg.sum()`.

    Beside what `Trainer` does, it logs `task_loss`, `dreg`, `dreg_lambda`, DREG per layer and, evaluating, the
    gradient tail ratio of the first 1024 rows; fits the standardisation before the first step; gives the head and
    every layer of the backbone its own learning rate and spares coefficients and thresholds from weight decay; makes
    accumulation and several processes equal one large batch; writes checkpoints that are whole or not there, and
    resumes exactly; stops at the first non-finite loss or gradient; and publishes as `cr-hf publish` does. A model
    that is not a CR model (a baseline) trains with its own loss under the same rules.

    Args:
        model: a CR model, or any model for comparison; `None` with a `model_init`.
        args: a `CRTrainingArguments`; a plain `TrainingArguments` is read as one.
        **kwargs: those of `Trainer`. A `compute_loss_func(outputs, labels, num_items_in_batch=None)` replaces the
            task loss: it returns a mean over rows, and DREG is added. A column `sample_weight` of the data multiplies
            the task loss of each row.

    Raises:
        ValueError: if `args` are missing, if the schedule cannot be computed, or if the machine's GPUs would be driven
            by `nn.DataParallel`, which mixes up the per-layer penalties.
    """

    args: CRTrainingArguments
    loss_is_scaled_for_ga = False

    def __init__(self, model: nn.Module | None = None, args: TrainingArguments | None = None, **kwargs: Any) -> None:
        if not isinstance(args, TrainingArguments):
            raise ValueError(f"CRTrainer needs args=CRTrainingArguments(...), got {type(args).__name__}")
        args = args if isinstance(args, CRTrainingArguments) else with_dreg(args)
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process: start with `accelerate launch` (one process per GPU), "
                "or set CUDA_VISIBLE_DEVICES to one of them"
            )
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self._parts: Tensor | None = None
        self._parts_steps = 0
        self._tail_norms: list[Tensor] | None = None
        self._tail_batches = 0
        self._is_resumed = False
        self._first_bad_step = torch.tensor(-1, device=args.device)
        if self._cr_model is not None:
            self._configure_objective()

    @property
    def _cr_model(self) -> Any:
        """The CR model inside whatever wraps it, `None` for a baseline."""
        for module in self.accelerator.unwrap_model(self.model).modules():
            if isinstance(module, CRPreTrainedModel):
                return module
        return None

    @property
    def dreg_lambda(self) -> float:
        """The DREG coefficient of the current step."""
        of_model = self._cr_model.config.dreg_lambda
        return self.args.lambda_at(self.state.global_step, self.state.max_steps, of_model)

    def _configure_objective(self) -> None:
        """Settle the loss; label smoothing is the objective's job, since `Trainer`'s own would drop DREG."""
        args = self.args
        if args.label_smoothing_factor:
            self._cr_model.config.set_label_smoothing(args.label_smoothing_factor)
            self.label_smoother = None
        args.check_lambda(self._cr_model.config.dreg_lambda)

    # ---- before the first step ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, as `Trainer.train` does, after fitting what has to be fitted on the training rows.

        Raises:
            NonFiniteError: at the first logging step or save after a loss or gradient stopped being finite.
            CheckpointError: if there is no complete checkpoint to resume from, or it is of another model.
            ValueError: if the labels are no classes, or what is asked for needs a training set of known length.
        """
        self._parts = None
        self._first_bad_step.fill_(-1)
        self._is_resumed, self._is_stopped = bool(resume_from_checkpoint), False
        if resume_from_checkpoint:
            chosen = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir), self.args.world_size)
            resume_from_checkpoint, self._is_stopped = str(chosen), stopped_early(chosen)
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        except UnpicklingError as error:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds a pickle of more than tensors and numbers, which is not read: resume "
                "from an earlier checkpoint, or train anew"
            ) from error
        finally:
            forget_features(self)
        self._check_weights(self.model)
        return output

    def _hp_search_setup(self, trial: Any) -> None:
        """The hook of `Trainer.train` where `model_init` has made the model and a trial has set its arguments."""
        super()._hp_search_setup(trial)
        model, args = self._cr_model, self.args
        if model is None:
            return
        self._configure_objective()
        labels = None
        if model.label_level == "row":
            labels = training_labels(self.train_dataset)
            check_labels(labels, self.train_dataset, model.config)
        elif model.label_level == "token":
            check_token_labels(self.train_dataset, int(model.config.num_labels or 0))
        if args.class_weights is not None:
            if labels is None or model.config.problem_type != "single_label_classification":
                raise ValueError(
                    "class_weights need single-label classification and a training set with a column of labels: leave "
                    "them out, or give the weights to CRConfig"
                )
            counts = np.bincount(labels, minlength=model.config.num_labels).tolist()
            model.config.class_weights = normalized_class_weights(args.class_weights, counts)
        if args.learning_rate == CRTrainingArguments.learning_rate and args.head_learning_rate is None:
            hint_at_rate(model, args.learning_rate)
        if not self._is_resumed:
            keep_features(self)
            fit_feature_norm(self, model)

    def _set_signature_columns_if_needed(self) -> None:
        is_new = self._signature_columns is None
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        columns += [SAMPLE_WEIGHT] if is_new else []

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

    # ---- the loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Task loss + lambda_t * DREG while training, the task loss alone in evaluation.

        Both are means over rows, so `num_items_in_batch` is not read.
        """
        training, cr_model = model.training, self._cr_model
        inputs = dict(inputs)
        weights = inputs.pop(SAMPLE_WEIGHT, None)
        if weights is not None and (cr_model is None or cr_model.label_level != "row" or self.compute_loss_func):
            raise ValueError(f"{SAMPLE_WEIGHT} is for a CR model with one label a row and its own loss: leave it out")
        if cr_model is None:
            loss, outputs = super().compute_loss(model, dict(inputs), return_outputs=True)  # it takes labels out
            parts = [loss]
        else:
            if training:
                drawn = dropout_seed(self.args.seed, self.state.global_step, self._micro_batch)
                if cr_model.config.dreg_mode == "chain":
                    cr_model.seed_tangents(drawn)
                if cr_model.config.backbone_config is None:
                    # Dropout of a head on features is a function of seed and step, the same alone and in a sweep.
                    torch.default_generator.manual_seed(drawn)
            loss, outputs = self._task_loss(model, inputs)
            if weights is not None:
                loss = cr_model.task_loss(outputs.logits, inputs["labels"], weights)
            parts = [loss]
            if training:
                loss = loss + self.dreg_lambda * outputs.dreg.sum()
                parts += outputs.dreg.unbind()
        if training:
            if isinstance(outputs, dict) and (cr_model is not None or outputs.get("loss") is None):
                loss = loss + outputs.get("regularization", 0.0)  # of a `DREG`; else the model's own loss has it
            share = self._row_share(inputs)
            loss = loss * share
            self._record(loss, torch.stack([part.detach() for part in parts]) * share)
        return (loss, outputs) if return_outputs else loss

    def _task_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        if "labels" not in inputs:
            raise ValueError(
                f"the rows have no labels, only {', '.join(inputs)}: name their column 'labels' or 'label', and fill "
                "it with classes from 0, or with numbers under problem_type='regression'"
            )
        if self.compute_loss_func is None:
            outputs = model(**inputs)
            return outputs.task_loss, outputs
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return self.compute_loss_func(outputs, inputs["labels"], num_items_in_batch=None), outputs

    @torch.no_grad()
    def _record(self, loss: Tensor, parts: Tensor) -> None:
        parts = parts / self.current_gradient_accumulation_steps
        if self._parts is None:
            self._parts, self._parts_steps = torch.zeros_like(parts), self.state.global_step
        self._parts = self._parts + parts
        bad = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad, self.state.global_step + 1, self._first_bad_step)

    # ---- logging and saving ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the parts of the loss beside a training loss.

        Raises:
            NonFiniteError: if the loss or the gradient norm is not finite.
        """
        parts = self._parts if "loss" in logs else None
        if parts is not None:
            steps = self.state.global_step - self._parts_steps
            means = self.accelerator.gather(parts[None]).mean(0).div(steps).tolist()
            self._parts = None
            logs["task_loss"] = means[0]
            if len(means) > 1:
                logs["dreg"] = math.fsum(means[1:])
                logs["dreg_lambda"] = self.dreg_lambda
                for number, value in enumerate(means[1:-1], start=1):
                    logs[f"dreg_layer_{number}"] = value
                logs["dreg_readout"] = means[-1]
        super().log(logs, start_time)
        if parts is not None:
            self._stop_if_not_finite(logs)

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
        self._check_weights(model)
        super()._save_checkpoint(model, trial)

    def _check_weights(self, model: Any) -> None:
        for name, parameter in model.named_parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            if parameter.requires_grad and not torch.isfinite(local).all():
                self._stop(f"{name} is not finite after step {self.state.global_step}, its gradient was not")

    # ---- the gradient tail ratio ----

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`, with the tail ratio among the metrics of an evaluation.

        Only what the head reads is looked at, so a backbone is never run for it. Left out where the weights of the
        head are not whole in one process (FSDP, DeepSpeed), or where the model is compiled, which hooks would undo.
        """
        whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.torch_compile)
        prefix = kwargs.get("metric_key_prefix", "eval")
        norms: list[Tensor] = []
        if self._cr_model is not None and whole and prefix.startswith("eval"):
            self._tail_norms, self._tail_batches = norms, 0
        try:
            output = super().evaluation_loop(*args, **kwargs)
        finally:
            self._tail_norms = None
        if norms and output.metrics is not None:
            output.metrics[f"{prefix}_gradient_tail_ratio"] = gradient_tail_ratio(torch.cat(norms).double().cpu())
        return output

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; on the way it keeps the gradient norms of the first rows."""
        norms = self._tail_norms
        if "labels" not in inputs:
            inputs = {name: value for name, value in inputs.items() if name != SAMPLE_WEIGHT}
        # Counted in batches, which all processes have the same number of: gathering waits for everyone.
        seen = self._tail_batches * self.args.eval_batch_size * self.args.world_size
        if norms is None or seen >= TAIL_ROWS:
            return super().prediction_step(model, inputs, *args, **kwargs)
        self._tail_batches += 1
        head, features = self._cr_model.classifier, []
        hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
        try:
            output = super().prediction_step(model, inputs, *args, **kwargs)
        finally:
            hook.remove()
        rows = features[0]
        if self._cr_model.label_level != "row":  # of tokens and choices a process has as many as it has
            return output
        finite = bool(torch.isfinite(rows).all())
        own = input_gradient_norms(head, rows, default_output(head.config)) if finite else rows[:, 0] * torch.nan
        norms.append(self.accelerator.gather_for_metrics(own.float()))
        return output


def check_arguments(model: nn.Module, args: CRTrainingArguments) -> None:
    """Build what a training is made of and throw it away, so that what cannot work is noticed before work is done.

    Raises:
        ValueError: naming the arguments and the cause.
    """
    tried, rows = copy.copy(args), [{"input_ids": [0], "labels": 0}]
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
        tried.output_dir = scratch
        names = "report_to"
        try:
            for reporter in get_reporting_integration_callbacks(args.report_to):
                reporter()
            names = "the trainer"
            trainer = CRTrainer(model=model, args=tried, train_dataset=rows, eval_dataset=rows)
            names = "optim and optim_args"
            optimizer = trainer.create_optimizer()
            names = "lr_scheduler_type and lr_scheduler_kwargs"
            trainer.create_scheduler(1, optimizer)
            names = "the arguments of the data loader"
            trainer.get_train_dataloader()
            names = "neftune_noise_alpha"
            if args.neftune_noise_alpha is not None:
                model.get_input_embeddings()  # type: ignore[operator]
            names = "activation_checkpointing"
            if args.activation_checkpointing:
                _check_checkpointing(model, args.activation_checkpointing_kwargs)
            names = "use_liger_kernel"
            if args.use_liger_kernel and not is_liger_kernel_available():
                raise ImportError("the package liger-kernel is not installed")
        except Exception as error:  # they come from many packages, which raise whatever they like
            raise ValueError(f"{names}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _check_checkpointing(model: nn.Module, options: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", True):
        raise ValueError(f"{type(model).__name__} has no backbone whose activations could be left out")
    known = {"every_n_layers", "offload", *inspect.signature(checkpoint).parameters} - {"function", "args", "kwargs"}
    unknown = set(options or {}) - known
    if unknown:
        raise ValueError(
            f"activation_checkpointing_kwargs: {min(unknown)!r} is unknown: use {', '.join(sorted(known))}"
        )
