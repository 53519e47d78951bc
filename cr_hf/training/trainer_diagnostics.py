"""The gradient tail ratio at every evaluation of a CR model, from features that the evaluation has computed anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..evaluation import default_output, gradient_tail_ratio, input_gradient_norms
from ..modeling import CRPreTrainedModel
from .trainer_hub import HubTrainer

TAIL_ROWS = 1024


class DiagnosticTrainer(HubTrainer):
    """`Trainer` that logs `eval_gradient_tail_ratio` of the first 1024 rows, of all processes together.

    Only what the head reads is looked at, so a backbone is never run for it. Left out where the weights of the head
    are not whole in one process (FSDP, DeepSpeed), or where the model is compiled, which hooks would undo.
    """

    _tail_norms: list[Tensor] | None = None
    _tail_batches = 0

    @property
    def _cr_model(self) -> Any:
        """The CR model inside whatever wraps it, `None` for a baseline."""
        for module in self.accelerator.unwrap_model(self.model).modules():
            if isinstance(module, CRPreTrainedModel):
                return module
        return None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in `Trainer`, with the tail ratio among the metrics of an evaluation."""
        arguments = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.torch_compile)
        if self._cr_model is None or not whole or not metric_key_prefix.startswith("eval"):
            return super().evaluation_loop(*arguments)
        norms: list[Tensor] = []
        self._tail_norms, self._tail_batches = norms, 0
        try:
            output = super().evaluation_loop(*arguments)
        finally:
            self._tail_norms = None
        if norms and output.metrics is not None:
            ratio = gradient_tail_ratio(torch.cat(norms).double().cpu())
            output.metrics[f"{metric_key_prefix}_gradient_tail_ratio"] = ratio
        return output

    def prediction_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; on the way it keeps the gradient norms of the first rows."""
        norms = self._tail_norms
        # Counted in batches, which all processes have the same number of: gathering waits for everyone.
        seen = self._tail_batches * self.args.eval_batch_size * self.args.world_size
        if norms is None or seen >= TAIL_ROWS:
            return super().prediction_step(model, *args, **kwargs)
        self._tail_batches += 1
        head, features = self._cr_model.classifier, []
        hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach()))
        try:
            output = super().prediction_step(model, *args, **kwargs)
        finally:
            hook.remove()
        rows = features[0]
        finite = bool(torch.isfinite(rows).all())
        own = input_gradient_norms(head, rows, default_output(head.config)) if finite else rows[:, 0] * torch.nan
        norms.append(self.accelerator.gather_for_metrics(own.float()))
        return output
