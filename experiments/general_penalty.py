"""DREG as a general penalty: an ordinary GELU head with DREG against the same head with other penalties, on SST-5.

Usage: python -m experiments.general_penalty [DATA_DIR]     (default: ../shared/data/sst5)

Frozen all-MiniLM-L6-v2 features of all training rows. Every head tries four settings, chosen on dev. Test accuracy as
the features are, and with Gaussian noise on the standardised test features. The comparisons are declared here.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from cr_hf.evaluation.sensitivity import curvature, gradient_tail_ratio, input_gradient_norms
from cr_hf.evaluation.statistics import LEVEL, compare_all
from cr_hf.files import write_json
from cr_hf.study.arms import HEADS
from cr_hf.study.tables import difference_text

from .frozen_sst5 import DATA, RESULTS, choose_setting, load, subsets_of
from .trained_heads import hits_of

SEEDS = 6
DEVIATIONS = (0.5, 1.0, 2.0)
OURS = "gelu+dreg"
OTHERS = ("mlp-gelu", "gelu+weight-decay", "gelu+gradient-penalty", "gelu+jacobian", "gelu+spectral-norm")
# Not compared, shown beside: the polynomial head with the same penalty.
BESIDE = ("cr+dreg",)


def measure(data_dir: str) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """What is recorded of every head, its hits on clean test rows and its mean hits over the noises."""
    data, plan, about = load(data_dir, SEEDS)
    features, labels = np.asarray(data.test[0]), data.test[1]
    deviation = np.asarray(data.train[0]).std(0)
    noise = np.random.default_rng(0).standard_normal(features.shape, dtype=np.float32)
    subsets = subsets_of(data.train[1], len(data.train[1]), SEEDS)
    clean, noisy = {}, {}
    about["heads"] = {}
    for name in (OURS, *OTHERS, *BESIDE):
        heads, record = choose_setting(HEADS[name], data, plan, subsets, plan.schedule(len(subsets[0]), 1.0))
        clean[name] = hits_of(heads, features, labels)
        under = [hits_of(heads, features + scale * deviation * noise, labels) for scale in DEVIATIONS]
        noisy[name] = np.mean(under, axis=0)
        record["test_accuracies"] = clean[name].mean(1).tolist()
        rows = torch.from_numpy(features)
        record["curvatures"] = [curvature(one.head(), rows) for one in heads]
        record["gradient_tail_ratios"] = [
            gradient_tail_ratio(input_gradient_norms(one.head(), rows).numpy()) for one in heads
        ]
        record["noise_accuracies"] = {
            str(scale): one.mean(1).tolist() for scale, one in zip(DEVIATIONS, under, strict=True)
        }
        about["heads"][name] = record
        print(name, record["setting"], record["tried"], clean[name].mean(), noisy[name].mean(), flush=True)
    return about, clean, noisy


def verdict(found: list[dict[str, Any]], names: list[str]) -> str:
    """Reproduced: ahead of every named head, certainly; in direction only: ahead of each on average."""
    own = [part for part in found if part["reference"] in names]
    if all(part["difference"] > 0 and part["claimed"] for part in own):
        return "reproduced"
    return "in direction only" if all(part["difference"] > 0 for part in own) else "not reproduced"


def differences(found: list[dict[str, Any]]) -> str:
    """Comparisons in words."""
    return f"{OURS} minus " + "; ".join(f"{part['reference']} {difference_text(part)}" for part in found)


def low_frequency(heads: dict[str, dict[str, Any]]) -> dict[str, str]:
    """In direction only if every seed's polynomial head curves less than the GELU head of the same seed."""
    ours, theirs = (np.array(heads[name]["curvatures"]) for name in ("cr+dreg", "mlp-gelu"))
    return {
        "claim": "ChainzRule networks are functions of low frequency: they curve less than an ordinary network",
        "protocol": "the same heads: bend of the logits along straight lines between test examples, relative to their "
        "change along the line; the papers' measure is not public",
        "ours": f"cr+dreg {ours.mean():.3f}, mlp-gelu {theirs.mean():.3f}; lower in {int((ours < theirs).sum())} of "
        f"{len(ours)} seeds",
        "verdict": "in direction only" if (ours < theirs).all() else "definition not public",
    }


def main() -> None:
    """Write experiments/results/general_penalty.json."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    about, clean, noisy = measure(sys.argv[1] if len(sys.argv) > 1 else DATA)
    pairs = [
        (kind, name, hits[OURS] - hits[name]) for kind, hits in (("clean", clean), ("noise", noisy)) for name in OTHERS
    ]
    compared = compare_all([difference for _, _, difference in pairs])
    found = [{"rows": kind, "reference": name, **part} for (kind, name, _), part in zip(pairs, compared, strict=True)]
    parts = {kind: [part for part in found if part["rows"] == kind] for kind in ("clean", "noise")}
    protocol = (
        f"frozen MiniLM features, two layers of 128, {SEEDS} seeds, four settings a head chosen on dev; difference of "
        f"test accuracy, crossed bootstrap, certain where p after Holm over {len(found)} is below {LEVEL}"
    )
    rows = [
        {
            "claim": "DREG as a general penalty: best accuracy under GELU (2606.23942)",
            "protocol": protocol,
            "ours": "gelu+dreg minus "
            + "; ".join(f"{part['reference']} {difference_text(part)}" for part in parts["clean"]),
            "verdict": verdict(parts["clean"], list(OTHERS)),
        },
        {
            "claim": "DREG as a general penalty: second to spectral normalisation alone under noise (2606.23942)",
            "protocol": f"the same heads, mean over noise of {DEVIATIONS} deviations on the test features",
            "ours": "gelu+dreg minus "
            + "; ".join(f"{part['reference']} {difference_text(part)}" for part in parts["noise"]),
            "verdict": verdict(parts["noise"], [name for name in OTHERS if name != "gelu+spectral-norm"]),
        },
        low_frequency(about["heads"]),
    ]
    write_json(
        RESULTS / "general_penalty.json",
        {
            "regime": "general_penalty",
            "rule": " ".join(f"{verdict.__doc__} {low_frequency.__doc__}".split()),
            "claims": rows,
            "seeds": SEEDS,
            "cpu_seconds": round(time.process_time()),
            "comparisons": found,
            **about,
        },
    )


if __name__ == "__main__":
    main()
