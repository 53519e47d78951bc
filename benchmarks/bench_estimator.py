"""`CRClassifier.fit` on features against the bare sweep of the same head: checks, the rows held out, the recipe."""

from __future__ import annotations

import numpy as np
from harness import in_turn, options, publish, ratio

from cr_hf import CRClassifier, CRConfig
from cr_hf.training import CRTrainingArguments, SweepHead, train_heads

ROWS, FEATURES, LABELS, HELD_OUT = 2000, 384, 5, 200
TRAINING = {"num_train_epochs": 10, "per_device_train_batch_size": 32, "learning_rate": 5e-4, "weight_decay": 0.1}
TRAINING |= {"lr_scheduler_type": "cosine", "eval_strategy": "epoch", "save_strategy": "epoch"}
TRAINING |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
TARGET = 1.3


def main() -> None:
    """Measure and publish."""
    options(__doc__)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((ROWS, FEATURES), dtype=np.float32)
    labels = generator.integers(0, LABELS, ROWS)
    config = CRConfig(in_features=FEATURES, num_labels=LABELS, dropout=0.3)
    head = SweepHead(config, CRTrainingArguments(**TRAINING))
    train, held_out = slice(HELD_OUT, None), slice(HELD_OUT)

    def sweep() -> None:
        validation = {"validation_features": features[held_out], "validation_labels": labels[held_out]}
        train_heads(features[train], labels[train], [head], **validation)

    def fit() -> None:
        CRClassifier(dreg_lambda=0.02, num_train_epochs=10).fit(features, labels)

    seconds = in_turn({"fit": fit, "sweep": sweep}, rounds=5, warm_up=1)
    name = f"CRClassifier.fit / the bare sweep, {ROWS:,} rows of {FEATURES} features"
    publish("estimator", [ratio(name, seconds["fit"], seconds["sweep"], TARGET)])


if __name__ == "__main__":
    main()
