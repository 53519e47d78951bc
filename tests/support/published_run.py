"""A finished run without its training, for tests of publishing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification
from cr_hf.runs.results import describe_model, text_probe

TEXT = "The quick brown fox of this training row jumps over the lazy dog."
RESULTS: dict[str, Any] = {
    "cr_hf_version": "0.1.0",
    "data": {"source": "local files", "revision": None, "synthetic": False, "labels": ["schlecht", "très bien"]},
    "training": {"seed": 0, "epochs": 1.0, "steps": 4, "seconds_training": 1.0, "seconds_preparing": 1.0},
    "metrics": {"test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "rows": 10}},
    "environment": {"python": "3.11", "torch": "2", "transformers": "5", "device": "CPU"},
}


def make_run(folder: Path, backbone: Path) -> Path:
    """What a run leaves behind, without the training."""
    labels = {0: "schlecht", 1: "très bien"}
    model = CRForSequenceClassification.from_backbone(
        str(backbone), hidden_sizes=[8], freeze_backbone=True, id2label=labels
    )
    model.fit_feature_norm(torch.randn(20, 32))
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.save_pretrained(folder)
    (folder / "probe.json").write_text(json.dumps(text_probe(model, tokenizer)), encoding="utf-8")
    data = {**RESULTS["data"], "rows": {"train": 2, "test": 10}}
    results = {**RESULTS, "data": data, "model": describe_model(model)}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    train = folder.parent / "train.csv"
    train.write_text(f"text,label\n{TEXT},schlecht\nanother one,très bien\n" * 20, encoding="utf-8")
    recipe = f"backbone: /home/somebody/encoder\ndata:\n  train_file: {train}\noutput_dir: {folder}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    torch.save({}, folder / "checkpoints" / "checkpoint-4" / "optimizer.pt")
    return folder


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: write(name, (folder / name).read_text(encoding="utf-8") + text)(folder)
