"""Train recipes/sst5_frozen.yaml as shipped with ten seeds, through the same code as `cr-hf train`.

Usage: python -m experiments.sst5_seeds [DATA_DIR] [BACKBONE]     (default: ../shared/data/sst5 offline)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from cr_hf.files import write_json
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 10


def main() -> None:
    """Write experiments/results/sst5_seeds.json."""
    data_dir, backbone = [*sys.argv[1:], *["../shared/data/sst5", "offline"][len(sys.argv) - 1 :]][:2]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SEEDS):
            overrides = [f"data.dir={data_dir}", f"backbone={backbone}", f"seed={seed}", f"output_dir={folder}/{seed}"]
            run_dir = train_recipe(load_recipe(ROOT / "recipes" / "sst5_frozen.yaml", overrides))
            results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
            runs.append(
                {
                    "seed": seed,
                    "dev_accuracy": results["metrics"]["validation"]["accuracy"],
                    "test_accuracy": results["metrics"]["test"]["accuracy"],
                    "seconds_training": results["training"]["seconds_training"],
                }
            )
            print(runs[-1], flush=True)
    write_json(
        ROOT / "experiments" / "results" / "sst5_seeds.json",
        {
            "recipe": "recipes/sst5_frozen.yaml",
            "backbone": backbone,
            "model": results["model"],
            "data": results["data"],
            "environment": results["environment"],
            "median_seconds_training": median(run["seconds_training"] for run in runs),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
