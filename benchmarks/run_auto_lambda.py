"""What `dreg_lambda: auto` picks on frozen SST-5 at 5, 25 and 100 % of the labels, against the fixed default.

Each of ten seeds has its own stratified subset of the training rows; lambda is chosen for it on dev by three heads a
grid point, as a run would choose it. One head with the pick and one with the default, both with the run's seed, are
then compared on test, which nothing was chosen on.

Usage: python benchmarks/run_auto_lambda.py [DATA_DIR]     (default: ../shared/data/sst5)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from cr_hf import CRConfig
from cr_hf.build import build_model
from cr_hf.choose_lambda import choose_lambda
from cr_hf.data import load_data, stratified_order
from cr_hf.features import encode_splits
from cr_hf.recipe import load_recipe
from cr_hf.results import describe_data, describe_machine, write_json
from cr_hf.study import compare, schedule_of
from cr_hf.sweep import HeadSpec, predict_heads, train_heads

ROOT = Path(__file__).resolve().parents[1]
FRACTIONS, SEEDS, FIXED = (0.05, 0.25, 1.0), 10, 0.02


def main() -> None:
    """Write benchmarks/results/auto_lambda.json after every fraction."""
    logging.set_verbosity_error()
    data_dir = sys.argv[1] if len(sys.argv) > 1 else "../shared/data/sst5"
    recipe = load_recipe(ROOT / "recipes" / "sst5_frozen.yaml", [f"data.dir={data_dir}", "backbone=offline"])
    dataset = load_data(recipe.data)
    model, tokenizer = build_model(recipe, dataset)
    splits = encode_splits(model, tokenizer, dataset)
    config = CRConfig(**{**model.config.to_dict(), "backbone_config": None})
    result: dict[str, Any] = {
        "recipe": "recipes/sst5_frozen.yaml",
        "data": describe_data(recipe.data, dataset),
        "hidden_sizes": config.hidden_sizes,
        "seeds": SEEDS,
        "fixed": FIXED,
        "environment": describe_machine(),
        "fractions": {},
    }
    for fraction in FRACTIONS:
        result["fractions"][str(fraction)] = measure(fraction, splits, config, recipe)
        write_json(ROOT / "benchmarks" / "results" / "auto_lambda.json", result)


def measure(fraction: float, splits: dict[str, Any], config: CRConfig, recipe: Any) -> dict[str, Any]:
    """The picks and the paired difference of one fraction."""
    (features, labels), (test, test_labels) = splits["train"], splits["test"]
    size = round(fraction * len(labels))
    arguments = schedule_of(recipe, size, fraction)
    dev = dict(zip(("validation_features", "validation_labels"), splits["validation"], strict=True))
    base = HeadSpec(
        learning_rate=recipe.training["learning_rate"],
        weight_decay=recipe.training["weight_decay"],
        dropout=config.dropout,
    )
    choices, specs = [], []
    for seed in range(SEEDS):
        subset = np.sort(stratified_order(labels, seed)[:size])
        choices.append(choose_lambda(features[subset], labels[subset], base, config, arguments, **dev))
        own = replace(base, seed=seed, train_indices=subset)
        specs += [replace(own, dreg_lambda=choices[-1].chosen), replace(own, dreg_lambda=FIXED)]
        print(f"{fraction:.0%}, seed {seed}: lambda {choices[-1].chosen:.3g}, best {choices[-1].best:.3g}", flush=True)
    results = train_heads(features, labels, specs, config, arguments, **dev)
    hits = (predict_heads(results, test).argmax(-1).numpy() == test_labels).astype(float)
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
