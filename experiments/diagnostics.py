"""Diagnostics of a run of recipes/sst5_frozen.yaml, and of its test texts with typos, as `cr-hf diagnose` gives them.

Usage: python -m experiments.diagnostics [RUN]     (default: runs/sst5_frozen, made by `cr-hf train`)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cr_hf.data import load_rows
from cr_hf.evaluation.text_damage import perturb_text
from cr_hf.files import write_json
from cr_hf.runs.diagnose import diagnose_texts
from cr_hf.runs.train import load_run

ROOT = Path(__file__).resolve().parents[1]
KIND, SEVERITY, TEXTS = "typos", 3, 500


def main() -> None:
    """Write experiments/results/sst5_diagnostics.json."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/sst5_frozen")
    model, tokenizer, recipe = load_run(run)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    texts = load_rows(recipe.data, "single_label_classification", splits=["test"])["test"]["text"][:TEXTS]
    damaged = [perturb_text(text, KIND, SEVERITY) for text in texts]
    found = {
        "recipe": "recipes/sst5_frozen.yaml",
        "damage": {"kind": KIND, "severity": SEVERITY, "seed": 0},
        "model": results["model"],
        "data": results["data"],
        "environment": results["environment"],
        **results["diagnostics"],
        "new_texts": diagnose_texts(model, tokenizer, damaged, results["diagnostics"]),
    }
    write_json(ROOT / "experiments" / "results" / "sst5_diagnostics.json", found)


if __name__ == "__main__":
    main()
