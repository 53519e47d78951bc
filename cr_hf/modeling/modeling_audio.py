"""`CRForAudioClassification`: a CR head on a backbone of sound."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.utils import can_return_tuple

from .backbone_model import CRBackboneModel
from .head import CRClassifierOutput
from .texts import Encoded


class CRForAudioClassification(CRBackboneModel):
    """A CR head on any `AutoModel` backbone of sound: wav2vec2, HuBERT, WavLM, the encoder of Whisper, AST."""

    main_input_name = "input_values"
    auto_class = "AutoModelForAudioClassification"
    pipeline_tag = "audio-classification"
    auto_processor = "AutoFeatureExtractor"
    reads = ("input_values", "input_features")

    def get_features(
        self,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The pooled backbone output that the head reads, shape (batch, in_features).

        Args:
            input_values: from the backbone's feature extractor: samples, shape (batch, length), or a spectrogram.
            input_features: in their place where the backbone reads them (Whisper), shape (batch, bins, frames).
            attention_mask: 1 on samples, 0 on padding, shape (batch, length); read by backbones of samples.
        """
        inputs = {"input_values": input_values, "input_features": input_features}
        return self._features({**inputs, "attention_mask": attention_mask})[0]

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_dreg: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CRClassifierOutput:
        """Classify sounds; inputs as in `get_features`, the rest as in `CRForSequenceClassification.forward`."""
        inputs = {"input_values": input_values, "input_features": input_features, "attention_mask": attention_mask}
        features, encoded = self._features(inputs, output_attentions, output_hidden_states)
        return self._classify(features, labels, output_dreg, encoded)

    def _encode(self, inputs: dict[str, Tensor | None], **outputs: bool) -> Encoded:
        given, mask, name = inputs.get(self.main_input_name), inputs.get("attention_mask"), self.main_input_name
        kind = self.config.backbone_config.model_type
        if given is None:
            raise ValueError(f"a backbone of type {kind} reads {name}: use its own feature extractor")
        bins = getattr(self.config.backbone_config, "num_mel_bins", None)
        fits = given.ndim == 2 if bins is None else given.ndim == 3 and bins in given.shape[1:]
        if not fits or (mask is not None and bins is None and mask.shape != given.shape):
            read = "one channel, (batch, length), and a mask of that shape" if bins is None else f"{bins} bins a frame"
            raise ValueError(
                f"{name} have shape {tuple(given.shape)}: a backbone of type {kind} reads {read}: use its own feature "
                "extractor"
            )
        frames_of = getattr(self.backbone, "_get_feat_extract_output_lengths", None) if given.ndim == 2 else None
        if frames_of is not None:
            samples = torch.full((len(given),), given.shape[1]) if mask is None else mask.sum(1).cpu()
            frames = frames_of(samples)
            if (frames < 1).any():
                clip = int((frames < 1).nonzero()[0])
                raise ValueError(f"sound {clip} of the batch has {int(samples[clip])} samples, too few: leave it out")
        passed = {name: given.to(self.backbone.dtype)}
        if mask is not None and frames_of is not None:
            passed["attention_mask"] = mask
        output = self._call_backbone(passed, outputs)
        states = self._chosen_states(output)
        heard = torch.ones(states[0].shape[:2], dtype=torch.long, device=given.device)
        if mask is not None and frames_of is not None:
            heard = self.backbone._get_feature_vector_attention_mask(states[0].shape[1], mask).long()
        return Encoded(states, heard, None, *self._asked_for(output, outputs))
