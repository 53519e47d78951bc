"""What the configuration of a backbone tells: its width, and how many positions it has."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig

# Their positions start after the padding id, so max_position_embeddings (514, say) promises too much (512).
POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
NO_LIMIT = 2**31 - 1


def read_backbone_config(values: Any) -> PreTrainedConfig | None:
    """A configuration from its dict, as `config.json` has it; an object is returned as it is."""
    if values is None or isinstance(values, PreTrainedConfig):
        return values
    if not isinstance(values, dict):
        raise ValueError(f"backbone_config={values!r} is not allowed: use a configuration object, its dict or null")
    if not (model_type := values.get("model_type")):
        raise ValueError("backbone_config has no model_type: give a configuration of the backbone, or its whole dict")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config has model_type={model_type!r}, which transformers {transformers.__version__} does not "
            "know: upgrade transformers, or pass the backbone's configuration as an object"
        )
    return CONFIG_MAPPING[model_type].from_dict(values)


def width_of(config: PreTrainedConfig, default: int | None = None) -> int:
    """Width of the last hidden state; of a convolutional network that of its neck or its last stage.

    Raises:
        ValueError: if the configuration does not tell, and there is no default.
    """
    stages = (getattr(config, "neck_hidden_sizes", None) or getattr(config, "hidden_sizes", None) or ())[-1:]
    widths = [getattr(config, "hidden_size", None), *stages]
    for width in (*widths, getattr(config, "num_features", None), default):
        if width is not None:
            return width
    raise ValueError(f"the configuration of a backbone of type {config.model_type} tells no width: give in_features")


def positions_of(config: PreTrainedConfig) -> int:
    """Tokens that the backbone has positions for; `NO_LIMIT` if it says nothing of them."""
    backbone = config.get_text_config()
    positions = next((value for name in POSITIONS if (value := getattr(backbone, name, None))), NO_LIMIT)
    before = backbone.pad_token_id + 1 if backbone.model_type in POSITIONS_AFTER_PADDING else 0
    return positions - before if positions > 0 else NO_LIMIT  # XLNet's -1 is no limit
