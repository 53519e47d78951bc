"""What a prediction must not depend on: the other rows, the padding side, autocast; and precisions side by side."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from process_jobs import early_stopping_trainer
from transformers import AutoTokenizer

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification
from cr_hf.modeling.configuration_cr import POOLINGS

TinyBackbone = Callable[..., Path]
TEXTS = ["a witty film", "dull", "the food was cold , and the service worse than the film", "great " * 30, ""]
TOLERANCES = {torch.float64: 1e-5, torch.bfloat16: 0.05}
"""Largest difference of a probability from that of the float32 head, by the dtype of an explicit head."""


def feature_model(**fields: object) -> CRForFeatureClassification:
    torch.manual_seed(1)
    model = CRForFeatureClassification(CRConfig(in_features=12, num_labels=4, hidden_sizes=[16, 16], **fields)).eval()
    model.fit_feature_norm(torch.randn(200, 12) * 3 + 1)
    return model


@pytest.mark.parametrize("objective", ["cross_entropy", "ordinal"])
@pytest.mark.parametrize("activation", ["polynomial", "gelu"])
def test_a_row_is_answered_the_same_whatever_stands_beside_it(objective: str, activation: str) -> None:
    model = feature_model(objective=objective, ordinal_loss="cumulative_link", activation=activation)
    row, others = torch.randn(1, 12), torch.randn(300, 12)
    alone = model(row).logits
    for beside in (others[:1], others[:7], others, others * 1e6, torch.full((3, 12), torch.nan)):
        together = model(torch.cat([beside, row])).logits[-1:]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_padding_side_changes_nothing(pooling: str, tiny_backbone: TinyBackbone) -> None:
    logits = []
    for side in ("right", "left"):
        torch.manual_seed(0)
        model = CRForSequenceClassification.from_backbone(
            str(tiny_backbone("t5")), num_labels=3, hidden_sizes=[8], pooling=pooling
        )
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("t5"), padding_side=side)
        logits.append(model(**tokenizer(TEXTS, return_tensors="pt", padding=True)).logits)
        one_by_one = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
        torch.testing.assert_close(logits[-1], one_by_one, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)


def test_the_head_stays_float32_under_autocast() -> None:
    model, features = feature_model(), torch.randn(50, 12)
    expected = model(features, output_dreg=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(features, output_dreg=True)
    assert found.logits.dtype == found.dreg.dtype == torch.float32
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.dreg, expected.dreg)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_explicit_precisions_agree(dtype: torch.dtype) -> None:
    features = torch.randn(500, 12) * 3 + 1
    expected = feature_model()(features).logits.softmax(-1)
    other = feature_model().to(dtype)
    logits = other(features).logits
    assert logits.dtype == dtype
    assert (logits.softmax(-1).float() - expected).abs().max() < TOLERANCES[dtype]


@pytest.mark.slow
def test_two_processes_with_one_seed_end_with_the_same_bits(tmp_path: Path) -> None:
    script = """
import hashlib, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from process_jobs import early_stopping_trainer
trainer = early_stopping_trainer(sys.argv[2], num_train_epochs=3)
trainer.train()
values = b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
print(hashlib.sha256(values).hexdigest())
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1] / "support"), str(tmp_path / "one")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    trainer = early_stopping_trainer(tmp_path / "two", num_train_epochs=3)
    trainer.train()
    values = b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
    assert done.stdout.splitlines()[-1] == hashlib.sha256(values).hexdigest()


def test_eight_threads_predict_what_one_predicts(tiny_backbone: TinyBackbone) -> None:
    model = CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8])
    texts = [f"a {word} film number {number}" for number in range(40) for word in ("great", "dull")]
    expected = model.predict_texts(texts, AutoTokenizer.from_pretrained(tiny_backbone("bert")))

    def work(_: int) -> torch.Tensor:
        # A fast tokenizer keeps its padding and truncation in itself: one for each thread.
        return model.predict_texts(texts, AutoTokenizer.from_pretrained(tiny_backbone("bert")))

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(16)):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_training_twice_in_one_process_gives_the_same_bits(tmp_path: Path) -> None:
    states = []
    for run in ("one", "two"):
        trainer = early_stopping_trainer(tmp_path / run, num_train_epochs=2)
        trainer.train()
        states.append(json.dumps({name: value.tolist() for name, value in trainer.model.state_dict().items()}))
    assert states[0] == states[1]
