"""Tiny backbones of images, sound and texts by name, a head for each, and batches for them."""

from pathlib import Path
from typing import Any

import torch
from conftest import BACKBONES
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel

from cr_hf import (
    CRForAudioClassification,
    CRForImageClassification,
    CRForMultipleChoice,
    CRForTokenClassification,
)

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TOWER = {**SIZES, "image_size": 16, "patch_size": 8}
WAVES = {**SIZES, "conv_dim": [8, 8], "conv_kernel": [4, 4], "conv_stride": [2, 2], "num_feat_extract_layers": 2}
WAVES |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
WORDS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BOTH = {"vision_config": TOWER, "text_config": {**WORDS, "vocab_size": 9}, "projection_dim": 8}
IMAGES: dict[str, dict[str, Any]] = {
    "vit": TOWER,
    "deit": TOWER,
    "dinov2": TOWER,
    "clip": BOTH,
    "siglip": BOTH,
    "clip_vision_model": TOWER,
    "siglip_vision_model": TOWER,
    "swin": {
        "image_size": 16,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
    },
    "convnext": {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "patch_size": 2},
    "convnextv2": {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "patch_size": 2},
    "mobilenet_v2": {"depth_multiplier": 0.1, "image_size": 16},
    "mobilevit": {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 4, 4, 4, 12], "image_size": 16},
    "cvt": {"embed_dim": [8, 8, 12], "num_heads": [1, 1, 1], "depth": [1, 2, 3], "image_size": 16},
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 8, 8, 12]},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
SOUNDS: dict[str, dict[str, Any]] = {
    "wav2vec2": WAVES,
    "hubert": {**WAVES, "feat_extract_norm": "layer"},
    "wavlm": WAVES,
    "whisper": {
        **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "num_mel_bins": 8, "max_source_positions": 16},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    },
    "audio-spectrogram-transformer": {**SIZES, "max_length": 32, "num_mel_bins": 16, "patch_size": 16},
}
KINDS = [*IMAGES, *SOUNDS, "tokens", "choices"]
CLASSES = {**dict.fromkeys(IMAGES, CRForImageClassification), **dict.fromkeys(SOUNDS, CRForAudioClassification)}
CLASSES |= {"tokens": CRForTokenClassification, "choices": CRForMultipleChoice}  # type: ignore[dict-item]


def batch_of(kind: str) -> dict[str, Tensor]:
    """Three rows with labels; the second is the shortest where there is a mask."""
    torch.manual_seed(0)
    if kind in IMAGES:
        return {"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.tensor([0, 2, 1])}
    if kind in SOUNDS:
        labels = {"labels": torch.tensor([0, 2, 1])}
        if kind == "whisper":
            return {"input_features": torch.randn(3, 8, 32), **labels}
        if kind not in ("wav2vec2", "hubert", "wavlm"):
            return {"input_values": torch.randn(3, 32, 16), **labels}
        mask = torch.ones(3, 64, dtype=torch.long)
        mask[1, 30:] = 0
        return {"input_values": torch.randn(3, 64) * mask, "attention_mask": mask, **labels}
    ids, mask = torch.randint(5, 60, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    if kind == "tokens":
        labels = torch.randint(0, 3, (3, 7)).masked_fill(mask == 0, -100)
        labels[:, 0] = -100
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    pair = {"input_ids": torch.stack([ids, ids.flip(1)], 1), "attention_mask": torch.stack([mask, mask], 1)}
    return {**pair, "labels": torch.tensor([0, 1, 1])}


def model_on(kind: str, folder: Path, **fields: Any) -> Any:
    torch.manual_seed(1)
    if kind in ("tokens", "choices"):
        config: Any = BACKBONES["bert"]()
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    else:
        config = CONFIG_MAPPING[kind](**(IMAGES | SOUNDS)[kind])
    AutoModel.from_config(config).save_pretrained(folder)
    labels = {} if kind == "choices" else {"num_labels": 3}
    return CLASSES[kind].from_backbone(str(folder), **{"hidden_sizes": [6, 5], "dropout": 0.0, **labels, **fields})


def rows_read(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the head reads of a batch."""
    without = () if model.label_level == "token" else ("labels",)
    return model.get_features(**{name: value for name, value in batch.items() if name not in without})
