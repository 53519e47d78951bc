"""Small classifiers on features and on tiny backbones."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    BatchEncoding,
)

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification

TEXTS = ["A gorgeous, witty film!", "dull", "the food was not very good and the service was terrible."]
LABELS = torch.tensor([2, 0, 1])


def feature_model(fit: bool = True, **fields: Any) -> CRForFeatureClassification:
    """A small head on 16 features."""
    model = CRForFeatureClassification(
        CRConfig(**{"in_features": 16, "num_labels": 3, "hidden_sizes": [8, 6], **fields})
    )
    if fit and model.config.feature_norm == "standardize":
        model.fit_feature_norm(torch.randn(40, model.config.in_features) * 3 + 1)
    return model.eval()


def text_model(folder: Path, **fields: Any) -> tuple[CRForSequenceClassification, BatchEncoding]:
    """A classifier on a tiny backbone, and a padded batch for it."""
    model = CRForSequenceClassification.from_backbone(folder, **{"num_labels": 3, "hidden_sizes": [8], **fields})
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    if model.config.feature_norm == "standardize":
        model.fit_feature_norm(model.get_features(**batch))
    return model, batch


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
