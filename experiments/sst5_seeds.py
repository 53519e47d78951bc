"""Train recipes/sst5_frozen.yaml as shipped with ten seeds, through the same code as `cr-hf train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from cr_hf.runs import Run, train_recipe

from .runner import part, recipe_of, start, write_result

KEPT = ("model", "data")


def train_seed(options: argparse.Namespace, seed: int, *overrides: str) -> dict[str, Any]:
    """The recipe trained with a seed: its accuracies and seconds, and what is said of model and data."""
    with TemporaryDirectory() as folder:
        own = ("backbone=offline", f"seed={seed}", f"output_dir={folder}/run", *overrides)
        results = Run(train_recipe(recipe_of("sst5_frozen", options, *own))).results
    found = {
        "seed": seed,
        "dev_accuracy": results["metrics"]["validation"]["accuracy"],
        "test_accuracy": results["metrics"]["test"]["accuracy"],
        "seconds_training": results["training"]["seconds_training"],
    }
    print(*overrides, found, flush=True)
    return {"run": found, **{name: results[name] for name in KEPT}}


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/sst5_seeds.json."""
    options = start(argv, "sst5_seeds", __doc__, "sst5", seeds=10)
    parts = [part(options, str(seed), partial(train_seed, options, seed)) for seed in range(options.seeds)]
    runs = [one["run"] for one in parts]
    write_result(
        options,
        recipe="recipes/sst5_frozen.yaml",
        **{name: parts[0][name] for name in KEPT},
        median_seconds_training=median(run["seconds_training"] for run in runs),
        runs=runs,
    )


if __name__ == "__main__":
    main()
