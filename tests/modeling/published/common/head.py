"""`CRHead`: from features to logits, with DREG of every layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from .configuration_cr import CRConfig
from .dreg import chain_dreg, chain_tangents, network_dreg
from .dropout import Dropout
from .layers import CRLayer, Standardize
from .objectives import OrderedThresholds, ordinal_log_probabilities

LAYER_OPTIONS = ("degree", "activation", "polynomial_range", "coefficient_init")


class CRHead(nn.Module):
    """Features to logits: normalisation, CR layers, readout; with DREG of every layer, in its own dtype always."""

    def __init__(self, config: CRConfig) -> None:
        super().__init__()
        self.config = config
        width, num_labels = config.in_features, cast(int, config.num_labels)
        self.feature_norm = Standardize(width) if config.feature_norm == "standardize" else nn.LayerNorm(width)
        options = {name: getattr(config, name) for name in LAYER_OPTIONS}
        widths = [width, *config.hidden_sizes]
        self.layers: Any = nn.ModuleList(CRLayer(*pair, **options) for pair in pairwise(widths))
        self.dropout = Dropout(config.dropout)
        ordinal = config.objective == "ordinal"
        self.readout = nn.Linear(widths[-1], 1 if ordinal else num_labels)
        self.thresholds = OrderedThresholds(num_labels) if ordinal else None
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
        hidden = self.feature_norm(features)
        chained = output_dreg and self.config.dreg_mode == "chain"
        derivatives: list[Tensor | None] = []
        masks: list[Tensor | None] = []
        for layer in self.layers:
            hidden, derivative = layer(hidden)
            derivatives.append(derivative)
            if chained and self.training and self.dropout.p > 0:
                masks.append(self.dropout(torch.ones_like(hidden)))
                hidden = hidden * masks[-1]
            else:
                masks.append(None)
                hidden = self.dropout(hidden) if self.dropout.training else hidden
        logits = self.readout(hidden)
        if self.thresholds is not None:
            logits = ordinal_log_probabilities(logits, self.thresholds())
        if not output_dreg:
            return logits, None
        weights = [layer.linear.weight for layer in self.layers] + [self.readout.weight]
        if not chained:
            return logits, network_dreg([*derivatives, None], weights)
        exact = self.config.dreg_num_tangents is None
        tangents = chain_tangents(self.config.in_features, None, 0) if exact else self._draw_tangents()
        return logits, chain_dreg([*derivatives, None], weights, tangents.to(weights[0]), [*masks, None])

    @torch.compiler.disable  # a generator cannot be traced, and a seed that changes would recompile every step
    def _draw_tangents(self) -> Tensor:
        self.tangent_seed += 1
        return chain_tangents(self.config.in_features, self.config.dreg_num_tangents, self.tangent_seed - 1)
