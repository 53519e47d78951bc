"""Train the arms of a regime with the same seeds, through the same code as `cr-hf train`, and compare them in pairs.

Usage: python -m experiments.regimes REGIME [SEEDS] [DATA_DIR]
Regimes: sst5_finetune, sst5_lora, yelp_static, yelp_static_pool, yelp_minilm. A run that is done is not done again:
its numbers, and which test rows it got right, stand in experiments/results/REGIME.json.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from cr_hf.data import load_rows
from cr_hf.evaluation.statistics import compare
from cr_hf.evaluation.tasks import Task
from cr_hf.features.encode import encode_texts
from cr_hf.files import write_json
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import load_run, train_recipe

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "experiments"
LINEAR = ["hidden_sizes=[]", "dreg_lambda=0"]
GELU = ["activation=gelu", "dreg_lambda=0"]
# What every arm of a regime shares, and what makes the arm.
FINETUNE = ["num_train_epochs=3", "learning_rate=1e-4", "backbone=offline"]
POOL = ["data.train_file=[train.jsonl.gz, pool.jsonl.gz]", "data.test_file=test.jsonl.gz"]
HEADS = {"cr+dreg": [], "gelu": GELU}
OBJECTIVES = {f"{head}, {kind}": [*more, f"objective={kind}"] for head, more in HEADS.items() for kind in
              ("ordinal", "cross_entropy")}  # fmt: skip
REGIMES: dict[str, tuple[str, str, list[str], dict[str, list[str]]]] = {
    "sst5_finetune": ("sst5_finetune", "sst5", FINETUNE, {"cr+dreg": [], "linear": LINEAR}),
    "sst5_lora": ("sst5_lora", "sst5", ["backbone=offline"], {"cr+dreg": [], "linear": LINEAR}),
    "yelp_static": ("yelp_full", "yelp5", [], OBJECTIVES),
    "yelp_static_pool": ("yelp_full", "yelp5", POOL, OBJECTIVES),
    "yelp_minilm": ("yelp_minilm", "yelp5", ["backbone=offline"], OBJECTIVES),
}


def run_arm(regime: str, arm: str, seed: int, data_dir: str) -> dict[str, Any]:
    """Numbers of one run, and its hits: a bit for each test row that it got right, in hexadecimal."""
    recipe_name, _, shared, arms = REGIMES[regime]
    folder = RUNS / regime / f"{arm.replace(', ', '-')}-{seed}"
    own = [f"data.dir={data_dir}", f"seed={seed}", f"output_dir={folder}", "disable_tqdm=true"]
    recipe = load_recipe(ROOT / "recipes" / f"{recipe_name}.yaml", [*shared, *arms[arm], *own])
    if not (folder / "results.json").is_file():
        train_recipe(recipe, resume=True)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = load_rows(recipe.data, splits=["test"])["test"]
    labels = np.asarray(rows["label"][:])
    model, tokenizer, _ = load_run(folder)
    if model.config.freeze_backbone:
        features = torch.from_numpy(np.array(encode_texts(model, tokenizer, rows["text"])))
        with torch.no_grad():
            logits = model.eval().classifier(features)[0].numpy()
    else:
        logits = model.predict_texts(rows["text"][:], tokenizer).numpy()
    # Absolute error and kappa of every arm, whatever its objective.
    results["metrics"]["test"] = Task(objective="ordinal").measure(logits, labels)
    hits = np.packbits(logits.argmax(-1) == labels).tobytes().hex()
    keep = ("metrics", "training", "model", "environment", "data")
    return {"arm": arm, "seed": seed, "hits": hits, **{name: results[name] for name in keep}}


def hits(runs: list[dict[str, Any]], arm: str) -> NDArray[np.float64]:
    """Shape (seeds, rows)."""
    rows = runs[0]["data"]["rows"]["test"]
    packed = [np.frombuffer(bytes.fromhex(run["hits"]), np.uint8) for run in runs if run["arm"] == arm]
    return np.unpackbits(np.stack(packed), axis=1)[:, :rows].astype(float)


def main() -> None:
    """Write experiments/results/REGIME.json after every run."""
    logging.set_verbosity_error()
    regime = sys.argv[1]
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    _, data, _, arms = REGIMES[regime]
    data_dir = sys.argv[3] if len(sys.argv) > 3 else f"../shared/data/{data}"
    path = ROOT / "experiments" / "results" / f"{regime}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    done = {(run["arm"], run["seed"]): run for run in stored}
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for arm in arms:
            runs.append(done.get((arm, seed)) or run_arm(regime, arm, seed, data_dir))
            metrics = runs[-1]["metrics"]
            print(seed, arm, {split: round(values["accuracy"], 4) for split, values in metrics.items()}, flush=True)
        pairs = {
            f"{first} - {other}": compare(hits(runs, first), hits(runs, other))
            for first, other in combinations(arms, 2)
            if seed
        }
        write_json(
            path,
            {
                "regime": regime,
                "sample": "5,000 rows of the official test split" if data == "yelp5" else None,
                "data": runs[0]["data"],
                "seeds": seed + 1,
                "arms": {arm: {"overrides": arms[arm], **summary(runs, arm)} for arm in arms},
                "test_accuracy_differences": pairs,
                "runs": runs,
            },
        )


def summary(runs: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each metric on validation and test."""
    own = [run for run in runs if run["arm"] == arm]
    found: dict[str, Any] = {"parameters_head": own[0]["model"]["parameters_head"]}
    for split in own[0]["metrics"]:
        names = [name for name, value in own[0]["metrics"][split].items() if isinstance(value, float)]
        values = {name: [run["metrics"][split][name] for run in own] for name in names}
        found[split] = {name: {"mean": np.mean(v), "std": np.std(v, ddof=len(v) > 1)} for name, v in values.items()}
    return found


if __name__ == "__main__":
    main()
