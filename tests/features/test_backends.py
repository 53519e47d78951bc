"""Encoders: the same features whatever runs the backbone, each kept apart, and one line where one cannot run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from encoding import TEXTS

from cr_hf import CRForSequenceClassification as Model
from cr_hf.errors import RecipeError
from cr_hf.features import backends
from cr_hf.features.encode import encode_splits, encode_texts

# (encoder, largest difference from torch in 32 bits)
TOLERANCES = {"torch-bf16": 0.05, "openvino": 1e-5, "openvino-bf16": 0.05, "onnx": 1e-5, "onnx-int8": 0.3}


@pytest.fixture
def knows_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A processor with every instruction that is asked for."""
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags : avx512_bf16 avx512_vnni\n")
    monkeypatch.setattr(backends, "CPU_FLAGS", flags)


@pytest.mark.parametrize("encoder", TOLERANCES)
def test_every_encoder_gives_what_torch_gives(
    encoder: str, model: Model, tokenizer: Any, tmp_path: Path, knows_all: None
) -> None:
    if encoder.startswith("openvino"):
        pytest.importorskip("openvino")
    cache = tmp_path / "cache"
    expected = encode_texts(model, tokenizer, TEXTS, cache_dir=cache)
    found = encode_texts(model, tokenizer, TEXTS, cache_dir=cache, encoder=encoder)
    np.testing.assert_allclose(found, expected, atol=TOLERANCES[encoder])
    assert (found != expected).any()
    assert len(list(cache.iterdir())) == 2


def test_only_rows_of_train_are_encoded_in_fewer_bits(
    model: Model, tokenizer: Any, tmp_path: Path, knows_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    found = encode_splits(model, tokenizer, {"train": rows, "validation": rows}, "torch-bf16")
    expected = encode_texts(model, tokenizer, TEXTS, cache_dir=False)
    np.testing.assert_array_equal(found["validation"][0], expected)
    assert (found["train"][0] != expected).any()


@pytest.mark.parametrize(
    ("encoder", "device", "message"),
    [
        ("onx", "cpu", "did you mean 'onnx'"),
        ("onnx", "cuda", "encoder='onnx' is for the CPU"),
        ("torch-bf16", "cpu", "needs a processor with avx512_bf16 or amx_bf16"),
        ("openvino", "cpu", r"pip install 'cr-hf\[fast\]'"),
    ],
)
def test_an_encoder_that_cannot_run_is_one_line(
    encoder: str, device: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backends, "CPU_FLAGS", tmp_path / "none")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(RecipeError, match=message):
        backends.check_encoder(encoder, torch.device(device))


def test_a_backbone_that_is_no_graph_is_one_line(
    model: Model, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no graph")

    monkeypatch.setattr(backends, "trace", fails)
    with pytest.raises(RecipeError, match=r"encoder='onnx' cannot run this backbone \(bert\): use torch"):
        encode_texts(model, tokenizer, TEXTS, cache_dir=False, encoder="onnx")
