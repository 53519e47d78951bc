"""Backbones: which there are, that their weights are whole, and one way to run all of them.

Whatever the padding side, a backbone sees the attended tokens first and the padding after them.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)

WHOLE = "it is not a whole CR checkpoint (start from a backbone with from_backbone)"
WHOLE_WEIGHTS = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
PADDED = "mixes the padding into its answer"
UNSUPPORTED = {
    **dict.fromkeys(("convbert", "cpmant", "fnet", "nystromformer", "yoso"), PADDED),
    "canine": "reads characters in blocks",
    "mra": "attends on GPUs alone",
    "reformer": "hashes at random",
    **dict.fromkeys(("funnel", "pegasus_x"), "gives hidden states of several lengths"),
}


def new_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """An untrained backbone: the model of a configuration, of an encoder-decoder the encoder alone."""
    return _encoder_of(_auto_class(config).from_config(config, trust_remote_code=False))


def load_backbone(place: str | Path, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """A pretrained backbone with all of its weights, of an encoder-decoder the encoder alone.

    Raises:
        OSError: if there are no safetensors weights, or they are damaged.
        ValueError: if the kind of backbone is not supported, or weights are missing or of another shape.
    """
    model, info = _auto_class(config).from_pretrained(place, config=config, **options, **WHOLE_WEIGHTS)
    check_loaded(place, model, info, mend="its weights have other names, or belong to another configuration")
    return _encoder_of(model)


def _auto_class(config: PreTrainedConfig) -> Any:
    reason = UNSUPPORTED.get(config.model_type)
    if reason:
        raise ValueError(f"a backbone of type {config.model_type} {reason}: use another one")
    # Once T5's encoder is built, its configuration says that it is no encoder-decoder: the class still tells.
    is_pair = config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False)
    return AutoModelForTextEncoding if is_pair and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def _encoder_of(model: Any) -> PreTrainedModel:
    if model.main_input_name != "input_ids":
        raise ValueError(f"a backbone of type {model.config.model_type} reads no text: use another one")
    return model.get_encoder() if hasattr(model, "decoder") and hasattr(model, "encoder") else model


def check_loaded(
    place: Any, model: PreTrainedModel, info: dict[str, Any], resizes: bool = False, mend: str = WHOLE
) -> None:
    """Refuse weights that did not fill the model: transformers would leave random values in their place.

    Args:
        place: where it was loaded from, for the message.
        model: what was loaded.
        info: the second value of `from_pretrained(output_loading_info=True)`.
        resizes: tensors of another shape than config.json says are allowed.
        mend: the end of the message.
    """
    # A pooler and a decoder are not used.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(("pooler.", "decoder.")))
    if missing:
        raise ValueError(f"{place} lacks {len(missing)} tensors of {type(model).__name__}, {missing[0]} first: {mend}")
    if info["mismatched_keys"] and not resizes:
        name, saved, wanted = min(info["mismatched_keys"])
        raise ValueError(f"{place} has {name} of shape {list(saved)}, but its config.json says {list(wanted)}")


def hidden_states(
    backbone: Any,
    takes: Container[str],
    inputs: dict[str, Tensor | None],
    layers: list[int] | None,
    max_positions: int,
) -> tuple[list[Tensor], Tensor]:
    """Hidden states of a batch of texts, and their attention mask, both with the padding on the right.

    Args:
        backbone: to run.
        takes: names of the arguments of its forward pass.
        inputs: `input_ids` or `inputs_embeds`, shape (batch, length, ...), and what is known of `attention_mask` and
            `token_type_ids`; what the backbone does not take is left out.
        layers: indices of the hidden states, `None` for the last one alone.
        max_positions: for the message.

    Raises:
        ValueError: if a text is longer than the backbone can read, or has a token that it does not know.
    """
    given: Any = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
    passed: dict[str, Any] = {
        name: value
        for name, value in inputs.items()
        if value is not None and (name != "token_type_ids" or name in takes)
    }
    if inputs.get("attention_mask") is None:
        passed["attention_mask"] = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
    else:
        # Stable, so that attended tokens keep their order: (batch, length), tokens first.
        order = passed["attention_mask"].eq(0).int().argsort(dim=1, stable=True)
        passed = {
            name: value.gather(1, order if value.ndim == 2 else order.unsqueeze(-1).expand_as(value))
            for name, value in passed.items()
        }
    options = {"use_cache": False} if "use_cache" in takes else {}
    try:
        output = backbone(**passed, **options, output_hidden_states=layers is not None)
    except (IndexError, RuntimeError) as error:
        size, highest = backbone.get_input_embeddings().weight.shape[0], int(passed.get("input_ids", given).max())
        if highest >= size:
            raise ValueError(
                f"the tokenizer gives token {highest}, the backbone has {size} embeddings: they do not belong together"
            ) from error
        if given.shape[1] > max_positions:
            raise ValueError(
                f"a text has {given.shape[1]} tokens, the backbone reads {max_positions}: truncation=True cuts it"
            ) from error
        raise
    states = [output.last_hidden_state] if layers is None else [output.hidden_states[index] for index in layers]
    # Backbones that attend in blocks give the end of the last block too.
    return [state[:, : given.shape[1]] for state in states], passed["attention_mask"]
