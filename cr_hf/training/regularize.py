"""DREG of any torch module: its dense layers and the activations that follow them, seen by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

NO_ACTIVATIONS = (nn.Linear, nn.Identity, _DropoutNd, _NormBase)


class DREG:
    """The penalty on the Jacobian of every `activation(dense(x))` of a model, by its closed form.

    `dense` is an `nn.Linear`, the activation an elementwise module that is called next, with its very output, as in
    the feed-forward blocks of BERT. Activations called as functions (`torch.nn.functional.relu`) are not seen. A
    layer's value is sum_i f'(z_i)**2 ||W_i||**2, a mean over rows; for z of shape (batch, length, units) that of a row
    is the mean over the tokens that its `attention_mask` attends.

    In training mode the model's output, if it is one of transformers', gains `regularization`, which is `penalty`, and
    has it added to its `loss`: `CRTrainer` and `Trainer` need nothing more. In a loop of your own, add `penalty`.

    Args:
        model: any torch module; it gets hooks, its weights are left alone.
        modules: parts of the names of the layers to look at, such as `["intermediate"]`; `None` (default) for all.
        readouts: ends of the names of linear layers that no activation follows: their derivative is 1.
        dreg_lambda: weight of the penalty, 0.02 by default.

    Attributes:
        values: DREG of each layer in the last forward pass of training, by name.

    Raises:
        ValueError: if a name fits no linear layer; in the first forward pass of training, if no activation is seen.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[str] | None = None,
        readouts: Sequence[str] = (),
        dreg_lambda: float = 0.02,
    ) -> None:
        self.dreg_lambda = dreg_lambda
        self.values: dict[str, Tensor] = {}
        self._trains = self._is_open = self._has_gradient = False
        self._mask: Tensor | None = None
        self._last: tuple[str, Tensor, Tensor] | None = None  # a dense layer's name, weight and output
        self._known: dict[nn.Module, bool] = {}
        named = dict(model.named_modules())
        linear = [name for name, module in named.items() if isinstance(module, nn.Linear)]
        for asked in (*(modules or ()), *readouts):
            if not any(asked in name for name in linear):
                raise ValueError(f"{asked!r} is in the name of no linear layer: use parts of {', '.join(linear[:8])}")
        self._hooks: list[Any] = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name, module in named.items():
            if isinstance(module, PreTrainedModel) or module is model:
                self._hooks.append(module.register_forward_pre_hook(self._see_mask, with_kwargs=True))
            if name in linear and name.endswith(tuple(readouts)):
                self._hooks.append(module.register_forward_hook(self._linear_hook(name, is_readout=True)))
            elif name in linear and (modules is None or any(part in name for part in modules)):
                self._hooks.append(module.register_forward_hook(self._linear_hook(name, is_readout=False)))
            elif not any(module.children()) and not isinstance(module, NO_ACTIVATIONS):
                self._hooks.append(module.register_forward_pre_hook(self._see_activation))
        self._hooks.append(model.register_forward_hook(self._end))

    @property
    def penalty(self) -> Tensor:
        """`dreg_lambda` times the sum of `values`; scalar."""
        return self.dreg_lambda * torch.stack(list(self.values.values())).sum()

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.values, self._last, self._mask = {}, None, None
        self._trains = self._is_open = model.training
        self._has_gradient = torch.is_grad_enabled()

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if not self._is_open:
            return
        # Checkpointing runs layers, and so the hooks, once more in the backward pass: for the gradient, not the value.
        self._is_open, self._last = False, None
        if not self.values:
            raise ValueError("no activation module takes the output of a linear layer: use nn.GELU() and the like")
        if isinstance(output, dict):
            output["regularization"] = self.penalty
            if output.get("loss") is not None:
                output["loss"] = output["loss"] + self.penalty

    def _see_mask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask", self._mask)

    def _linear_hook(self, name: str, is_readout: bool) -> Callable[[Any, Any, Tensor], None]:
        def hook(module: Any, inputs: Any, z: Tensor) -> None:
            if is_readout and self._trains:
                self._add(name, module.weight, torch.ones_like(z))
            self._last = (name, module.weight, z) if self._trains and not is_readout else None

        return hook

    def _see_activation(self, module: Any, inputs: tuple[Any, ...]) -> None:
        last, self._last = self._last, None
        if last is None or not inputs or inputs[0] is not last[2] or not self._is_elementwise(module, last[2]):
            return
        name, weight, z = last
        # Forward mode: exact for whatever is elementwise, and itself differentiable. In place, it would change z.
        own = (lambda values: module.forward(values.clone())) if getattr(module, "inplace", False) else module.forward
        self._add(name, weight, torch.func.jvp(own, (z,), (torch.ones_like(z),))[1])

    @torch.no_grad()
    def _is_elementwise(self, module: Any, like: Tensor) -> bool:
        """Whether a unit's value depends on nothing but that unit, looked at once for each module."""
        if module not in self._known:
            rows = torch.linspace(-2, 2, 2 * like.shape[-1]).to(like).view(2, -1)
            try:
                whole, unit, row = (module.forward(part.clone()) for part in (rows, rows[:, :1], rows[:1]))
                self._known[module] = torch.allclose(whole[:, :1], unit) and torch.allclose(whole[:1], row)
            except (RuntimeError, ValueError, TypeError, IndexError):
                self._known[module] = False
        return self._known[module]

    def _add(self, name: str, weight: Tensor, derivative: Tensor) -> None:
        if self._has_gradient and not torch.is_grad_enabled():
            raise ValueError("reentrant checkpointing hides the layers from DREG: set use_reentrant to False")
        each = (derivative.to(weight.dtype).square() * weight.square().sum(1)).sum(-1)  # (batch, ...)
        mask = self._mask
        if mask is not None and mask.shape == each.shape:
            each = (each * mask).sum(1) / mask.sum(1).clamp_min(1)
        if self._is_open:
            self.values[name] = self.values.get(name, 0) + each.mean()
