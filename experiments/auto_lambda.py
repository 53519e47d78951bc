"""What `dreg_lambda: auto` picks on frozen SST-5 at 5, 25 and 100 % of the labels, against the fixed default.

Each seed has its own stratified subset of the training rows; lambda is chosen for it on dev by three heads a grid
point, as a run would choose it. One head with the pick and one with the default, both with the run's seed, are then
compared on test, which nothing was chosen on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from cr_hf.study.arms import HEADS
from cr_hf.training import HeadResult

from .runner import Regime, compare, hits_of, part, pick_lambda, read_regime, start, subsets_of, train, write_result

FRACTIONS = (0.05, 0.25, 1.0)
FIXED = 0.02


def measure(regime: Regime, fraction: float, seeds: int) -> dict[str, Any]:
    """The picks and the paired difference of one fraction."""
    subsets = subsets_of(regime.data.train[1], fraction, seeds)
    choices = [pick_lambda(regime, subset, fraction) for subset in subsets]
    heads: list[HeadResult] = []
    for seed, choice in enumerate(choices):
        print(f"{fraction:.0%}, seed {seed}: lambda {choice.chosen:.3g}, best {choice.best:.3g}", flush=True)
        settings = [{"dreg_lambda": value} for value in (choice.chosen, FIXED)]
        heads += chain(*train(regime, HEADS["cr+dreg"], settings, [seed], subsets, fraction))
    hits = hits_of(heads, *regime.data.test)
    picked, fixed = hits[0::2], hits[1::2]
    found = compare(picked, fixed)
    print(f"{fraction:.0%}: auto - fixed on test {found}", flush=True)
    return {
        "rows": len(subsets[0]),
        "choices": [asdict(choice) for choice in choices],
        "test_accuracies_auto": picked.mean(1).tolist(),
        "test_accuracies_fixed": fixed.mean(1).tolist(),
        "auto_minus_fixed": found,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/auto_lambda.json."""
    options = start(argv, "auto_lambda", __doc__, "sst5", seeds=5)
    regime = read_regime("sst5_frozen", options, "backbone=offline")
    found = {
        str(fraction): part(
            options,
            f"{fraction:g}-{options.seeds}",
            lambda fraction=fraction: measure(regime, fraction, options.seeds),
        )
        for fraction in FRACTIONS
    }
    write_result(options, fixed=FIXED, fractions=found, **regime.about)


if __name__ == "__main__":
    main()
