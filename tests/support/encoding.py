"""Texts to encode, a classifier that encodes them, and the same text by text."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cr_hf import CRForSequenceClassification as Model

WORDS = ["good", "bad", "great", "awful", "dull", "witty", "boring", "superb", "film", "plot"]
TEXTS = [" ".join(WORDS[(row * step) % 10] for step in range(1, 2 + row % 9)) + f" {row}" for row in range(24)]
ROWS_OF_SHARD = 8


def build(folder: Path, **fields: Any) -> Model:
    torch.manual_seed(0)
    return Model.from_backbone(str(folder), num_labels=3, freeze_backbone=True, **{"feature_layers": "all", **fields})


@torch.no_grad()
def one_by_one(model: Model, tokenizer: Any, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
    length = model.config.max_length_for(tokenizer)
    rows = []
    for number, text in enumerate(texts):
        pair = None if pairs is None else [pairs[number]]
        inputs = tokenizer([text], pair, truncation=True, max_length=length, return_tensors="pt")
        rows.append(model.get_features(**inputs)[0])
    return torch.stack(rows).numpy()


def entry_of(cache_dir: Path) -> Path:
    (entry,) = cache_dir.iterdir()
    return entry
