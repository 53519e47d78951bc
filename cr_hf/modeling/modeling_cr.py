"""`CRForSequenceClassification`: a CR head on a text backbone; and what the other models of texts share with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.utils import can_return_tuple

from .backbone_model import CRBackboneModel
from .head import CRClassifierOutput
from .texts import Encoded, hidden_states, padded_batches, prepare_tokenizer, tokenize


class CRTextModel(CRBackboneModel):
    """A CR model that reads token ids."""

    def _encode(self, inputs: dict[str, Tensor | None], **outputs: bool) -> Encoded:
        given = [value for name in ("input_ids", "inputs_embeds") if (value := inputs.get(name)) is not None]
        if len(given) != 1:
            raise ValueError("give either input_ids or inputs_embeds")
        if given[0].shape[1] == 0:  # a text without a token, of a tokenizer that adds none
            empty = torch.zeros(len(given[0]), 0, self.config.in_features, device=self.device)
            return Encoded([empty], empty[..., 0])
        config = self.config
        return hidden_states(
            self.backbone, self._takes, inputs, config.feature_layer_indices, config.max_positions, **outputs
        )

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the backbone's token embeddings, as `PreTrainedModel` does, and note it in our configuration."""
        embeddings: Any = self.backbone.resize_token_embeddings(*args, **kwargs)
        self.config.backbone_config.get_text_config().vocab_size = embeddings.num_embeddings
        return embeddings


class CRForSequenceClassification(CRTextModel):
    """A CR head on any `AutoModel` backbone of texts, frozen or fine-tuned.

    Use `from_backbone` to start from a pretrained backbone, `from_pretrained` to load a finished classifier.
    """

    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"

    def get_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """The pooled backbone output that the head reads, shape (batch, in_features).

        Args:
            input_ids, token_type_ids: shape (batch, length); the latter are passed on if the backbone takes them.
            attention_mask: 1 on attended tokens, shape (batch, length); all of them by default.
            inputs_embeds: instead of input_ids, shape (batch, length, hidden_size).
            position_ids: shape (batch, length); by default the backbone counts.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        return self._features({**inputs, "token_type_ids": token_type_ids, "position_ids": position_ids})[0]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_dreg: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> CRClassifierOutput:
        """Classify texts.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds, position_ids: see `get_features`.
            labels: see `task_loss`.
            output_dreg: compute DREG; by default while training only.
            use_cache: not read, nothing is kept for a next call; trl's reward trainer gives it.
            output_attentions, output_hidden_states: return those of the backbone; by default what `config` says.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        features, encoded = self._features(inputs, output_attentions, output_hidden_states)
        return self._classify(features, labels, output_dreg, encoded)

    @torch.no_grad()
    def predict_texts(
        self, texts: Sequence[str], tokenizer: Any, text_pairs: Sequence[str] | None = None, token_budget: int = 4096
    ) -> Tensor:
        """Logits of raw texts, shape (len(texts), num_labels), on the CPU; `softmax(-1)` gives class probabilities.

        They are computed in batches of similar length, `token_budget` tokens with padding, and returned in the order
        given. Neither the tokenizer nor the model is changed, so threads may share them.
        """
        own = prepare_tokenizer(tokenizer, self.config.max_length_for(tokenizer))
        encoded = tokenize(own, texts, text_pairs)
        model, logits = self.evaluating(), torch.empty(len(texts), cast(int, self.config.num_labels))
        for rows, batch in padded_batches(own, encoded, token_budget):
            logits[rows] = model(**batch.to(self.device)).logits.float().cpu()
        return logits
