"""`CRForTokenClassification`: a CR head on every token of a text."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_cr import CRConfig
from .head import CRClassifierOutput
from .modeling_cr import CRTextModel
from .texts import Encoded

IGNORED = -100
"""Label of tokens that have none: padding, special tokens, the further pieces of a word."""


class CRForTokenClassification(CRTextModel):
    """A CR head on every token: entities, parts of speech. One class a token; DREG and loss are means over tokens."""

    auto_class = "AutoModelForTokenClassification"
    pipeline_tag = "token-classification"
    label_level: ClassVar[str] = "token"

    def __init__(self, config: CRConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if config.problem_type != "single_label_classification":
            raise ValueError(
                f"problem_type={config.problem_type!r}: a token has one class, use num_labels of 2 or above"
            )

    def get_features(self, labels: Tensor | None = None, **inputs: Tensor | None) -> Tensor:
        """What the head reads of each token, shape (tokens, in_features).

        Args:
            labels: shape (batch, length), of which tokens with a label other than -100 count; by default all that the
                attention mask has.
            **inputs: those of `CRForSequenceClassification.get_features`.
        """
        states, encoded = self._tokens(inputs)
        return states[self._rows(states, encoded, labels)]

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
    ) -> CRClassifierOutput:
        """Classify tokens: logits of shape (batch, length, num_labels).

        Args:
            labels: classes, -100 where there is none, shape (batch, length).
            output_dreg: compute DREG, by default while training only. Then tokens without a label (without labels: the
                padding) have logits of 0.
            input_ids, ...: as in `CRForSequenceClassification.forward`.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        states, encoded = self._tokens(inputs, output_attentions, output_hidden_states)
        rows = None if labels is None else self._rows(states, encoded, labels)
        if self._wants_dreg(output_dreg):
            rows = self._rows(states, encoded, labels) if rows is None else rows
            found, dreg = self.classifier(states[rows], output_dreg=True)
            logits = found.new_zeros(*states.shape[:2], found.shape[-1]).masked_scatter(rows.unsqueeze(-1), found)
        else:
            logits, dreg = self.classifier(states)
        loss = None if labels is None or rows is None else self.task_loss(logits[rows], labels[rows])
        return self._output(logits, dreg, loss, encoded)

    def _tokens(self, inputs: dict[str, Tensor | None], *outputs: bool | None) -> tuple[Tensor, Encoded]:
        """What the head reads of every position, in the order given, shape (batch, length, in_features)."""
        encoded = self._run(inputs, *outputs)
        return torch.cat([encoded.as_given(state) for state in encoded.states], -1), encoded

    def _rows(self, states: Tensor, encoded: Encoded, labels: Tensor | None) -> Tensor:
        """Whether a token counts, shape (batch, length)."""
        if labels is None:
            return encoded.as_given(encoded.mask).bool()
        if labels.shape != states.shape[:2]:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, the tokens {tuple(states.shape[:2])}: give one label a "
                f"token, {IGNORED} for none (word_ids() of the tokenizer tells the word of a token)"
            )
        rows = labels != IGNORED
        if not rows.any():
            raise ValueError(f"no token of the batch has a label, all are {IGNORED}: leave such texts out")
        return rows
