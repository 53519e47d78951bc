"""`CRHead`: from features to logits, with DREG of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_cr import CRConfig
from .dreg import chain_dreg, chain_tangents, network_dreg, worst_dreg
from .layers import CRLayer, Dropout, Standardize
from .objectives import OrderedThresholds, ordinal_log_probabilities

LAYER_OPTIONS = ("degree", "activation", "polynomial_range", "coefficient_init")


@dataclass
class CRClassifierOutput(ModelOutput):
    """What the CR models return.

    Args:
        loss: task loss + dreg_lambda * dreg.sum() while training, the task loss alone in evaluation; scalar.
        logits: shape (batch, num_labels); log-probabilities of a cumulative link.
        task_loss: the loss without DREG; scalar.
        dreg: per layer, the readout last, shape (num_layers,); `None` in evaluation unless asked for.
        hidden_states, attentions: of the backbone, a tensor a layer, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    task_loss: Tensor | None = None
    dreg: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Trace(NamedTuple):
    """What one forward pass of a head computes.

    Args:
        pre_activations: z of each CR layer, shape (batch, out_features).
        derivatives: p'(z) of each CR layer, shape (batch, out_features).
        masks: dropout of each layer, 0 or 1 / keep; empty outside the chain mode, which alone needs them.
        scores: what the readout gives, shape (batch, num_labels), or (batch, 1) of a cumulative link.
        logits: shape (batch, num_labels); the scores themselves, or log-probabilities of a cumulative link.
    """

    pre_activations: list[Tensor]
    derivatives: list[Tensor]
    masks: list[Tensor]
    scores: Tensor
    logits: Tensor


class CRHead(nn.Module):
    """Features to logits: normalisation, CR layers, readout; with DREG of every layer, in its own dtype always."""

    def __init__(self, config: CRConfig) -> None:
        super().__init__()
        config.require_features()
        self.config = config
        width, num_labels = config.in_features, cast(int, config.num_labels)
        self.feature_norm = Standardize(width) if config.feature_norm == "standardize" else nn.LayerNorm(width)
        options = {name: getattr(config, name) for name in LAYER_OPTIONS}
        widths = [width, *config.hidden_sizes]
        self.layers: Any = nn.ModuleList(CRLayer(*pair, **options) for pair in pairwise(widths))
        self.dropout = Dropout(config.dropout)
        self.readout = nn.Linear(widths[-1], 1 if config.is_cumulative_link else num_labels)
        self.thresholds = OrderedThresholds(num_labels) if config.is_cumulative_link else None
        self.tangent_seed = 0

    def forward(self, features: Tensor, output_dreg: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits, shape (batch, num_labels), and DREG per layer, shape (num_layers,) or `None` if not asked for.

        Raises:
            ValueError: if the features, shape (batch, in_features), have another width.
        """
        if features.shape[-1] != self.config.in_features:
            raise ValueError(
                f"features have {features.shape[-1]} columns, the head expects in_features={self.config.in_features}"
            )
        features = features.to(self.readout.weight.dtype)
        # Entering a context, like a call of a dropout that does nothing, is a tenth of the head's inference.
        if not torch.is_autocast_enabled(features.device.type):
            return self._forward(features, output_dreg)
        with torch.autocast(features.device.type, enabled=False):
            return self._forward(features, output_dreg)

    def _forward(self, features: Tensor, output_dreg: bool) -> tuple[Tensor, Tensor | None]:
        traced = self.trace(self.feature_norm(features), dropout=self.dropout.training)
        return traced.logits, self._dreg(traced) if output_dreg else None

    def trace(self, normalised: Tensor, dropout: bool = False) -> Trace:
        """The forward pass from normalised features on, with what is computed on the way.

        Args:
            normalised: features after `feature_norm`, shape (..., in_features).
            dropout: drop units as in training, whatever mode the head is in.
        """
        hidden = normalised
        pre_activations, derivatives, masks = [], [], []
        for layer in self.layers:
            z = layer.linear(hidden)
            hidden, derivative = layer.activate(z)
            pre_activations.append(z)
            derivatives.append(derivative)
            if not dropout:
                continue
            if self.config.dreg_mode == "chain":
                masks.append(self.dropout(torch.ones_like(hidden)))
                hidden = hidden * masks[-1]
            else:
                hidden = self.dropout(hidden)
        scores = self.readout(hidden)
        logits = scores if self.thresholds is None else ordinal_log_probabilities(scores, self.thresholds())
        return Trace(pre_activations, derivatives, masks, scores, logits)

    @property
    def weights(self) -> list[Tensor]:
        """The weight matrix of every layer, the readout's last."""
        return [*(layer.linear.weight for layer in self.layers), self.readout.weight]

    def _dreg(self, traced: Trace) -> Tensor:
        if self.config.dreg_mode == "worst":
            return worst_dreg([*(layer.worst_squared_slopes for layer in self.layers), 1.0], self.weights)
        derivatives = [*traced.derivatives, None]
        if self.config.dreg_mode == "layer":
            return network_dreg(derivatives, self.weights)
        exact = self.config.dreg_num_tangents is None
        tangents = chain_tangents(self.config.in_features, None, 0) if exact else self._draw_tangents()
        masks: list[Tensor | None] = [*traced.masks] or [None] * len(self.layers)
        return chain_dreg(derivatives, self.weights, tangents.to(self.readout.weight), [*masks, None])

    @torch.compiler.disable  # a generator cannot be traced, and a seed that changes would recompile every step
    def _draw_tangents(self) -> Tensor:
        self.tangent_seed += 1
        return chain_tangents(self.config.in_features, self.config.dreg_num_tangents, self.tangent_seed - 1)
