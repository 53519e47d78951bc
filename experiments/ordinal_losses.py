"""Cumulative link and cross-entropy beside CORAL and CORN of coral-pytorch: one body, one budget, the Yelp sample.

The body is that of recipes/yelp_minilm.yaml on cached features of the frozen encoder. Every method trains as long,
with the same seeds and batches; its epoch is chosen on validation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.layers import CoralLayer
from coral_pytorch.losses import coral_loss, corn_loss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cr_hf.evaluation import Task
from cr_hf.modeling import CRConfig, CRHead, network_dreg
from cr_hf.runs import Recipe
from cr_hf.study.results import pack_hits

from .runner import Regime, compare, hits_of_runs, part, read_regime, start, write_result

METHODS = ("cumulative link", "cross-entropy", "CORAL", "CORN")
Splits = dict[str, tuple[Tensor, Tensor]]


class Network(CRHead):
    """A CR head on standardised features, with the readout of a method."""

    def __init__(self, method: str, config: CRConfig) -> None:
        objective = "ordinal" if method == "cumulative link" else "cross_entropy"
        super().__init__(CRConfig(**{**config.to_dict(), "objective": objective}))
        self.method, self.num_labels, width = method, int(config.num_labels), self.readout.in_features
        if method == "CORAL":
            self.readout = CoralLayer(width, self.num_labels)
        if method == "CORN":
            self.readout = nn.Linear(width, self.num_labels - 1)

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
        if self.method == "CORN":
            return corn_loss(outputs, labels, self.num_labels)
        return F.cross_entropy(outputs, labels)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Class log-probabilities, (batch, num_labels), from whatever the method predicts."""
        if self.method not in ("CORAL", "CORN"):
            return F.log_softmax(outputs, -1)
        # P(y > k): CORAL predicts it, CORN given y > k - 1.
        above = outputs.sigmoid() if self.method == "CORAL" else outputs.sigmoid().cumprod(1)
        bounds = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], 1)
        return (bounds[:, :-1] - bounds[:, 1:]).clamp_min(1e-9).log()

    def groups(self, training: dict[str, Any]) -> list[dict[str, Any]]:
        """Parameter groups of the recipe: thresholds at their own rate, no decay of what is no weight matrix."""
        decayed, thresholds, rest = [], [], []
        for name, values in self.named_parameters():
            is_threshold = name.startswith("thresholds") or "coral_bias" in name
            (thresholds if is_threshold else decayed if name.endswith("weight") else rest).append(values)
        rate = training["learning_rate"]
        return [
            {"params": decayed, "lr": rate, "weight_decay": training["weight_decay"]},
            {"params": rest, "lr": rate, "weight_decay": 0.0},
            {"params": thresholds, "lr": training["threshold_learning_rate"], "weight_decay": 0.0},
        ]


def train(method: str, seed: int, recipe: Recipe, config: CRConfig, splits: Splits) -> dict[str, Any]:
    """Train one network; metrics on test of the epoch that is best on validation.

    CORAL and CORN have outputs of their own, which `CRTrainer` and a sweep do not know: hence this loop, for all four.
    """
    torch.manual_seed(seed)
    network, training = Network(method, config), recipe.training
    features, labels = splits["train"]
    size, epochs = training["per_device_train_batch_size"], training["num_train_epochs"]
    steps = epochs * math.ceil(len(labels) / size)
    optimizer = torch.optim.AdamW(network.groups(training))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    order = torch.Generator().manual_seed(seed)
    best_accuracy, best_epoch, best = -1.0, 0, network
    for epoch in range(1, epochs + 1):
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
        accuracy = float((predict(network, held_out).argmax(-1) == wanted.numpy()).mean())
        if accuracy > best_accuracy:
            best_accuracy, best_epoch, best = accuracy, epoch, copy.deepcopy(network)
    scores, wanted = predict(best, splits["test"][0]), splits["test"][1].numpy()
    median = (np.exp(scores).cumsum(-1)[:, :-1] < 0.5).sum(-1)
    metrics = Task(is_ordered=True).measure(scores, wanted)
    run = {
        "method": method,
        "seed": seed,
        "epoch": best_epoch,
        "validation_accuracy": best_accuracy,
        "test": {**metrics, "accuracy_of_median": float((median == wanted).mean())},
    }
    print(run, flush=True)
    return {**run, "hits": pack_hits(scores.argmax(-1)[None] == wanted)}


@torch.no_grad()
def predict(network: Network, features: Tensor) -> NDArray[Any]:
    """Class log-probabilities, (rows, num_labels)."""
    network.eval()
    return network.log_probabilities(network(features)[0]).numpy()


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


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/ordinal_losses.json."""
    options = start(argv, "ordinal_losses", __doc__, "yelp5", seeds=10)
    regime = read_regime("yelp_minilm", options, "backbone=offline")
    splits = standardized_splits(regime)
    runs = [
        part(options, f"{method}-{seed}", partial(train, method, seed, regime.data.recipe, regime.data.config, splits))
        for seed in range(options.seeds)
        for method in METHODS
    ]
    first, *others = (hits_of_runs([run for run in runs if run["method"] == method]) for method in METHODS)
    write_result(
        options,
        body="recipes/yelp_minilm.yaml",
        sample="5,000 rows of the official test split",
        test_accuracy_differences={
            f"{METHODS[0]} - {method}": compare(first, other)
            for method, other in zip(METHODS[1:], others, strict=True)
        },
        runs=[{name: value for name, value in run.items() if name != "hits"} for run in runs],
        **regime.about,
    )


if __name__ == "__main__":
    main()
