"""What `dreg_lambda: auto` picks on frozen SST-5 at 5, 25 and 100 % of the labels, against the fixed default.

Each of five seeds has its own stratified subset of the training rows; lambda is chosen for it on dev by three heads a
grid point, as a run would choose it. One head with the pick and one with the default, both with the run's seed, are
then compared on test, which nothing was chosen on.

Usage: python -m experiments.auto_lambda [DATA_DIR]     (default: ../shared/data/sst5)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging

from cr_hf import CRConfig
from cr_hf.evaluation.statistics import compare
from cr_hf.files import write_json
from cr_hf.runs.choose_lambda import choose_lambda
from cr_hf.study.cells import Plan, StudyData
from cr_hf.training.sweep import HeadSpec, train_heads

from .frozen_sst5 import DATA, RESULTS, load, subsets_of
from .trained_heads import hits_of

FRACTIONS, SEEDS, FIXED = (0.05, 0.25, 1.0), 5, 0.02


def main() -> None:
    """Write experiments/results/auto_lambda.json after every fraction."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    data, plan, about = load(sys.argv[1] if len(sys.argv) > 1 else DATA, SEEDS)
    result: dict[str, Any] = {**about, "seeds": SEEDS, "fixed": FIXED, "fractions": {}}
    for fraction in FRACTIONS:
        result["fractions"][str(fraction)] = measure(fraction, data, plan)
        write_json(RESULTS / "auto_lambda.json", result)


def measure(fraction: float, data: StudyData, plan: Plan) -> dict[str, Any]:
    """The picks and the paired difference of one fraction."""
    features, labels = data.train
    config = CRConfig(**plan.config)
    size = round(fraction * len(labels))
    arguments = plan.schedule(size, fraction)
    dev = dict(zip(("validation_features", "validation_labels"), data.validation, strict=True))
    base = HeadSpec(
        learning_rate=plan.training["learning_rate"],
        weight_decay=plan.training["weight_decay"],
        dropout=config.dropout,
    )
    choices, specs = [], []
    for seed, subset in enumerate(subsets_of(labels, size, SEEDS)):
        choices.append(choose_lambda(features[subset], labels[subset], base, config, arguments, **dev))
        own = replace(base, seed=seed, train_indices=subset)
        specs += [replace(own, dreg_lambda=choices[-1].chosen), replace(own, dreg_lambda=FIXED)]
        print(f"{fraction:.0%}, seed {seed}: lambda {choices[-1].chosen:.3g}, best {choices[-1].best:.3g}", flush=True)
    hits = hits_of(train_heads(features, labels, specs, config, arguments, **dev), *data.test)
    found = compare(hits[0::2], hits[1::2])
    print(f"{fraction:.0%}: auto - fixed on test {found}", flush=True)
    return {
        "rows": size,
        "epochs": arguments.num_train_epochs,
        "batch_size": arguments.batch_size,
        "choices": [choice.to_dict() for choice in choices],
        "test_accuracies_auto": hits[0::2].mean(1).tolist(),
        "test_accuracies_fixed": hits[1::2].mean(1).tolist(),
        "auto_minus_fixed": found,
    }


if __name__ == "__main__":
    main()
