"""K heads of one shape as one: parameters stacked on a leading axis, and what a training step of all of them needs.

`sweep.py` trains with these. Everything here keeps the heads apart: what one becomes does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from ..modeling import (
    FIXED_ACTIVATIONS,
    MASK_LEVELS,
    CRConfig,
    CRForFeatureClassification,
    OrderedThresholds,
    Standardize,
    feature_moments,
    fixed_activation,
    ordinal_log_probabilities,
    polynomial,
    squared_norms,
    to_mask,
    worst_squared_slopes,
)
from .arguments import CRTrainingArguments
from .sampling import dropout_seed

logger = logging.get_logger(__name__)

Rows: TypeAlias = np.ndarray | Tensor
Stacked: TypeAlias = dict[str, Tensor]

CHUNK_ROWS = 2048
# glibc's malloc keeps blocks up to 32 MiB for reuse; larger ones go back to the kernel and are faulted in every step.
REUSED_BYTES = 31 * 2**20
STEP_BYTES = 96 * 2**20
COPIED_BYTES = 4 * 2**30


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


def initial_parameters(
    configs: Sequence[CRConfig], seeds: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Stacked:
    """The parameters of `CRForFeatureClassification(config)` right after its seed was set, of every head, stacked.

    The draws are made in float32 on the CPU, and the caller's random state is left as it is.

    Returns:
        Leaf tensors by the names of `CRHead`, each of shape (K, ...).
    """
    heads = []
    with torch.random.fork_rng(devices=[]):
        for config, seed in zip(configs, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            heads.append(dict(CRForFeatureClassification(config).classifier.named_parameters()))
    stacked = {name: torch.stack([head[name].detach() for head in heads]) for name in heads[0]}
    return {name: values.to(device, dtype).requires_grad_() for name, values in stacked.items()}


def stacked_forward(
    parameters: Stacked, features: Tensor, config: CRConfig, masks: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """What `CRHead.forward` computes, for K heads at once.

    Args:
        parameters: returned by `initial_parameters`.
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
        coefficients = parameters.get(f"{layer}.coefficients")
        if coefficients is not None:
            hidden, derivative = polynomial(z, coefficients, config.polynomial_range)
        else:
            hidden, derivative = fixed_activation(z, config.activation)
        # `dreg.network_dreg` and `dreg.worst_dreg`, with the row norms at hand.
        if config.dreg_mode == "layer":
            squared_slopes = squared_norms([], [derivative])[0] / derivative.shape[-2]
        elif coefficients is not None:
            squared_slopes = worst_squared_slopes(coefficients, cast(float, config.polynomial_range))
        else:
            squared_slopes = row_norms.new_tensor(FIXED_ACTIVATIONS[config.activation].largest_slope ** 2)
        dreg = dreg + (squared_slopes * row_norms).sum(-1)
        if masks:
            hidden = hidden * masks[index]
    logits, row_norms = _LinearMap.apply(hidden, parameters["readout.weight"], parameters["readout.bias"])
    if config.is_cumulative_link:
        module = OrderedThresholds(int(config.num_labels or 0)).to(logits)
        named = {name: parameters[f"thresholds.{name}"] for name in ("first", "gaps")}
        thresholds = torch.vmap(lambda values: torch.func.functional_call(module, values))(named)
        logits = torch.vmap(ordinal_log_probabilities)(logits, thresholds)
    return logits, dreg + row_norms.sum(-1)


