"""K heads of one shape as one: parameters stacked on a leading axis, and what a training step of all of them needs.

`sweep.py` trains with these. Everything here keeps the heads apart: what one becomes does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_cr import CRConfig
from .layers import fixed_activation, polynomial
from .modeling_cr import CRHead
from .objectives import OrderedThresholds, ordinal_log_probabilities

Stacked: TypeAlias = dict[str, Tensor]


class _LinearMap(torch.autograd.Function):
    """W x + b and the squared row norms of W: the two gradients of W are summed in one buffer, in one pass."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features, weight)
        ctx.set_materialize_grads(False)
        return torch.baddbmm(bias.unsqueeze(1), features, weight.mT), torch.linalg.vector_norm(weight, dim=-1).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor, Tensor]:
        by_z, by_row_norms = gradients
        features, weight = ctx.saved_tensors
        by_weight = torch.bmm(by_z.mT, features)
        if by_row_norms is not None:
            by_weight.addcmul_(weight, by_row_norms.unsqueeze(-1), value=2)
        by_features = torch.bmm(by_z, weight) if ctx.needs_input_grad[0] else None
        return by_features, by_weight, by_z.sum(1)


class _Polynomial(torch.autograd.Function):
    """`layers.polynomial` with its gradient written out, in half of autograd's passes over memory.

    With c the clamped z: value = p(c) + p'(c) (z - c) and derivative = p'(c). Hence the gradient by p'(c) is
    `by_slope`, and the only way through c that remains is p''(c), inside the range.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, coefficients: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        value, derivative = polynomial(z, coefficients, reach)
        ctx.save_for_backward(z, coefficients, derivative)
        ctx.reach = reach
        return value, derivative

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        by_value, by_derivative = gradients
        z, coefficients, derivative = ctx.saved_tensors
        degree = coefficients.shape[-2] - 1
        terms = coefficients.unsqueeze(-2).unbind(-3)
        inside = z.clamp(-ctx.reach, ctx.reach)
        by_slope = torch.addcmul(by_derivative, by_value, z - inside)
        curvature = torch.zeros_like(z)
        for power in range(degree, 1, -1):
            curvature = torch.addcmul(power * (power - 1) * terms[power], curvature, inside)
        # The clamp's own backward makes a boolean mask, which takes ten times as long on a CPU.
        by_z = torch.ops.aten.hardtanh_backward(curvature.mul_(by_slope), z, -ctx.reach, ctx.reach)
        by_z.addcmul_(by_value, derivative)
        by_coefficients = [by_value.sum(-2)]
        weighted = by_value * inside
        powers = torch.ones((), dtype=z.dtype, device=z.device)
        for power in range(1, degree + 1):
            by_coefficients.append(torch.add(weighted, by_slope, alpha=power).mul_(powers).sum(-2))
            powers = powers * inside
        return by_z, torch.stack(by_coefficients, -2), None


def initial_parameters(config: CRConfig, seeds: Sequence[int], dtype: torch.dtype, device: torch.device) -> Stacked:
    """The parameters of `CRHead(config)` under `torch.manual_seed(seed)` for each seed, stacked.

    Args:
        config: of the heads.
        seeds: one per head; the caller's random state is left as it is.
        dtype: of the result; the draws are made in float32 on the CPU.
        device: of the result.

    Returns:
        Leaf tensors by the names of `CRHead`, each of shape (K, ...).
    """
    heads = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.default_generator.manual_seed(seed)
            heads.append(dict(CRHead(config).named_parameters()))
    stacked = {name: torch.stack([head[name].detach() for head in heads]) for name in heads[0]}
    return {name: values.to(device, dtype).requires_grad_() for name, values in stacked.items()}


def stacked_forward(
    parameters: Stacked, features: Tensor, config: CRConfig, masks: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """What `CRHead.forward` computes, for K heads at once.

    Args:
        parameters: as `initial_parameters` gives them.
        features: normalised, shape (K, batch, in_features).
        config: of the heads.
        masks: of dropout after each CR layer, shape (K, batch, width); none by default.

    Returns:
        The logits, shape (K, batch, num_labels), and DREG summed over layers, shape (K,).
    """
    hidden, dreg = features, 0
    for index in range(len(config.hidden_sizes)):
        layer = f"layers.{index}"
        weight, bias = parameters[f"{layer}.linear.weight"], parameters[f"{layer}.linear.bias"]
        z, row_norms = _LinearMap.apply(hidden, weight, bias)
        if config.activation == "polynomial":
            reach = math.inf if config.polynomial_range is None else config.polynomial_range
            hidden, derivative = _Polynomial.apply(z, parameters[f"{layer}.coefficients"], reach)
        else:
            hidden, derivative = fixed_activation(z, config.activation)
        # `dreg.layer_dreg`, with the row norms at hand.
        dreg = dreg + (derivative.square().mean(-2) * row_norms).sum(-1)
        if masks:
            hidden = hidden * masks[index]
    logits, row_norms = _LinearMap.apply(hidden, parameters["readout.weight"], parameters["readout.bias"])
    if config.objective == "ordinal":
        module = OrderedThresholds(config.num_labels).to(logits)
        named = {name: parameters[f"thresholds.{name}"] for name in ("first", "gaps")}
        thresholds = torch.vmap(lambda values: torch.func.functional_call(module, values))(named)
        logits = torch.vmap(ordinal_log_probabilities)(logits, thresholds)
    return logits, dreg + row_norms.sum(-1)


def stacked_task_loss(logits: Tensor, labels: Tensor, config: CRConfig) -> Tensor:
    """`objectives.task_loss` of each head.

    Args:
        logits: shape (K, batch, num_labels).
        labels: class indices, shape (K, batch), or (1, batch) if all heads have the same.
        config: its `label_smoothing` and `class_weights` are read.

    Returns:
        Shape (K,).
    """
    labels = labels.expand(logits.shape[:2])
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=config.label_smoothing
    ).view(labels.shape)
    if config.class_weights is not None:
        losses = losses * logits.new_tensor(config.class_weights)[labels]
    return losses.mean(1)


class StackedDropout:
    """Dropout masks of K heads, each head's from a generator of its own.

    Args:
        rates: of each head.
        seeds: of each head's generator.
        widths: units of each CR layer.
        like: a tensor of the type and device of the masks.
    """

    def __init__(self, rates: Sequence[float], seeds: Sequence[int], widths: Sequence[int], like: Tensor) -> None:
        self.widths = widths if any(rates) else []
        # The seed's own stream has drawn the initialisation and draws the data order.
        draws = [torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.generators = [torch.Generator(like.device).manual_seed(int(draw)) for draw in draws]
        self.threshold = like.new_tensor([round((1 - rate) * 2**16) - 2**15 for rate in rates]).unsqueeze(1)
        self.scale = like.new_tensor([1 / (1 - rate) for rate in rates]).unsqueeze(1)

    def masks(self, batch: int) -> list[Tensor]:
        """One mask per layer, 0 or 1 / keep, shape (K, batch, width); an empty list if no head has dropout."""
        if not self.widths:
            return []
        decisions = batch * sum(self.widths)
        # 16 bits make a decision: drawing them is most of what a mask costs on a CPU.
        bits = torch.empty(len(self.generators), -(-decisions // 4), dtype=torch.int64, device=self.scale.device)
        for row, generator in zip(bits, self.generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        drawn = bits.view(torch.int16)[:, :decisions].to(self.scale.dtype)
        # Between whole numbers the clamped difference is the comparison, without a slow boolean tensor.
        kept = torch.sub(self.threshold, drawn, out=drawn).clamp_(0, 1).mul_(self.scale)
        parts = kept.split([batch * width for width in self.widths], dim=1)
        return [part.unflatten(1, (batch, width)) for part, width in zip(parts, self.widths, strict=True)]


class StackedAdamW:
    """AdamW as `Trainer` uses it, on stacked parameters: each head has its learning rate, decay and clipping.

    Betas are 0.9 and 0.999, epsilon 1e-8; weight decay is on weights alone: neither biases nor coefficients nor
    thresholds have any. Neighbours with the same learning rate and decay share one fused pass.

    Args:
        parameters: as `initial_parameters` gives them.
        learning_rates: of each head.
        weight_decays: of each head.
        max_grad_norm: of each head by itself; 0 for no clipping.

    Attributes:
        optimizer: the `torch.optim.AdamW`, for a learning rate schedule.
    """

    def __init__(
        self,
        parameters: Stacked,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        max_grad_norm: float,
    ) -> None:
        self.max_grad_norm = max_grad_norm
        self.slices: list[tuple[str, slice, Tensor]] = []
        groups: list[dict[str, Any]] = []
        start = 0
        for (learning_rate, weight_decay), run in groupby(zip(learning_rates, weight_decays, strict=True)):
            members = slice(start, start + len(list(run)))
            start = members.stop
            for decays in (True, False):
                names = [name for name in parameters if name.endswith(".weight") == decays]
                views = [(name, members, parameters[name].detach()[members]) for name in names]
                decay = weight_decay if decays else 0.0
                groups.append({"params": [view[2] for view in views], "lr": learning_rate, "weight_decay": decay})
                self.slices.extend(views)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def step(self, gradients: Stacked) -> Tensor:
        """Clip the gradients, in place, and move the parameters.

        Args:
            gradients: by the names of the parameters, in their shapes.

        Returns:
            The norm of each head's gradient before clipping, shape (K,).
        """
        norms = torch.stack([torch.linalg.vector_norm(values.flatten(1), dim=1) for values in gradients.values()])
        norm = torch.linalg.vector_norm(norms, dim=0)
        if self.max_grad_norm > 0:
            factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1)
            for values in gradients.values():
                values.mul_(factor.view(-1, *[1] * (values.ndim - 1)))
        for name, members, parameter in self.slices:
            parameter.grad = gradients[name][members]
        self.optimizer.step()
        return norm
