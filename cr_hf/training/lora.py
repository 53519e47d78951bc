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

from ..modeling import CRBackboneModel, CRForSequenceClassification

# peft's classes for these read token ids; for others it has its general one.
TASKS = {"text-classification": TaskType.SEQ_CLS, "token-classification": TaskType.TOKEN_CLS}


def linear_layers(model: CRBackboneModel) -> list[str]:
    """Names, inside the backbone, of the linear layers that an adapter can be put on."""
    named = model.backbone.named_modules()
    return [name for name, module in named if isinstance(module, nn.Linear | Conv1D)]


def lora_config(
    model: CRBackboneModel,
    r: int = 8,
    alpha: int | None = None,
    dropout: float = 0.05,
    target_modules: Sequence[str] | None = None,
) -> LoraConfig:
    """The `LoraConfig` that adapts the backbone of a CR model alone, and trains and saves its head whole.

    Args:
        model: the classifier; its backbone may be frozen.
        r: rank of the adapters, 8 by default.
        alpha: their scale is alpha / r; `None` (default) means 2 * r.
        dropout: before the adapters, 0.05 by default.
        target_modules: last parts of the names of the layers to adapt, such as `["query", "value"]`; `None` (default)
            means every linear layer of the backbone.

    Raises:
        ValueError: if a target matches no linear layer of the backbone, or a number is out of its range.
    """
    if r < 1 or not 0 <= dropout < 1:
        raise ValueError(f"lora_r={r}, lora_dropout={dropout}: use a rank of 1 or above and a dropout below 1")
    layers = linear_layers(model)
    if not layers:
        kind = model.config.backbone_config.model_type
        raise ValueError(f"the backbone ({kind}) has no linear layer for LoRA: train it whole, without lora_r")
    chosen = layers if target_modules is None else []
    for target in target_modules or ():
        found = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"lora_target_modules: {target!r} matches no linear layer of the backbone: use some of {known}"
            )
        chosen = chosen + found
    return LoraConfig(
        task_type=TASKS.get(model.pipeline_tag),
        r=r,
        lora_alpha=2 * r if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=rf"backbone\.({'|'.join(map(re.escape, chosen))})",
        modules_to_save=["classifier"],
    )


def add_lora(model: CRBackboneModel, base: str | Path, config: LoraConfig | None = None) -> PeftModel:
    """Save a classifier and put adapters on it: they and the head are trainable, nothing else is.

    Args:
        model: the classifier; it is changed in place.
        base: folder to save it in; the adapter refers to it by this very path, so that
            `AutoPeftModelForSequenceClassification` loads both.
        config: `None` (default) means `lora_config(model)`.
    """
    config = lora_config(model) if config is None else config
    # Without the backbone's weights where others can get them again.
    model.save_pretrained(base, head_only=bool(model.config.freeze_backbone and model.config.backbone_source))
    model.name_or_path = config.base_model_name_or_path = str(base)  # peft takes the model's own
    with warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5.23 has renamed; drop this once peft has followed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted: Any = get_peft_model(model, config)
    return adapted


def merge_lora(adapted: PeftModel) -> CRForSequenceClassification:
    """The classifier with its adapters, of whatever method of peft, added into its weights; `adapted` is used up."""
    inner: Any = adapted.get_base_model()
    if hasattr(inner.classifier, "modules_to_save"):
        # peft 0.21 unpacks a trained head for some methods only, and expects it to have a `weight` for the others.
        inner.classifier = inner.classifier.modules_to_save[adapted.active_adapter]
    model: Any = adapted.merge_and_unload()
    model.config.freeze_backbone = False
    return model.eval()
