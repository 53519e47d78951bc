"""Twenty heads trained at once, against the same heads one after another in the same loop.

Every call fits the standardisation once; the epochs are many enough for twenty fits to weigh little.
A lone head hardly gains from a second thread and the batch does: the ratio holds for the threads it was measured on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import in_turn, options, publish, ratio

from cr_hf import CRConfig
from cr_hf.training import CRTrainingArguments, SweepHead, train_heads

HEADS, ROWS, LABELS = 20, 2048, 5


def compare(in_features: int, target: float) -> dict[str, Any]:
    """One row: both ways in turn."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((ROWS, in_features), dtype=np.float32)
    labels = generator.integers(0, LABELS, ROWS)
    config = CRConfig(in_features=in_features, num_labels=LABELS, dropout=0.3)
    shared = {"num_train_epochs": 10, "per_device_train_batch_size": 128, "learning_rate": 3e-4}
    heads = [SweepHead(config, CRTrainingArguments(seed=seed, **shared)) for seed in range(HEADS)]

    def train(chosen: list[SweepHead]) -> None:
        held_out = {"validation_features": features[:256], "validation_labels": labels[:256]}
        train_heads(features, labels, chosen, **held_out)

    def one_by_one() -> None:
        for head in heads:
            train([head])

    seconds = in_turn({"together": lambda: train(heads), "one by one": one_by_one}, rounds=3, warm_up=1)
    name = f"{HEADS} heads at once / one after another, {in_features}-128-128-{LABELS}"
    return ratio(name, seconds["together"], seconds["one by one"], target)


def main() -> None:
    """Measure and publish."""
    options(__doc__)
    publish("sweep", [compare(384, 0.4), compare(2688, 0.6)])


if __name__ == "__main__":
    main()
