"""Robustness on frozen SST-5: damaged texts, noise on the features, attacks on the features, and slopes.

Usage: python -m experiments.sst5_robustness [DATA_DIR]     (default: ../shared/data/sst5)

Every head has the setting that the study of experiments/results/sst5_study.json chose on dev with all labels, and is
trained on all training rows. The first 500 test texts; features in deviations of a feature over the training rows.
Transferred attacks are those that are worst for the GELU MLP of the same seed.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from cr_hf.data import load_rows
from cr_hf.evaluation.lipschitz import largest_slope_found, lipschitz_bound
from cr_hf.evaluation.text_damage import (
    SEVERITIES,
    TEXT_RATES,
    perturb_text,
    robustness_curves,
)
from cr_hf.features.encode import encode_texts
from cr_hf.files import write_json
from cr_hf.runs.build import build_model
from cr_hf.runs.recipe import load_recipe
from cr_hf.study.arms import HEADS
from cr_hf.study.cells import train_settings
from cr_hf.training.sweep import HeadResult

from .attacks import attack_curve, noise_curve
from .frozen_sst5 import DATA, RESULTS, ROOT, load, subsets_of
from .trained_heads import hits_of

SEEDS, TEXTS = 3, 500
ARMS = ("linear", "mlp-gelu", "cr", "cr+dreg", "gelu+dreg")
SOURCE = "mlp-gelu"
RADII = {"l2": (0.5, 1.0, 2.0, 4.0, 8.0, 100.0), "linf": (0.01, 0.02, 0.05, 0.1, 0.2, 10.0)}


def damaged_features(data_dir: str) -> tuple[dict[str, list[NDArray[np.float32]]], NDArray[np.int64]]:
    """Features of the texts under every kind of damage, severity by severity, and the classes."""
    recipe = load_recipe(ROOT / "recipes" / "sst5_frozen.yaml", [f"data.dir={data_dir}", "backbone=offline"])
    dataset = load_rows(recipe.data)
    model, tokenizer = build_model(recipe, dataset)
    rows = dataset["test"].select(range(min(TEXTS, len(dataset["test"]))))
    found = {
        kind: [
            np.array(encode_texts(model, tokenizer, [perturb_text(text, kind, severity) for text in rows["text"]]))
            for severity in SEVERITIES
        ]
        for kind in TEXT_RATES
    }
    return found, np.asarray(rows["label"][:])


def mean_curve(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves of several seeds, averaged point by point."""
    names = [name for name, value in curves[0].items() if name.endswith("accuracies")]
    return {**curves[0], **{name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in names}}


def measure_arm(
    heads: list[HeadResult],
    sources: list[HeadResult],
    clean: tuple[NDArray[np.float32], NDArray[np.int64]],
    damaged: dict[str, list[NDArray[np.float32]]],
) -> dict[str, Any]:
    """Everything about one arm, means over its seeds."""
    features, labels = torch.from_numpy(clean[0]), torch.from_numpy(clean[1])
    modules = [head.head() for head in heads]
    hits = {
        kind: [hits_of(heads, one, clean[1]).mean(0) for one in severities] for kind, severities in damaged.items()
    }
    return {
        "setting": {"dropout": heads[0].spec.dropout, "dreg_lambda": heads[0].spec.dreg_lambda},
        "texts": robustness_curves(hits_of(heads, *clean).mean(0), hits),
        "noise": mean_curve([noise_curve(module, features, labels) for module in modules]),
        "attacks": {
            norm: mean_curve(
                [
                    attack_curve(module, features, labels, norm, radii, source=source.head())
                    for module, source in zip(modules, sources, strict=True)
                ]
            )
            for norm, radii in RADII.items()
        },
        "lipschitz_bounds": [lipschitz_bound(module) for module in modules],
        "largest_slopes_found": [largest_slope_found(module, features) for module in modules],
    }


def main() -> None:
    """Write experiments/results/sst5_robustness.json."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    data_dir = sys.argv[1] if len(sys.argv) > 1 else DATA
    data, plan, about = load(data_dir, SEEDS)
    chosen = json.loads((RESULTS / "sst5_study.json").read_text(encoding="utf-8"))["fractions"]["1.0"]["heads"]
    rows = len(data.train[1])
    heads = {
        name: train_settings(
            HEADS[name], [HEADS[name].settings[chosen[name]["chosen"]]], range(SEEDS),
            subsets_of(data.train[1], rows, SEEDS), data, plan, plan.schedule(rows, 1.0),
        )
        for name in ARMS
    }  # fmt: skip
    damaged, labels = damaged_features(data_dir)
    clean = (np.array(data.test[0][: len(labels)]), labels)
    found = {}
    for name in ARMS:
        found[name] = measure_arm(heads[name], heads[SOURCE], clean, damaged)
        print(name, found[name]["texts"]["mean_accuracy"], found[name]["attacks"]["l2"], flush=True)
    write_json(
        RESULTS / "sst5_robustness.json",
        {
            "regime": "sst5_robustness",
            "protocol": " ".join((__doc__ or "").split("\n\n")[2].split()),
            "claims": [],
            "seeds": SEEDS,
            "heads": found,
            "cpu_seconds": round(time.process_time()),
            **about,
        },
    )


if __name__ == "__main__":
    main()
