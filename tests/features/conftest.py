"""Small shards, a tiny classifier with its tokenizer, and what its backbone is asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyBackbone
from encoding import ROWS_OF_SHARD, build
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification as Model
from cr_hf.features import encode as features


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", ROWS_OF_SHARD)


@pytest.fixture(scope="module")
def folder(tiny_backbone: TinyBackbone) -> Path:
    return tiny_backbone("bert")


@pytest.fixture
def model(folder: Path) -> Model:
    return build(folder)


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that a backbone encodes."""
    batches: list[int] = []
    original = Model.get_features

    def get_features(self: Model, **inputs: torch.Tensor) -> torch.Tensor:
        batches.append(len(inputs["input_ids"]))
        return original(self, **inputs)

    monkeypatch.setattr(Model, "get_features", get_features)
    return batches
