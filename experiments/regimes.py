"""Train the arms of a regime with the same seeds, through the same code as `cr-hf train`, and compare them in pairs.

Writes experiments/results/REGIME.json. A run that is done is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, trainer

from cr_hf.data import load_rows, load_tables, table_features
from cr_hf.evaluation import Task
from cr_hf.features import encode_texts
from cr_hf.runs import Run, train_recipe
from cr_hf.study.results import pack_hits
from cr_hf.training import DREG

from .runner import RESULTS, RUNS, compare, hits_of_runs, part, recipe_of, start, write_result

LINEAR = ("hidden_sizes=[]", "dreg_lambda=0")
GELU = ("activation=gelu", "dreg_lambda=0")
FINETUNE = ("num_train_epochs=3", "learning_rate=1e-4", "backbone=offline")
# The adapters of recipes/sst5_lora.yaml, with its learning rate and its layers.
LORA = (
    "freeze_backbone=true",
    "feature_norm=layer_norm",
    "lora_r=16",
    "lora_alpha=32",
    "lora_dropout=0.05",
    "learning_rate=5e-4",
    "layer_decay=1",
)
# DREG on the feed-forward blocks of the backbone too: the arm, and its weight there, which was not tuned.
IN_BACKBONE = {"cr+dreg, 0.0001 in the backbone": 1e-4}
POOL = ("data.train_file=[train.jsonl.gz, pool.jsonl.gz]", "data.test_file=test.jsonl.gz")
# What `objective: ordinal` was when the Yelp regimes ran; experiments/ordinal_losses.py has the others.
LINK = ("objective=ordinal", "ordinal_loss=cumulative_link", "threshold_learning_rate=0.05")
FINE_TUNED: dict[str, Sequence[str]] = {
    "cr+dreg": (),
    "linear": LINEAR,
    "cr+dreg, lora": LORA,
    **dict.fromkeys(IN_BACKBONE, ()),
}
OBJECTIVES: dict[str, Sequence[str]] = {
    f"{head}, {objective}": (*overrides, *own)
    for head, overrides in (("cr+dreg", ()), ("gelu", GELU))
    for objective, own in (("ordinal", LINK), ("cross_entropy", ("objective=cross_entropy",)))
}


@dataclass(frozen=True)
class Arms:
    """Arms that are trained alike: their recipe, folder of data, shared overrides, and what makes each of them."""

    recipe: str
    data: str
    shared: Sequence[str]
    arms: dict[str, Sequence[str]]


REGIMES = {
    "sst5_finetune": Arms("sst5_finetune", "sst5", FINETUNE, FINE_TUNED),
    "yelp_static": Arms("yelp_full", "yelp5", (), OBJECTIVES),
    "yelp_static_pool": Arms("yelp_full", "yelp5", POOL, OBJECTIVES),
    "cifar10_vision": Arms("cifar10_vision", "cifar10", (), {"cr+dreg": (), "linear": LINEAR, "gelu": GELU}),
    "yelp_minilm": Arms("yelp_minilm", "yelp5", ("backbone=offline",), OBJECTIVES),
}
KEPT = ("metrics", "training", "model", "environment", "data")


class BackboneDREG(TrainerCallback):
    """DREG on the feed-forward blocks of the model that is trained."""

    def __init__(self, dreg_lambda: float) -> None:
        self.dreg_lambda = dreg_lambda

    def on_train_begin(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.dreg = DREG(model, ["intermediate"], dreg_lambda=self.dreg_lambda)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.dreg.remove()


@contextlib.contextmanager
def every_trainer_has(callback: TrainerCallback) -> Iterator[None]:
    """A callback for trainers that others make."""
    trainer.DEFAULT_CALLBACKS.append(callback)
    try:
        yield
    finally:
        trainer.DEFAULT_CALLBACKS.remove(callback)


def run_arm(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Numbers of one run, and which test rows it got right."""
    regime = REGIMES[options.regime]
    folder = RUNS / options.regime / f"run-{arm.replace(', ', '-')}-{seed}"
    own = (f"seed={seed}", f"output_dir={folder}", "disable_tqdm=true")
    recipe = recipe_of(regime.recipe, options, *regime.shared, *own, *regime.arms[arm])
    if not (folder / "results.json").is_file():
        weight = IN_BACKBONE.get(arm)
        with contextlib.nullcontext() if weight is None else every_trainer_has(BackboneDREG(weight)):
            train_recipe(recipe, resume=True)
    run = Run(folder)
    results = run.results
    is_table = recipe.kind == "table"
    rows = (load_tables(recipe.data, ["test"], run.schema) if is_table else load_rows(recipe.data, splits=["test"]))[
        "test"
    ]
    labels = np.asarray(rows["label"][:])
    model, tokenizer = run.model, run.tokenizer
    if model.config.freeze_backbone:
        encoded = run.row_features(table_features(rows)) if is_table else encode_texts(model, tokenizer, rows["text"])
        features = torch.from_numpy(np.array(encoded))
        with torch.no_grad():
            logits = model.eval().classifier(features)[0].numpy()
    else:
        logits = model.predict_texts(rows["text"][:], tokenizer).numpy()
    # Absolute error and kappa of every arm, whatever its objective.
    results["metrics"]["test"] = Task(is_ordered=not is_table).measure(logits, labels)
    hits = pack_hits(logits.argmax(-1)[None] == labels)
    return {"arm": arm, "seed": seed, "hits": hits, **{name: results[name] for name in KEPT}}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of an arm of each metric on validation and test."""
    found: dict[str, Any] = {"parameters_head": runs[0]["model"]["parameters_head"]}
    for split, metrics in runs[0]["metrics"].items():
        values = {
            name: [run["metrics"][split][name] for run in runs] for name, one in metrics.items() if type(one) is float
        }
        found[split] = {
            name: {"mean": np.mean(one), "std": np.std(one, ddof=len(one) > 1)} for name, one in values.items()
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/REGIME.json."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("regime", choices=REGIMES, help=", ".join(REGIMES), metavar="REGIME")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the recipe")
        parser.add_argument("--data", metavar="FOLDER", help="by default that of the regime in ../shared/data")
        parser.set_defaults(output=None)

    asked = start(argv, "regimes", __doc__, seeds=3, more=more)
    regime = REGIMES[asked.regime]
    asked.data = asked.data or f"../shared/data/{regime.data}"
    asked.output = asked.output or RESULTS / f"{asked.regime}.json"
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in regime.arms}
    for seed in range(asked.seeds):
        for arm, own in runs.items():
            own.append(part(asked, f"{arm}-{seed}", lambda arm=arm, seed=seed: run_arm(asked, arm, seed)))
            accuracies = {split: round(one["accuracy"], 4) for split, one in own[-1]["metrics"].items()}
            print(seed, arm, accuracies, flush=True)
    hits = {arm: hits_of_runs(own) for arm, own in runs.items()}
    pairs = combinations(runs, 2) if asked.seeds > 1 else ()
    write_result(
        asked,
        sample="5,000 rows of the official test split" if regime.data == "yelp5" else None,
        data=next(iter(runs.values()))[0]["data"],
        arms={arm: {"overrides": regime.arms[arm], **summary(own)} for arm, own in runs.items()},
        test_accuracy_differences={f"{one} - {other}": compare(hits[one], hits[other]) for one, other in pairs},
        runs=[run for own in runs.values() for run in own],
    )


if __name__ == "__main__":
    main()