class StackedAdamW:
    """AdamW as `CRTrainer` uses it, on stacked parameters: each head has its learning rate, decay and clipping.

    Weight decay is on weights alone: neither biases nor coefficients nor thresholds have any. Neighbours with the same
    learning rate and decay share one fused pass.

    Args:
        parameters: returned by `initial_parameters`.
        rates: learning rate, learning rate of the thresholds, and weight decay of each head.
        arguments: shared by the heads: betas, epsilon, and the gradient norm to which each head is clipped by itself.
    """

    def __init__(
        self, parameters: Stacked, rates: Sequence[tuple[float, float, float]], arguments: CRTrainingArguments
    ) -> None:
        self.max_grad_norm = arguments.max_grad_norm
        self.slices: list[tuple[str, slice, Tensor]] = []
        groups: list[dict[str, Any]] = []
        start = 0
        for (learning_rate, threshold_rate, weight_decay), run in groupby(rates):
            members = slice(start, start + len(list(run)))
            start = members.stop
            by_kind = {"weight": (learning_rate, weight_decay), "threshold": (threshold_rate, 0.0)}
            for kind, names in groupby(sorted(parameters, key=_kind), _kind):
                views = [(name, members, parameters[name].detach()[members]) for name in names]
                rate, decay = by_kind.get(kind, (learning_rate, 0.0))
                groups.append({"params": [view[2] for view in views], "lr": rate, "weight_decay": decay})
                self.slices.extend(views)
        betas = (arguments.adam_beta1, arguments.adam_beta2)
        # Some schedules read the default rate, which every group has its own of.
        self.optimizer = torch.optim.AdamW(
            groups, lr=arguments.learning_rate, betas=betas, eps=arguments.adam_epsilon, fused=True
        )

    def step(self, gradients: Stacked) -> Tensor:
        """Clip the gradients in place, move the parameters, and return the norms before clipping, shape (K,)."""
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


def _kind(name: str) -> str:
    if name.startswith("thresholds."):
        return "threshold"
    return "weight" if name.endswith(".weight") else "other"


