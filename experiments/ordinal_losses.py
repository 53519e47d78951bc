"""Losses for ordered classes: one body, one budget, the Yelp sample and SST-5.

The bodies are those of recipes/yelp_minilm.yaml and recipes/sst5_frozen.yaml on cached features of the frozen encoder.
Every method trains as long, with the same seeds; its epoch is chosen on validation. CORAL and CORN are
coral-pytorch's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.special
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.layers import CoralLayer
from coral_pytorch.losses import coral_loss, corn_loss
from numpy.typing import NDArray
from torch import Tensor, nn

from cr_hf.evaluation import Task, median_class
from cr_hf.modeling import CRConfig, CRHead, class_losses, network_dreg
from cr_hf.runs.build import sweep_head
from cr_hf.study.results import pack_hits
from cr_hf.training import HeadGroup, predict_heads, train_heads

from .runner import Regime, compare, hits_of_runs, part, read_regime, start, write_result

SETS = {"Yelp": ("yelp_minilm", "yelp5"), "SST-5": ("sst5_frozen", "sst5")}
THRESHOLD_RATE = 0.05  # thresholds have far to go; chosen on validation
LINK = {"objective": "ordinal", "ordinal_loss": "cumulative_link", "threshold_learning_rate": THRESHOLD_RATE}
REFERENCE = "cross-entropy"
# Keys of the recipe; `penalty_weight` is that of the squared EMD, whatever the package's own is.
METHODS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "cumulative link": LINK,
    "soft labels 0.25": {"soft_labels": 0.25},
    "soft labels 0.5": {"soft_labels": 0.5},
    "soft labels 1": {"soft_labels": 1.0},
    "squared EMD 0.5": {"penalty_weight": 0.5},
    "squared EMD 2": {"penalty_weight": 2.0},
    "soft labels 1, squared EMD 0.5": {"soft_labels": 1.0, "penalty_weight": 0.5},
}
OTHERS = ("CORAL", "CORN")
Splits = dict[str, tuple[Tensor, Tensor]]


class SquaredEmdGroup(HeadGroup):
    """Heads whose `penalty_weight` is that of the squared earth mover's distance."""

    def task_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task loss of each head, (K,), from logits (K, batch, classes) and labels (1 or K, batch)."""
        rows = logits.flatten(0, 1), labels.expand(logits.shape[:2]).flatten()
        distances = class_losses(*rows, squared_emd=1.0) - class_losses(*rows)
        weighted = self.penalty_weights * distances.view(logits.shape[:2]).mean(1)
        return super().task_losses(logits, labels) + weighted


class Network(CRHead):
    """A CR head on standardised features, with the readout of CORAL or CORN."""

    def __init__(self, method: str, config: CRConfig) -> None:
        super().__init__(config)
        self.method, self.num_labels, width = method, int(config.num_labels or 0), self.readout.in_features
        self.readout = (
            CoralLayer(width, self.num_labels) if method == "CORAL" else nn.Linear(width, self.num_labels - 1)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The method's own outputs, (batch, outputs), and DREG summed over the layers."""
        traced = self.trace(features, dropout=self.training)
        readout = self.readout.coral_weights if self.method == "CORAL" else self.readout
        weights = [*(layer.linear.weight for layer in self.layers), readout.weight]
        return traced.logits, network_dreg([*traced.derivatives, None], weights).sum()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The method's loss, as its package computes it."""
        if self.method == "CORAL":
            return coral_loss(outputs, levels_from_labelbatch(labels, self.num_labels))
        return corn_loss(outputs, labels, self.num_labels)

    @torch.no_grad()
    def predict(self, features: Tensor) -> NDArray[Any]:
        """Class log-probabilities, (rows, num_labels), from whatever the method predicts."""
        outputs = self.eval()(features)[0]
        # P(y > k): CORAL predicts it, CORN given y > k - 1.
        above = outputs.sigmoid() if self.method == "CORAL" else outputs.sigmoid().cumprod(1)
        bounds = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
        return (bounds[:, :-1] - bounds[:, 1:]).clamp_min(1e-9).log().numpy()

    def groups(self, training: dict[str, Any]) -> list[dict[str, Any]]:
        """Parameter groups of the recipe: thresholds at their own rate, no decay of what is no weight matrix."""
        decayed, thresholds, rest = [], [], []
        for name, values in self.named_parameters():
            is_threshold = "coral_bias" in name
            (thresholds if is_threshold else decayed if name.endswith("weight") else rest).append(values)
        rate = training["learning_rate"]
        return [
            {"params": decayed, "lr": rate, "weight_decay": training["weight_decay"]},
            {"params": rest, "lr": rate, "weight_decay": 0.0},
            {"params": thresholds, "lr": THRESHOLD_RATE, "weight_decay": 0.0},
        ]


