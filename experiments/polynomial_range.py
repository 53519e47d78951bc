"""Where the polynomials' tails should begin by default: accuracy on dev and certified slope over four data sets.

The test rows are not looked at. The range is chosen by `RULE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cr_hf.evaluation import margin_slope_bound
from cr_hf.study.arms import HEADS

from .runner import Regime, choose, read_regime, start, subsets_of, write_result

RANGES = (1.0, 1.5, 2.0, 3.0, 6.0)
MODES = ("layer", "worst")
TOLERANCE = 0.002
RULE = (
    "the range with the lowest certified slope, by its geometric mean over the data sets, among those whose mean dev "
    f"accuracy over the data sets is at most {100 * TOLERANCE:g} points below the highest, under dreg_mode: layer"
)
# Recipe, folder, share of the training rows, lambdas, and what else is overridden.
SETS: dict[str, tuple[str, float, tuple[float, ...], tuple[str, ...]]] = {
    "sst5_frozen": ("sst5", 1.0, (0.005, 0.01, 0.02, 0.04, 0.08), ("backbone=offline",)),
    "yelp_minilm": (
        "yelp5",
        1.0,
        (0.005, 0.01, 0.02, 0.04, 0.08),
        ("backbone=offline", "objective=cross_entropy", "threshold_learning_rate=null"),
    ),
    "pima": ("pima", 1.0, (0.003, 0.01, 0.03, 0.1), ()),
    "mnist": ("mnist", 0.2, (1e-5, 1e-4, 1e-3), ()),
}


def measure(regime: Regime, lambdas: Sequence[float], share: float, seeds: int) -> list[dict[str, Any]]:
    """Every range and mode, its lambda chosen on dev."""
    subsets = subsets_of(regime.data.train[1], share, seeds)
    found = []
    for mode in MODES:
        for reach in RANGES:
            arm = replace(
                HEADS["cr+dreg"],
                overrides={"activation": "polynomial", "polynomial_range": reach, "dreg_mode": mode},
                settings=tuple({"dreg_lambda": value} for value in lambdas),
            )
            heads, record = choose(regime, arm, subsets)
            slopes = [margin_slope_bound(head.head()) for head in heads]
            found.append({"polynomial_range": reach, "dreg_mode": mode, **record, "margin_slopes": slopes})
            print(reach, mode, record["setting"], np.mean(record["dev_accuracies"]), np.mean(slopes), flush=True)
    return found


def choose_range(sets: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean accuracy and slope of each range over the data sets, the chosen one marked."""
    rows = []
    for reach in RANGES:
        own = [
            one
            for found in sets.values()
            for one in found
            if one["polynomial_range"] == reach and one["dreg_mode"] == "layer"
        ]
        accuracy = float(np.mean([np.mean(one["dev_accuracies"]) for one in own]))
        slope = float(np.exp(np.mean([np.log(np.mean(one["margin_slopes"])) for one in own])))
        rows.append({"polynomial_range": reach, "dev_accuracy": accuracy, "margin_slope": slope})
    highest = max(row["dev_accuracy"] for row in rows)
    kept = [row for row in rows if row["dev_accuracy"] >= highest - TOLERANCE]
    chosen = min(kept, key=lambda row: row["margin_slope"])
    return [{**row, "chosen": row is chosen} for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/polynomial_range.json."""
    options = start(argv, "polynomial_range", __doc__, ".", seeds=3)
    root, sets = options.data, {}
    for name, (folder, share, lambdas, overrides) in SETS.items():
        options.data = f"{root}/{folder}"
        sets[name] = measure(read_regime(name, options, *overrides), lambdas, share, options.seeds)
    write_result(options, rule=RULE, ranges=choose_range(sets), sets=sets)


if __name__ == "__main__":
    main()
