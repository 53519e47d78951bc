"""What `results.json` holds: every number that a card, a table or a plot may quote."""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from numpy.typing import NDArray

from .data import DataConfig, data_fingerprint
from .metrics import bootstrap_interval, compute_classification_metrics
from .modeling_cr import CRForSequenceClassification
from .training_args import CRTrainingArguments

MODEL_FIELDS = (
    *("activation", "degree", "polynomial_range", "coefficient_init", "hidden_sizes", "in_features", "dropout"),
    *("pooling", "feature_layers", "feature_norm", "objective", "dreg_lambda", "dreg_mode", "freeze_backbone"),
)


def measure(logits: NDArray[Any], labels: NDArray[Any], ordinal: bool) -> dict[str, Any]:
    """Metrics of one split, with a 95 % bootstrap interval over rows for the accuracy.

    Args:
        logits: shape (rows, num_labels).
        labels: class indices, shape (rows,).
        ordinal: add the metrics of ordered classes.

    Returns:
        One number per metric, `accuracy_interval` ([low, high]) and `rows`.
    """
    metrics: dict[str, Any] = compute_classification_metrics(logits, labels, ordinal=ordinal)
    correct = (logits.argmax(-1) == labels).astype(float)
    interval = list(bootstrap_interval(correct)) if len(labels) > 1 else [0.0, 1.0]
    return {**metrics, "accuracy_interval": interval, "rows": len(labels)}


def describe_data(config: DataConfig, dataset: datasets.DatasetDict) -> dict[str, Any]:
    """Source, labels, rows and SHA-256 of the splits. A local folder is not named: paths do not travel."""
    names = dataset["train"].features["label"].names
    return {
        "source": config.name or "local files",
        "revision": config.revision,
        "synthetic": config.name == "embedded",
        "labels": names,
        "rows": {name: len(rows) for name, rows in dataset.items()},
        "sha256": data_fingerprint(dataset),
    }


def describe_model(model: CRForSequenceClassification) -> dict[str, Any]:
    """What was trained: the fields of the head and the number of parameters."""
    config = model.config
    head = sum(parameter.numel() for parameter in model.classifier.parameters())
    return {
        **{name: getattr(config, name) for name in MODEL_FIELDS},
        "backbone_type": config.backbone_config.model_type,
        "parameters_head": head,
        "parameters_total": sum(parameter.numel() for parameter in model.parameters()),
    }


def describe_environment(arguments: CRTrainingArguments) -> dict[str, Any]:
    """Versions and hardware of a training run."""
    return {**describe_machine(arguments.device), "processes": arguments.world_size}


def describe_machine(device: torch.device | None = None) -> dict[str, Any]:
    """Versions and hardware; the device is the GPU if there is one, unless it is given."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees either the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    """JSON has no NaN: it is written as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