def train_other(method: str, seed: int, regime: Regime, splits: Splits) -> Network:
    """CORAL or CORN at its best epoch on validation; their outputs are not what a sweep knows, hence this loop."""
    torch.manual_seed(seed)
    training, config = regime.data.recipe.training, regime.data.config
    network = best = Network(method, CRConfig(**{**config.to_dict(), "objective": "cross_entropy"}))
    features, labels = splits["train"]
    size, epochs = training["per_device_train_batch_size"], training["num_train_epochs"]
    steps, best_accuracy = epochs * math.ceil(len(labels) / size), -1.0
    optimizer = torch.optim.AdamW(network.groups(training))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(labels), generator=order).split(size):
            outputs, dreg = network(features[rows])
            loss = network.loss(outputs, labels[rows]) + config.dreg_lambda * dreg
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        held_out, wanted = splits["validation"]
        accuracy = float((network.predict(held_out).argmax(-1) == wanted.numpy()).mean())
        if accuracy > best_accuracy:
            best_accuracy, best = accuracy, copy.deepcopy(network)
    return best


def standardized_splits(regime: Regime) -> Splits:
    """Features standardised by the training rows, as the head's own `feature_norm` does."""
    norm = CRHead(regime.data.config).feature_norm
    splits = {name: getattr(regime.data, name) for name in ("train", "validation", "test")}
    rows = torch.from_numpy(np.array(splits["train"][0], dtype=np.float64))
    norm.set_statistics(rows.mean(0), rows.var(0, correction=0))
    with torch.no_grad():
        return {
            name: (norm(torch.from_numpy(np.array(features))), torch.from_numpy(np.asarray(labels)).long())
            for name, (features, labels) in splits.items()
        }


def predictions(method: str, regime: Regime, seeds: int) -> dict[str, NDArray[Any]]:
    """Logits of every seed by split, (seeds, rows, num_labels)."""
    data, measured = regime.data, ("validation", "test")
    if method in OTHERS:
        splits = standardized_splits(regime)
        networks = [train_other(method, seed, regime, splits) for seed in range(seeds)]
        return {name: np.stack([network.predict(splits[name][0]) for network in networks]) for name in measured}
    own = {"objective": "cross_entropy", **METHODS[method]}
    weight = own.pop("penalty_weight", 0.0)
    heads = [
        sweep_head(data.recipe, data.config, {**own, "seed": seed}, penalty_weight=weight) for seed in range(seeds)
    ]
    features, labels = data.validation
    results = train_heads(
        *data.train, heads, validation_features=features, validation_labels=labels, group_type=SquaredEmdGroup
    )
    return {name: predict_heads(results, getattr(data, name)[0]).numpy() for name in measured}


def measure(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Metrics of one run, those of the median class beside those of the top class."""
    task = Task(is_ordered=True)
    median = median_class(scipy.special.softmax(logits.astype(np.float64), axis=-1))
    of_median = task.compute_metrics(np.eye(logits.shape[-1])[median] * 50, labels)
    found = task.compute_metrics(logits, labels)
    return {**found, **{f"{name}_of_median": of_median[name] for name in ("accuracy", "quadratic_weighted_kappa")}}


def run(method: str, regime: Regime, seeds: int) -> dict[str, Any]:
    """Metrics of every seed, and which test rows it got right."""
    found = predictions(method, regime, seeds)
    labels = {name: np.asarray(getattr(regime.data, name)[1]) for name in found}
    runs = [{name: measure(found[name][seed], labels[name]) for name in found} for seed in range(seeds)]
    print(method, [round(one["test"]["accuracy"], 4) for one in runs], flush=True)
    return {"runs": runs, "hits": pack_hits(found["test"].argmax(-1) == labels["test"])}


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/ordinal_losses.json."""
    options = start(argv, "ordinal_losses", __doc__, "", seeds=10)
    names, runs, hits, about = (*METHODS, *OTHERS), {}, {}, {}
    for title, (recipe, folder) in SETS.items():
        regime = read_regime(recipe, options, "backbone=offline", f"data.dir={options.data}/{folder}")
        about[title] = regime.about
        for name in names:
            found = part(options, f"{title}-{name}", partial(run, name, regime, options.seeds))
            runs.setdefault(title, {})[name] = found["runs"]
            hits[title, name] = hits_of_runs([found])
    for name in names:  # both sets as one, each row as much
        hits["both", name] = np.concatenate([hits[title, name] for title in SETS], axis=1)
    write_result(
        options,
        test_accuracy_differences={
            title: {
                f"{name} - {REFERENCE}": compare(hits[title, name], hits[title, REFERENCE])
                for name in names
                if name != REFERENCE
            }
            for title in (*SETS, "both")
        },
        sets=about,
        runs=runs,
    )


if __name__ == "__main__":
    main()
