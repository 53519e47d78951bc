"""Diagnostics of a run of recipes/sst5_frozen.yaml, and of its test texts with typos, by `cr-hf diagnose`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cr_hf.data import load_rows
from cr_hf.evaluation.perturbations import perturb_text
from cr_hf.runs import Run, diagnose_run

from .runner import start, write_result

KIND, SEVERITY = "typos", 3
TEXTS = 500


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/sst5_diagnostics.json."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.prog = "python -m experiments.diagnostics"
        parser.add_argument("--run", type=Path, default=Path("runs/sst5_frozen"), help="by default %(default)s")

    asked = start(argv, "sst5_diagnostics", __doc__, more=more)
    run = Run(asked.run)
    results = run.results
    rows = load_rows(run.recipe.data, splits=["test"])["test"]
    texts = rows.shuffle(seed=0)["text"][:TEXTS]
    damaged = [perturb_text(text, KIND, SEVERITY) for text in texts]
    write_result(
        asked,
        recipe="recipes/sst5_frozen.yaml",
        damage={"kind": KIND, "severity": SEVERITY, "seed": 0},
        model=results["model"],
        data=results["data"],
        **results["diagnostics"],
        new_texts=diagnose_run(run, damaged),
    )


if __name__ == "__main__":
    main()
