"""`CRForImageClassification`: a CR head on a backbone of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING
from transformers.utils import can_return_tuple

from .backbone_config import width_of
from .backbone_model import CRBackboneModel
from .head import CRClassifierOutput
from .loading import new_backbone
from .texts import Encoded

UNTOLD = -1


class CRForImageClassification(CRBackboneModel):
    """A CR head on any `AutoModel` backbone of images: ViT, DINOv2, Swin, ConvNeXt, ResNet, CLIP, SigLIP, timm.

    Tokens of patches are pooled as those of texts are (`pooling`, `feature_layers`); a feature map of a convolutional
    network is averaged over its places, as the backbone itself does. Of CLIP and SigLIP the tower for images is read.
    """

    main_input_name = "pixel_values"
    auto_class = "AutoModelForImageClassification"
    pipeline_tag = "image-classification"
    auto_processor = "AutoImageProcessor"
    reads = ("pixel_values",)

    @classmethod
    def _fields_of(cls, backbone_config: Any) -> dict[str, Any]:
        """The width where a configuration does not tell it, by a run of the backbone without memory."""
        kind = backbone_config.model_type
        if kind not in CONFIG_MAPPING:  # code of its own, which is not run before it is loaded
            return {}
        size = getattr(backbone_config, "image_size", None) or 224
        height, width = size if isinstance(size, list | tuple) else (size, size)
        with torch.device("meta"), torch.no_grad():
            backbone: Any = new_backbone(backbone_config, cls.reads).eval()
            try:
                channels = getattr(backbone_config, "num_channels", 3)
                state = backbone(torch.empty(1, channels, height, width)).last_hidden_state
            except Exception as error:  # whatever a backbone raises that needs more than images
                raise ValueError(f"a backbone of type {kind} does not run on images alone: use another one") from error
        found = state.shape[1 if state.ndim == 4 else -1]
        told = width_of(backbone_config, UNTOLD)
        if told not in (UNTOLD, found):
            raise ValueError(
                f"a backbone of type {kind} gives {found} features, its configuration tells of {told}: use another one"
            )
        return {"in_features": found} if told == UNTOLD else {}

    def get_features(self, pixel_values: Tensor) -> Tensor:
        """The pooled backbone output that the head reads, shape (batch, in_features).

        Args:
            pixel_values: from the backbone's image processor, shape (batch, channels, height, width).
        """
        return self._features({"pixel_values": pixel_values})[0]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_dreg: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CRClassifierOutput:
        """Classify images: see `get_features`, and for the rest `CRForSequenceClassification.forward`."""
        features, encoded = self._features({"pixel_values": pixel_values}, output_attentions, output_hidden_states)
        return self._classify(features, labels, output_dreg, encoded)

    def _encode(self, inputs: dict[str, Tensor | None], **outputs: bool) -> Encoded:
        pixels, config = inputs["pixel_values"], self.config
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not pixels.is_floating_point():
            found = (
                f"shape {tuple(pixels.shape)}, {pixels.dtype}" if isinstance(pixels, Tensor) else type(pixels).__name__
            )
            raise ValueError(
                f"pixel_values are ({found}): use the backbone's image processor, which gives floats of shape (batch, "
                "channels, height, width)"
            )
        output = self._call_backbone({"pixel_values": pixels.to(self.backbone.dtype)}, outputs)
        states = self._chosen_states(output)
        if states[0].ndim == 4:
            if config.pooling != "mean":
                raise ValueError(
                    f"pooling={config.pooling!r}: a backbone of type {config.backbone_config.model_type} gives a map, "
                    "which has no tokens: use pooling='mean'"
                )
            pooled, channels = output.get("pooler_output"), states[0].shape[1]
            is_mean = pooled is None or pooled[0].numel() != channels
            states = [(states[0].mean((2, 3)) if is_mean else pooled.flatten(1)).unsqueeze(1)]
        mask = torch.ones(states[0].shape[:2], dtype=torch.long, device=pixels.device)
        return Encoded(states, mask, None, *self._asked_for(output, outputs))
