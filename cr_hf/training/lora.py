"""LoRA through peft: adapters on the backbone, the CR head trained whole beside them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..modeling import CRForSequenceClassification

ADAPTER, BASE = "adapter", "base"
"""Folders of a run directory: the adapter, and the classifier that it was trained on."""


def linear_layers(model: CRForSequenceClassification) -> list[str]:
    """Names, inside the backbone, of the linear layers that an adapter can be put on."""
    named = model.backbone.named_modules()
    return [name for name, module in named if isinstance(module, nn.Linear | Conv1D)]


def lora_config(
    model: CRForSequenceClassification,
    r: int = 8,
    alpha: int | None = None,
    dropout: float = 0.05,
    target_modules: Sequence[str] | None = None,
) -> LoraConfig:
    """The `LoraConfig` that fits a CR model on any backbone.

    Args:
        model: the classifier; its backbone may be frozen.
        r: rank of the adapters.
        alpha: their scale is alpha / r; `None` (default) means 2 * r.
        dropout: before the adapters, 0.05 by default.
        target_modules: last parts of the names of the layers to adapt, such as `["query", "value"]`; `None` (default)
            means every linear layer of the backbone.

    Returns:
        A configuration that adapts the backbone alone and trains and saves the head whole.

    Raises:
        ValueError: if a target matches no linear layer of the backbone, or a number is out of its range.
    """
    if r < 1 or not 0 <= dropout < 1:
        raise ValueError(f"lora_r={r}, lora_dropout={dropout}: use a rank of 1 or above and a dropout below 1")
    layers = linear_layers(model)
    if not layers:
        kind = model.config.backbone_config.model_type
        raise ValueError(f"the backbone ({kind}) has no linear layer for LoRA: train it whole, without lora_r")
    chosen = layers
    if target_modules is not None:
        for target in target_modules:
            if not any(_ends_with(name, target) for name in layers):
                known = sorted({_last_part(name) for name in layers})
                raise ValueError(
                    f"lora_target_modules: {target!r} matches no linear layer of the backbone: use some of {known}"
                )
        chosen = [name for name in layers if any(_ends_with(name, target) for target in target_modules)]
    parts = sorted({_last_part(name) for name in chosen})
    everything = [name for name, _ in model.backbone.named_modules()]
    # Short names where they mean the chosen layers and no others, as a rule; else the names in full.
    is_exact = {name for name in everything if any(_ends_with(name, part) for part in parts)} == set(chosen)
    names = rf"(.*\.)?({'|'.join(map(re.escape, parts))})" if is_exact else f"({'|'.join(map(re.escape, chosen))})"
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=rf"backbone\.{names}",
        modules_to_save=["classifier"],
    )


def add_lora(model: CRForSequenceClassification, base: str | Path, config: LoraConfig | None = None) -> PeftModel:
    """Save a classifier and put adapters on it.

    Args:
        model: the classifier; it is changed in place.
        base: where it is saved as it is now; the adapter refers to it by this very path, so that
            `AutoPeftModelForSequenceClassification` loads both.
        config: as `lora_config` returns it, which is the default.

    Returns:
        The model to train: adapters and head are trainable, nothing else is.
    """
    config = lora_config(model) if config is None else config
    save_base(model, base)
    model.name_or_path = config.base_model_name_or_path = str(base)  # peft takes the model's own
    with warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed; drop this once peft has followed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted: Any = get_peft_model(model, config)
    return adapted


def save_base(model: CRForSequenceClassification, base: str | Path) -> None:
    """Save what an adapter is loaded on: without the backbone's weights, where others can get them again."""
    head_only = bool(model.config.freeze_backbone and model.config.backbone_source)
    model.save_pretrained(base, head_only=head_only)


def merge_lora(adapted: PeftModel) -> CRForSequenceClassification:
    """The classifier with its adapters added into its weights; `adapted` is used up."""
    model: Any = adapted.merge_and_unload()
    model.config.freeze_backbone = False
    return model.eval()


def _last_part(name: str) -> str:
    """The last part of a dotted name; with the one before it where the last is a number."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
