"""Discriminative learning rates: the head, and every layer of the backbone, at its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn


def split_by_rate(
    groups: list[dict[str, Any]],
    model: nn.Module,
    head_learning_rate: float | None,
    threshold_learning_rate: float | None,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    """The groups of an optimizer, divided so that each has one learning rate.

    Args:
        groups: `param_groups` of the optimizer, before its first step.
        model: whose parameters they are; the head is called `classifier`, the backbone `backbone`.
        head_learning_rate: of the head; `None` leaves it the groups' own.
        threshold_learning_rate: of the thresholds of an ordinal head; `None` leaves it the head's.
        layer_decay: as `layer_factors` takes it.
    """
    names = [name for name, _ in model.named_parameters()]
    factors = dict(zip(names, layer_factors(names, layer_decay), strict=True))
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    divided = []
    for group in groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            name = named[id(parameter)]
            rate = group["lr"] * factors[name]
            if head_learning_rate is not None and "classifier" in name.split("."):
                rate = head_learning_rate
            if threshold_learning_rate is not None and "thresholds" in name.split("."):
                rate = threshold_learning_rate
            by_rate.setdefault(rate, []).append(parameter)
        divided += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    return divided


def layer_factors(names: Sequence[str], layer_decay: float | None) -> list[float]:
    """What multiplies the learning rate of each parameter of the backbone.

    Args:
        names: of all parameters of the model.
        layer_decay: factor from one layer to the one below it; `None` for no decay.

    Returns:
        1 for the last layer of the backbone and for what is outside it, `layer_decay` for the layer before, and so on
        down to the embeddings.
    """
    found = [re.search(r"(?:^|\.)backbone\..*?\.?(?:layers?|h|blocks?)\.(\d+)\.", name) for name in names]
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    factors = []
    for name, match in zip(names, found, strict=True):
        is_embedding = match is None and re.search(r"backbone\..*(embed|shared)", name) is not None
        depth = int(match[1]) + 1 if match else 0 if is_embedding else layers
        factors.append(1.0 if layer_decay is None else layer_decay ** (layers - depth))
    return factors
