"""Robustness on frozen SST-5: damaged texts, noise on the features, attacks on the features, and slopes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cr_hf.data import load_rows
from cr_hf.evaluation.lipschitz import largest_slope_found, lipschitz_bound
from cr_hf.evaluation.perturbations import SEVERITIES, TEXT_RATES, perturb_text
from cr_hf.evaluation.text_damage import robustness_curves
from cr_hf.features import encode_texts
from cr_hf.runs import Recipe, build_model
from cr_hf.study.arms import HEADS
from cr_hf.study.results import Cell
from cr_hf.training import HeadResult

from .attacks import attack_curve, noise_curve
from .runner import RESULTS, hits_of, read_regime, start, subsets_of, train, write_result

TEXTS = 500
ARMS = ("linear", "mlp-gelu", "cr", "cr+dreg", "gelu+dreg")
SOURCE = "mlp-gelu"
RADII = {"l2": (0.5, 1.0, 2.0, 4.0, 8.0, 100.0), "linf": (0.01, 0.02, 0.05, 0.1, 0.2, 10.0)}
PROTOCOL = (
    "Every head has the setting that the study of experiments/results/sst5_study.json chose on dev with all labels, "
    f"and is trained on all training rows. {TEXTS} test texts, drawn at random; features in deviations of a feature "
    "over the training rows. Transferred attacks are those that are worst for the GELU MLP of the same seed."
)


def damaged_features(recipe: Recipe, rows: NDArray[np.int64]) -> dict[str, list[NDArray[np.float32]]]:
    """Features of some test texts under every kind of damage, severity by severity."""
    dataset = load_rows(recipe.data)
    model, tokenizer = build_model(recipe, dataset)
    texts = dataset["test"].select(rows)["text"]

    def encode(kind: str, severity: int) -> NDArray[np.float32]:
        return np.array(encode_texts(model, tokenizer, [perturb_text(text, kind, severity) for text in texts]))

    return {kind: [encode(kind, severity) for severity in SEVERITIES] for kind in TEXT_RATES}


def mean_curve(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves of several seeds, averaged point by point."""
    names = [name for name in curves[0] if name.endswith("accuracies")]
    return {**curves[0], **{name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in names}}


def measure_arm(
    heads: list[HeadResult],
    sources: list[HeadResult],
    clean: tuple[NDArray[np.float32], NDArray[np.int64]],
    damaged: dict[str, list[NDArray[np.float32]]],
) -> dict[str, Any]:
    """Everything about one arm, means over its seeds."""
    features, labels = map(torch.from_numpy, clean)
    modules = [head.head() for head in heads]
    pairs = list(zip(modules, (source.head() for source in sources), strict=True))
    hits = {
        kind: [hits_of(heads, one, clean[1]).mean(0) for one in severities] for kind, severities in damaged.items()
    }
    return {
        "texts": robustness_curves(hits_of(heads, *clean).mean(0), hits),
        "noise": mean_curve([noise_curve(module, features, labels) for module in modules]),
        "attacks": {
            norm: mean_curve([attack_curve(own, features, labels, norm, radii, source=other) for own, other in pairs])
            for norm, radii in RADII.items()
        },
        "lipschitz_bounds": [lipschitz_bound(module) for module in modules],
        "largest_slopes_found": [largest_slope_found(module, features) for module in modules],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/sst5_robustness.json."""
    options = start(argv, "sst5_robustness", f"{__doc__}\n\n{PROTOCOL}", "sst5", seeds=3)
    regime = read_regime("sst5_frozen", options, "backbone=offline")
    study = json.loads((RESULTS / "sst5_study.json").read_text(encoding="utf-8"))["fractions"]["1.0"]["heads"]
    subsets, seeds = subsets_of(regime.data.train[1], 1.0, options.seeds), range(options.seeds)
    settings = {name: Cell.from_json(study[name]).setting for name in ARMS}
    heads = {name: train(regime, HEADS[name], [settings[name]], seeds, subsets)[0] for name in ARMS}
    features, labels = regime.data.test
    # At random: the file has most of its positive texts first.
    rows = np.random.default_rng(0).permutation(len(labels))[:TEXTS]
    damaged = damaged_features(regime.data.recipe, rows)
    clean = (np.array(features[rows]), labels[rows])
    found = {}
    for name in ARMS:
        found[name] = {"setting": settings[name], **measure_arm(heads[name], heads[SOURCE], clean, damaged)}
        print(name, found[name]["texts"]["mean_accuracy"], found[name]["attacks"]["l2"], flush=True)
    write_result(options, protocol=PROTOCOL, heads=found, **regime.about)


if __name__ == "__main__":
    main()
