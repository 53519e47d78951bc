"""MNIST, pixels as features: CR + DREG against ReLU MLPs over a range of sizes.

Two claims are looked at. "15.5x fewer parameters at better accuracy": for each ReLU MLP the smallest CR + DREG head
whose mean validation accuracy is not lower, and then their paired difference on test. "Peak gradient volatility
-23.1 % on average": the abstracts name no measure; here it is the largest norm over the test rows of the gradient
of the margin by the standardised pixels, averaged over seeds, CR + DREG against the ReLU MLP of the same widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from cr_hf.evaluation import compare_all, input_gradient_norms
from cr_hf.evaluation.statistics import bootstrap_interval
from cr_hf.study.arms import HEADS

from .runner import Claim, Hits, Regime, Verdict, choose, hits_of, interval_text, read_regime, start, write_result

SIZES = [[8], [16], [32], [64], [128]]
# CR + DREG is trained at these as well, so that the smallest head that keeps up can be found.
FINE_SIZES = sorted([*SIZES, [4], [6], [12], [24], [48], [96]])
RESAMPLES = 2_000
DROPOUTS = ({"dropout": 0.0}, {"dropout": 0.1})
ARMS = {
    "relu": replace(HEADS["mlp-relu"], settings=DROPOUTS),
    "cr": replace(HEADS["cr"], settings=DROPOUTS),
    "cr+dreg": replace(HEADS["cr+dreg"], settings=({"dreg_lambda": 1e-4}, {"dreg_lambda": 1e-3})),
}
CLAIMED_RATIO = 15.5
RULE = (
    f"reproduced if some head with {CLAIMED_RATIO} times fewer parameters or more has a corrected interval of its "
    "test difference above 0; in direction only if that holds of some head with fewer parameters; else not "
    "reproduced. Peak gradient: in direction only if the interval of the mean change lies below 0, else definition "
    "unknown."
)
Records = dict[str, list[dict[str, Any]]]


def measure_arms(regime: Regime, seeds: int) -> tuple[Records, dict[str, list[Hits]]]:
    """Train every arm at every size; what is recorded of each, and the hits on test, (seeds, rows) each."""
    records: Records = {name: [] for name in ARMS}
    hits: dict[str, list[Hits]] = {name: [] for name in ARMS}
    subsets = [np.arange(len(regime.data.train[1]))] * seeds
    test_rows = torch.from_numpy(np.asarray(regime.data.test[0]))
    for sizes in FINE_SIZES:
        for name, arm in ARMS.items():
            if sizes not in SIZES and name != "cr+dreg":
                continue
            sized = replace(arm, overrides={**arm.overrides, "hidden_sizes": sizes})
            heads, record = choose(regime, sized, subsets)
            norms = [input_gradient_norms(head.head(), test_rows).double().numpy() for head in heads]
            hits[name].append(hits_of(heads, *regime.data.test))
            record["test_accuracies"] = hits[name][-1].mean(1).tolist()
            record["peak_gradients"] = [float(values.max()) for values in norms]
            record["mean_gradients"] = [float(values.mean()) for values in norms]
            record["std_gradients"] = [float(values.std()) for values in norms]
            records[name].append(record)
            print(name, sizes, record["setting"], record["dev_accuracies"], flush=True)
    return records, hits


def fewer_parameters(records: Records, hits: dict[str, list[Hits]]) -> list[dict[str, Any]]:
    """Each ReLU MLP against the smallest CR + DREG head that is no worse on validation, or else the largest."""
    ours, theirs = records["cr+dreg"], records["relu"]

    def smallest(reference: dict[str, Any]) -> int:
        least = np.mean(reference["dev_accuracies"])
        return next((i for i, one in enumerate(ours) if np.mean(one["dev_accuracies"]) >= least), len(ours) - 1)

    fitting = [smallest(record) for record in theirs]
    differences = [hits["cr+dreg"][own] - other for own, other in zip(fitting, hits["relu"], strict=True)]
    return [
        {
            "relu": other["hidden_sizes"],
            "cr+dreg": ours[own]["hidden_sizes"],
            "parameter_ratio": other["parameters"] / ours[own]["parameters"],
            **asdict(comparison),
        }
        for own, other, comparison in zip(fitting, theirs, compare_all(differences, RESAMPLES), strict=True)
    ]


def gradient_changes(records: Records, name: str) -> dict[str, Any]:
    """Relative change of a gradient measure, CR + DREG over ReLU of the same widths, by size and on average."""
    equal = [record for record in records["cr+dreg"] if record["hidden_sizes"] in SIZES]
    pairs = zip(equal, records["relu"], strict=True)
    changes = [float(np.mean(ours[name]) / np.mean(theirs[name]) - 1) for ours, theirs in pairs]
    return {
        "by_size": changes,
        "mean": float(np.mean(changes)),
        "interval_over_sizes": list(bootstrap_interval(changes)),
    }


def size_claim(pairs: list[dict[str, Any]], protocol: str) -> Claim:
    """The smallest head that keeps up with each ReLU MLP on validation, and how both do on test."""
    found = [
        f"ReLU {pair['relu'][0]} units: CR + DREG {pair['cr+dreg'][0]} units, {pair['parameter_ratio']:.2f}x fewer "
        f"parameters, {interval_text(pair['difference'], pair['corrected_interval'])} points"
        for pair in pairs
    ]
    best = max((pair["parameter_ratio"] for pair in pairs if pair["corrected_interval"][0] > 0), default=0)
    return Claim(
        claim="15.5x fewer parameters than standard models at better accuracy (2605.15463)",
        protocol=f"the abstract names neither the data nor the models; here MNIST and ReLU MLPs. {protocol}",
        ours="; ".join(found),
        verdict=Verdict.of(best >= CLAIMED_RATIO, best > 1),
    )


def gradient_claim(peak: dict[str, Any], protocol: str) -> Claim:
    """The largest gradient over the test rows, against the ReLU MLP of equal widths."""
    low, high = peak["interval_over_sizes"]
    return Claim(
        claim="MNIST: peak gradient volatility 23.1 % lower on average",
        protocol=f"{protocol}; ours: the largest norm over the test rows of the gradient of the margin by the "
        "standardised pixels, mean over seeds, CR + DREG over the ReLU MLP of equal widths",
        ours=f"peak gradient {peak['mean']:+.1%} on average [{low:+.1%}, {high:+.1%}] over {len(SIZES)} sizes",
        verdict=Verdict.IN_DIRECTION if high < 0 else Verdict.UNKNOWN,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/mnist.json."""
    options = start(argv, "mnist", __doc__, "mnist", seeds=3)
    regime = read_regime("mnist", options)
    records, hits = measure_arms(regime, options.seeds)
    pairs = fewer_parameters(records, hits)
    changes = {name: gradient_changes(records, name) for name in ("peak_gradients", "std_gradients", "mean_gradients")}
    protocol = (
        f"MNIST, 784 pixels standardised, {len(regime.data.train[1]):,} training rows, "
        f"{len(regime.data.validation[1]):,} rows split off train choose the setting (two tried an arm and size) and "
        f"the epoch; {len(regime.data.test[1]):,} test rows, once; {options.seeds} seeds, "
        f"{regime.data.recipe.training['num_train_epochs']} epochs, one hidden layer of {FINE_SIZES[0][0]} to "
        f"{FINE_SIZES[-1][0]}"
    )
    write_result(
        options,
        claims=[size_claim(pairs, protocol), gradient_claim(changes["peak_gradients"], protocol)],
        rule=RULE,
        protocol=protocol,
        resamples=RESAMPLES,
        comparisons=pairs,
        gradient_changes=changes,
        arms=records,
        **regime.about,
    )


if __name__ == "__main__":
    main()
