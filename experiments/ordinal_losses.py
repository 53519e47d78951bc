"""Cumulative link and cross-entropy beside CORAL and CORN of coral-pytorch: one body, one budget, the Yelp sample.

Usage: python -m experiments.ordinal_losses [SEEDS] [DATA_DIR]     (default: 10 ../shared/data/yelp5)
The body is that of recipes/yelp_minilm.yaml on cached features of the frozen encoder. Every method trains as long,
with the same seeds and batches; its epoch is chosen on validation.
"""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.layers import CoralLayer
from coral_pytorch.losses import coral_loss, corn_loss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cr_hf.data import load_rows
from cr_hf.evaluation.statistics import compare
from cr_hf.evaluation.tasks import Task
from cr_hf.features.encode import encode_splits
from cr_hf.files import write_json
from cr_hf.modeling import CRConfig, CRHead, network_dreg
from cr_hf.runs.build import build_model
from cr_hf.runs.recipe import Recipe, load_recipe
from cr_hf.runs.results import describe_data, describe_machine

ROOT = Path(__file__).resolve().parents[1]
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
        own = [name for name, _ in self.named_parameters() if name.startswith("thresholds") or "coral_bias" in name]
        named = dict(self.named_parameters())
        decayed = [name for name in named if name.endswith("weight")]
        rest = [name for name in named if name not in (*own, *decayed)]
        rate, decay = training["learning_rate"], training["weight_decay"]
        found = ((decayed, rate, decay), (rest, rate, 0.0), (own, training["threshold_learning_rate"], 0.0))
        return [
            {"params": [named[name] for name in names], "lr": lr, "weight_decay": value} for names, lr, value in found
        ]


def train(method: str, seed: int, recipe: Recipe, config: CRConfig, splits: Splits) -> dict[str, Any]:
    """Train one network; metrics on test of the epoch that is best on validation."""
    torch.manual_seed(seed)
    network, training = Network(method, config), recipe.training
    features, labels = splits["train"]
    size, epochs = training["per_device_train_batch_size"], training["num_train_epochs"]
    steps = epochs * math.ceil(len(labels) / size)
    optimizer = torch.optim.AdamW(network.groups(training))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    order, best = torch.Generator().manual_seed(seed), (-1.0, 0, network)
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
        accuracy = float(np.mean(hits(predict(network, splits["validation"]), splits["validation"][1])))
        if accuracy > best[0]:
            best = (accuracy, epoch, copy.deepcopy(network))
    scores = predict(best[2], splits["test"])
    metrics = Task(objective="ordinal").measure(scores, splits["test"][1].numpy())
    median = (np.exp(scores).cumsum(-1)[:, :-1] < 0.5).sum(-1)
    metrics["accuracy_of_median"] = float((median == splits["test"][1].numpy()).mean())
    run = {"method": method, "seed": seed, "epoch": best[1], "validation_accuracy": best[0], "test": metrics}
    return {**run, "hits": hits(scores, splits["test"][1])}


@torch.no_grad()
def predict(network: Network, split: tuple[Tensor, Tensor]) -> NDArray[Any]:
    """Class log-probabilities, (rows, num_labels)."""
    network.eval()
    return network.log_probabilities(network(split[0])[0]).numpy()


def hits(scores: NDArray[Any], labels: Tensor) -> NDArray[np.float64]:
    """1 where the top class is the label."""
    return (scores.argmax(-1) == labels.numpy()).astype(float)


def standardized_splits(recipe: Recipe, dataset: Any) -> tuple[CRConfig, Splits]:
    """Features standardised by the training rows, as the head's own `feature_norm` does."""
    model, tokenizer = build_model(recipe, dataset)
    encoded = encode_splits(model, tokenizer, dataset)
    norm = model.classifier.feature_norm
    model.fit_feature_norm(torch.from_numpy(np.array(encoded["train"][0])))
    with torch.no_grad():
        return model.config, {
            name: (norm(torch.from_numpy(np.array(features))), torch.from_numpy(labels).long())
            for name, (features, labels) in encoded.items()
        }


def main() -> None:
    """Write experiments/results/ordinal_losses.json."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    data_dir = sys.argv[2] if len(sys.argv) > 2 else "../shared/data/yelp5"
    overrides = [f"data.dir={data_dir}", "backbone=offline"]
    recipe = load_recipe(ROOT / "recipes" / "yelp_minilm.yaml", overrides)
    dataset = load_rows(recipe.data)
    config, splits = standardized_splits(recipe, dataset)
    runs = []
    for seed in range(seeds):
        for method in METHODS:
            runs.append(train(method, seed, recipe, config, splits))
            print({name: value for name, value in runs[-1].items() if name != "hits"}, flush=True)
    first, *others = (np.stack([run["hits"] for run in runs if run["method"] == method]) for method in METHODS)
    write_json(
        ROOT / "experiments" / "results" / "ordinal_losses.json",
        {
            "body": "recipes/yelp_minilm.yaml",
            "sample": "5,000 rows of the official test split",
            "data": describe_data(recipe.data, dataset),
            "seeds": seeds,
            "environment": describe_machine(),
            "test_accuracy_differences": {
                f"{METHODS[0]} - {method}": compare(first, other)
                for method, other in zip(METHODS[1:], others, strict=True)
            },
            "runs": [{name: value for name, value in run.items() if name != "hits"} for run in runs],
        },
    )


if __name__ == "__main__":
    main()