class StackedDropout:
    """The dropout masks that `CRTrainer` would draw for each of K heads; on a CPU they are equal bit by bit.

    Args:
        rates: one per head.
        seeds: one per head.
        widths: units of each CR layer.
        micro_batch: rows of a forward pass; a step may have several.
        like: a tensor of the type and device of the masks.
    """

    def __init__(
        self, rates: Sequence[float], seeds: Sequence[int], widths: Sequence[int], micro_batch: int, like: Tensor
    ) -> None:
        self.widths, self.seeds, self.micro_batch = widths if any(rates) else [], seeds, micro_batch
        self.generator = torch.Generator(like.device)
        chances = [max(1, round((1 - rate) * MASK_LEVELS)) / MASK_LEVELS for rate in rates]
        self.keep = like.new_tensor(chances).unsqueeze(1)

    def masks(self, step: int, batch: int) -> list[Tensor]:
        """One mask a layer, 0 or 1 / keep, shape (K, batch, width); an empty list if no head has dropout."""
        if not self.widths:
            return []
        parts = [
            self._draw(step, number, min(self.micro_batch, batch - start))
            for number, start in enumerate(range(0, batch, self.micro_batch))
        ]
        return parts[0] if len(parts) == 1 else [torch.cat(layer, 1) for layer in zip(*parts, strict=True)]

    def _draw(self, step: int, number: int, rows: int) -> list[Tensor]:
        # 16 bits a decision, whole words of 64 bits a layer, as `Dropout` draws them.
        words = [-(-rows * width // 4) for width in self.widths]
        bits = torch.empty(len(self.seeds), sum(words), dtype=torch.int64, device=self.keep.device)
        for row, seed in zip(bits, self.seeds, strict=True):
            row.random_(-(2**63), None, generator=self.generator.manual_seed(dropout_seed(seed, step, number)))
        masks = to_mask(bits.view(torch.int16).to(self.keep.dtype), self.keep)
        layers = zip(masks.split([4 * count for count in words], dim=1), self.widths, strict=True)
        return [mask[:, : rows * width].unflatten(1, (rows, width)) for mask, width in layers]


class TrainingRows:
    """The standardised training rows of K heads: those of each distinct subset, one below the other.

    Args:
        features: raw, shape (rows, in_features).
        labels: class indices, shape (rows,), or targets, shape (rows, num_labels).
        subsets: the row numbers of each head, all of one length; `None` for every row.
        like: a tensor of the type and device of the rows.
        weights: of the rows, shape (rows,); `None` (default) for none.

    Attributes `mean` and `scale` have shape (1 or K, 1, in_features); 1 if all heads have the same rows.
    """

    def __init__(
        self,
        features: Rows,
        labels: Tensor,
        subsets: Sequence[Sequence[int] | None],
        like: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        distinct = list(dict.fromkeys(subsets))
        everything = np.arange(len(features))
        chosen = [everything if subset is None else np.asarray(subset) for subset in distinct]
        self.num_rows = len(chosen[0])
        norms = [_fitted_norm(features, indices).to(like) for indices in chosen]
        which = [0] if len(distinct) == 1 else [distinct.index(subset) for subset in subsets]
        self.offsets = torch.tensor(which).unsqueeze(1) * self.num_rows
        self.mean = torch.stack([norms[subset].mean for subset in which]).unsqueeze(1)
        self.scale = torch.stack([norms[subset].scale for subset in which]).unsqueeze(1)
        every = torch.from_numpy(np.concatenate(chosen))
        self.labels = labels[every].to(like.device)
        self.weights = None if weights is None else weights[every].to(like)
        self.features = like.new_empty(len(self.labels), features.shape[1])
        start = 0
        for norm, indices in zip(norms, chosen, strict=True):
            for rows in _chunks(features, indices):
                self.features[start : start + len(rows)] = norm(rows.to(like))
                start += len(rows)

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (1 or K, batch, in_features), labels and weights (1 or K, batch) at these positions of a subset."""
        index = (positions + self.offsets).to(self.features.device)
        features = self.features.index_select(0, index.flatten()).unflatten(0, index.shape)
        return features, self.labels[index], None if self.weights is None else self.weights[index]


def all_rows(features: Rows, device: torch.device) -> Tensor:
    """A copy of all features on a device, shape (rows, in_features), in their own type."""
    return torch.cat([rows.to(device) for rows in _chunks(features, np.arange(len(features)))])


def _chunks(features: Rows, indices: np.ndarray, size: int = CHUNK_ROWS) -> Iterator[Tensor]:
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        if isinstance(features, Tensor):
            yield features[torch.from_numpy(chosen).to(features.device)]
        else:
            yield torch.from_numpy(features[chosen])


def _fitted_norm(features: Rows, indices: np.ndarray) -> Standardize:
    count, mean, squares = feature_moments(_chunks(features, indices))
    norm = Standardize(features.shape[1]).double()
    constant = norm.set_statistics(mean.cpu(), (squares / count).cpu())
    if constant:
        logger.warning_once(f"{constant} of {len(mean)} features are constant over the training rows and are left out")
    return norm


def stacked_logits(
    parameters: Stacked, mean: Tensor, scale: Tensor, features: Rows, config: CRConfig, batch_size: int
) -> Tensor:
    """Logits of raw features of shape (rows, in_features), without a gradient, shape (K, rows, num_labels).

    `mean` and `scale` are those of `TrainingRows`, and `batch_size` is the number of rows at a time.
    """
    count, parts = len(parameters["readout.bias"]), []
    with torch.no_grad():
        for rows in _chunks(features, np.arange(len(features)), batch_size):
            normalised = (rows.to(mean) - mean) * scale
            parts.append(stacked_forward(parameters, normalised.expand(count, -1, -1), config)[0])
    return torch.cat(parts, 1)


def default_group_size(
    config: CRConfig, batch_size: int, dtype: torch.dtype, device: torch.device, copied_rows: int = 0
) -> int:
    """Heads to train in one program, at least 1; on a GPU half of the free memory is filled.

    On two cores the time of a head is lowest at 6 to 12 heads of 2688-128-128-5 and at 10 to 20 of 384-128-128-5, a
    tenth above that at twice as many, and half above or more where malloc gives up. `STEP_BYTES` is where it is least.
    `copied_rows` are the training rows that each head has a copy of; 0 if all heads share theirs.
    """
    widths = [config.in_features, *config.hidden_sizes, int(config.num_labels or 0)]
    parameters = sum(above * below for above, below in pairwise(widths))
    # Weight, gradient and two moments; a batch of features; about sixteen tensors of the size of each layer's output.
    numbers = 4 * parameters + batch_size * (config.in_features + 16 * sum(config.hidden_sizes))
    copied = dtype.itemsize * config.in_features * copied_rows
    if device.type == "cuda":
        return max(1, torch.cuda.mem_get_info(device)[0] // 2 // (2 * dtype.itemsize * numbers + copied))
    return max(1, min(STEP_BYTES // (dtype.itemsize * numbers), COPIED_BYTES // max(1, copied)))
