"""DREG along the directions in which damage moves the features of a text, on frozen SST-5.

Training texts are damaged (typos, words dropped, upper case), no label is needed, and S is the second moment of what
that does to the normalised features, scaled to the trace of the identity. The penalty
mean_x sum_i p_i'(z_i)**2 W_i S W_i' of the first layer is added to DREG. The weight of either is chosen on dev, by
the mean accuracy on the texts as they are and damaged, and compared on test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cr_hf.data import load_rows
from cr_hf.evaluation import compare_all
from cr_hf.evaluation.text_damage import perturb_text
from cr_hf.features import encode_texts
from cr_hf.modeling import polynomial
from cr_hf.runs import build_model
from cr_hf.study.arms import HEADS
from cr_hf.study.penalties import PENALTIES
from cr_hf.training import HeadGroup

from .runner import Hits, Regime, hits_of, read_regime, start, subsets_of, train, write_result

KINDS = (("typos", 3), ("drop", 2), ("case", 3))
TRAIN_TEXTS = 2000
WEIGHTS = (0.005, 0.02, 0.08, 0.32)
BASE = replace(HEADS["cr+dreg"], settings=())
ARMS = {
    "cr+dreg": replace(BASE, settings=tuple({"dreg_lambda": value} for value in (0.01, 0.02, 0.04, 0.08))),
    "cr+dreg along noise": replace(
        BASE,
        settings=tuple({"dreg_lambda": 0.02, "penalty_weight": value} for value in WEIGHTS),
        penalty="along_noise",
    ),
}


class AlongNoiseGroup(HeadGroup):
    """Heads with the penalty of the first layer in the metric S, whose root is `root`, beside DREG."""

    root: Tensor

    def penalty(self, rows: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
        """The penalty of each head times its weight, shape (K,)."""
        weight, bias = (self.parameters[f"layers.0.linear.{name}"] for name in ("weight", "bias"))
        z = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        slopes = polynomial(z, self.parameters["layers.0.coefficients"], self.config.polynomial_range)[1]
        return self.penalty_weights * ((weight @ self.root).square().sum(-1) * slopes.square().mean(1)).sum(-1)


def damaged(regime: Regime) -> dict[str, list[NDArray[np.float32]]]:
    """Features of the texts of each split under every kind of damage, of train of some drawn at random."""
    dataset = load_rows(regime.data.recipe.data)
    model, tokenizer = build_model(regime.data.recipe, dataset)
    dataset["train"] = dataset["train"].select(train_rows(len(dataset["train"])))
    return {
        split: [
            np.array(encode_texts(model, tokenizer, [perturb_text(text, *kind) for text in rows["text"]]))
            for kind in KINDS
        ]
        for split, rows in dataset.items()
    }


def train_rows(count: int) -> NDArray[np.int64]:
    """The training rows that are damaged."""
    return np.random.default_rng(0).permutation(count)[:TRAIN_TEXTS]


def metric_root(clean: NDArray[np.float32], copies: Sequence[NDArray[np.float32]]) -> Tensor:
    """The symmetric root of S, from all training features and the damaged copies of `train_rows` of them."""
    deviation = clean.std(0)
    scale = np.where(deviation > 1e-6 * np.median(deviation), 1 / np.maximum(deviation, 1e-30), 0)
    own = clean[train_rows(len(clean))]
    moved = np.concatenate([(one - own) * scale for one in copies]).astype(np.float64)
    moment = torch.from_numpy(moved.T @ moved)
    values, vectors = torch.linalg.eigh(moment * len(moment) / moment.trace())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).float()


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/noise_directions.json."""
    options = start(argv, "noise_directions", __doc__, "sst5", seeds=5)
    regime = read_regime("sst5_frozen", options, "backbone=offline")
    data, copies = regime.data, damaged(regime)
    AlongNoiseGroup.root = metric_root(np.asarray(data.train[0]), copies["train"])
    PENALTIES["along_noise"] = AlongNoiseGroup
    subsets = subsets_of(data.train[1], 1.0, options.seeds)
    found: dict[str, Any] = {}
    hits: dict[str, list[Hits]] = {}
    for name, arm in ARMS.items():
        heads = train(regime, arm, arm.settings, range(options.seeds), subsets)
        tried = []
        for setting, own in zip(arm.settings, heads, strict=True):
            clean = hits_of(own, *data.validation).mean()
            harmed = np.mean([hits_of(own, one, data.validation[1]).mean() for one in copies["validation"]])
            tried.append({"setting": setting, "dev_accuracy": float(clean), "damaged_dev_accuracy": float(harmed)})
            print(name, tried[-1], flush=True)
        chosen = int(np.argmax([one["dev_accuracy"] + one["damaged_dev_accuracy"] for one in tried]))
        kept = heads[chosen]
        harmed_hits = np.mean([hits_of(kept, one, data.test[1]) for one in copies["test"]], axis=0)
        hits[name] = [hits_of(kept, *data.test), harmed_hits]
        accuracies = [float(one.mean()) for one in hits[name]]
        found[name] = {"tried": tried, "chosen": chosen, "accuracy": accuracies[0], "damaged_accuracy": accuracies[1]}
    differences = [own - other for own, other in zip(hits["cr+dreg along noise"], hits["cr+dreg"], strict=True)]
    compared = dict(zip(("clean", "damaged"), map(asdict, compare_all(differences)), strict=True))
    write_result(options, **regime.about, damage=KINDS, heads=found, comparisons=compared)


if __name__ == "__main__":
    main()
