"""Static word embeddings as a transformers backbone: a table of vectors, looked up and averaged.

The vectors come from a file, or are learned from scratch with the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .layers import pool


class StaticEmbeddingConfig(PreTrainedConfig):
    """Configuration of `StaticEmbeddingModel`.

    Args:
        vocab_size: words, padding and unknown among them; 2 by default.
        hidden_size: width of a vector, 300 by default.
        initializer_range: standard deviation of vectors that are learned from scratch, 0.1 by default.
        pad_token_id: of the padding, 0 by default.
    """

    model_type = "cr_static_embedding"

    vocab_size: int = 2
    hidden_size: int = 300
    initializer_range: float = 0.1
    pad_token_id: int = 0
    num_hidden_layers: int = 0


class StaticEmbeddingModel(PreTrainedModel):
    """A table of word vectors and their mean."""

    config_class = StaticEmbeddingConfig
    base_model_prefix = "static"
    supports_gradient_checkpointing = True
    _input_embed_layer = "embeddings"

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Look words up: `last_hidden_state` and its masked mean, `pooler_output` of shape (batch, hidden_size).

        Args:
            input_ids, attention_mask, inputs_embeds: see `CRForSequenceClassification.get_features`.
            output_hidden_states: return the vectors as the only hidden state too.
        """
        vectors = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        return BaseModelOutputWithPooling(
            last_hidden_state=vectors,
            pooler_output=pool(vectors, mask if attention_mask is None else attention_mask, "mean"),
            hidden_states=(vectors,) if output_hidden_states else None,
        )


if StaticEmbeddingConfig.model_type not in CONFIG_MAPPING:
    AutoConfig.register(StaticEmbeddingConfig.model_type, StaticEmbeddingConfig)
    AutoModel.register(StaticEmbeddingConfig, StaticEmbeddingModel)
