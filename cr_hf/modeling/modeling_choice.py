"""`CRForMultipleChoice`: a CR head that scores every choice of a question."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers.utils import can_return_tuple

from .configuration_cr import CRConfig
from .head import CRClassifierOutput
from .modeling_cr import CRTextModel
from .objectives import task_loss


class CRForMultipleChoice(CRTextModel):
    """A CR head that gives each choice one score; softmax over the choices gives probabilities."""

    auto_class = "AutoModelForMultipleChoice"
    pipeline_tag = "multiple-choice"
    label_level: ClassVar[str] = "choice"
    config_defaults: ClassVar[dict[str, Any]] = {"num_labels": 1}

    def __init__(self, config: CRConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if config.num_labels != 1:
            raise ValueError(f"num_labels={config.num_labels}: a choice has one score, use num_labels=1")

    def get_features(self, **inputs: Tensor | None) -> Tensor:
        """What the head reads of each choice, shape (batch * choices, in_features).

        Args:
            **inputs: those of `CRForSequenceClassification.get_features`, each with a dimension of choices after the
                batch: `input_ids` has shape (batch, choices, length).
        """
        return self._features(_flat(inputs))[0]

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
        """Score choices: logits of shape (batch, choices).

        Args:
            labels: number of the right choice, shape (batch,).
            input_ids, ...: see `get_features`; the rest as in `CRForSequenceClassification.forward`.
        """
        inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        inputs |= {"token_type_ids": token_type_ids, "position_ids": position_ids}
        features, encoded = self._features(_flat(inputs), output_attentions, output_hidden_states)
        scores, dreg = self.classifier(features, output_dreg=self._wants_dreg(output_dreg))
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        logits = scores.view(given.shape[:2])
        loss = None if labels is None else task_loss(logits, labels, "single_label_classification")
        return self._output(logits, dreg, loss, encoded)


def _flat(inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    for name, value in inputs.items():
        if value is not None and value.ndim < 3:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: give (batch, choices, length)")
    return {name: None if value is None else value.flatten(0, 1) for name, value in inputs.items()}
