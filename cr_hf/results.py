"""What `results.json` holds: every number that a card, a table or a plot may quote."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from . import __version__
from .data import DataConfig
from .feature_tables import table_fingerprint
from .metrics import (
    bootstrap_interval,
    compute_classification_metrics,
    compute_multi_label_metrics,
    compute_regression_metrics,
)
from .targets import SEPARATOR, label_names_of
from .training_args import CRTrainingArguments

MODEL_FIELDS = (
    *("activation", "degree", "polynomial_range", "coefficient_init", "hidden_sizes", "in_features", "dropout"),
    *("pooling", "feature_layers", "feature_norm", "objective", "dreg_lambda", "dreg_mode", "freeze_backbone"),
)
# Made up, to see that a saved or published model still answers as it did.
PROBE_TEXTS = (
    "A warm, funny film that earns every laugh.",
    "The room was clean, but the breakfast was cold and the staff were rude.",
    "Two hours of my life that I will never get back.",
    "It is fine: nothing wrong with it, nothing to remember either.",
)


def measure(
    logits: NDArray[Any], labels: NDArray[Any], ordinal: bool, problem_type: str = "single_label_classification"
) -> dict[str, Any]:
    """Metrics of one split, with a 95 % bootstrap interval over rows for the accuracy, where there is one.

    Args:
        logits: shape (rows, num_labels).
        labels: class indices, shape (rows,), or targets, shape (rows, num_labels), as the problem type has them.
        ordinal: add the metrics of ordered classes.
        problem_type: of the model.

    Returns:
        One number per metric, `accuracy_interval` ([low, high]) and `rows`.
    """
    if problem_type == "regression":
        return {**compute_regression_metrics(logits, labels), "rows": len(labels)}
    metrics: dict[str, Any]
    if problem_type == "multi_label_classification":
        metrics = compute_multi_label_metrics(logits, labels)
    else:
        metrics = compute_classification_metrics(logits, labels, ordinal=ordinal)
    correct = right_rows(logits, labels, problem_type).astype(float)
    interval = list(bootstrap_interval(correct)) if len(labels) > 1 else [0.0, 1.0]
    return {**metrics, "accuracy_interval": interval, "rows": len(labels)}


def right_rows(logits: NDArray[Any], labels: NDArray[Any], problem_type: str) -> NDArray[np.bool_]:
    """Whether each row is classified right, in all of its labels if it has several, shape (rows,)."""
    if problem_type == "multi_label_classification":
        return ((logits > 0) == (labels > 0.5)).all(-1)
    return logits.argmax(-1) == labels


def label_names(model: Any) -> list[str]:
    """Names of the classes in order."""
    named: dict[Any, str] = model.config.id2label or {}
    return [named[index] for index in sorted(named)]


def label_scores(model: Any, logits: torch.Tensor) -> list[list[float]]:
    """What a user is shown of each row: probabilities, one a class, or for regression the predicted numbers."""
    if model.config.problem_type == "regression":
        return logits.tolist()
    multi_label = model.config.problem_type == "multi_label_classification"
    return (logits.sigmoid() if multi_label else logits.softmax(-1)).tolist()


def label_of(model: Any, scores: list[float]) -> str:
    """The predicted label of a row of `label_scores`: the top class, every class above one half, or the number."""
    names = label_names(model)
    if model.config.problem_type == "regression":
        return " ".join(f"{score:.4g}" for score in scores)
    if model.config.problem_type == "multi_label_classification":
        return SEPARATOR.join(name for name, score in zip(names, scores, strict=True) if score > 0.5)
    return names[scores.index(max(scores))]


def data_fingerprint(dataset_dict: datasets.DatasetDict) -> dict[str, str]:
    """What identifies the rows of each split, for results.

    Args:
        dataset_dict: as `load_data` returns it.

    Returns:
        SHA-256 by split, over texts and labels in their order.
    """
    found = {}
    for split, rows in dataset_dict.items():
        digest = hashlib.sha256()
        for batch in rows.iter(batch_size=1024):
            columns = [batch[column] for column in ("text", "text_pair", "label") if column in batch]
            digest.update("".join(json.dumps(row) + "\n" for row in zip(*columns, strict=True)).encode())
        found[split] = digest.hexdigest()
    return found


def describe_data(config: DataConfig, dataset: datasets.DatasetDict) -> dict[str, Any]:
    """Source, labels, rows and SHA-256 of the splits. A local folder is not named: paths do not travel.

    Files that are read in place of the data set that the recipe names may be a sample of it, or something else: they
    are "local files", and what they stand for is only noted.
    """
    names = label_names_of(dataset["train"])
    # The rows of a streamed split are never all seen.
    known = datasets.DatasetDict({name: rows for name, rows in dataset.items() if isinstance(rows, datasets.Dataset)})
    return {
        "source": config.name if not config.reads_files else "local files",
        "in_place_of": config.name if config.reads_files else None,
        "revision": None if config.reads_files else config.revision,
        "synthetic": config.name == "embedded" and not config.reads_files,
        "labels": names,
        "rows": {name: len(rows) for name, rows in known.items()},
        "sha256": table_fingerprint(known) if "features" in dataset["train"].column_names else data_fingerprint(known),
    }


def describe_model(model: Any) -> dict[str, Any]:
    """What was trained: the fields of the head and the number of parameters."""
    config = model.config
    head = sum(parameter.numel() for parameter in model.classifier.parameters())
    return {
        **{name: getattr(config, name) for name in MODEL_FIELDS},
        "backbone_type": None if config.backbone_config is None else config.backbone_config.model_type,
        "parameters_head": head,
        "parameters_total": sum(parameter.numel() for parameter in model.parameters()),
    }


def describe_trainer(trainer: Any, model: Any) -> dict[str, Any]:
    """What a trainer knows of its own training, in the form of a run's `results.json`."""
    arguments, state = trainer.args, trainer.state
    measured: dict[str, float] = {}
    for entry in state.log_history:
        found = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
        measured = found or measured
    sets = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    rows = {name: len(dataset) for name, dataset in sets.items() if hasattr(dataset, "__len__")}
    unasked = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    metrics = {name: value for name, value in measured.items() if name not in unasked}
    seconds = next((entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry), None)
    labels: dict[Any, str] = model.config.id2label or {}
    return {
        "cr_hf_version": __version__,
        "data": {
            "source": "given to CRTrainer",
            "revision": None,
            "synthetic": False,
            "labels": [labels[index] for index in sorted(labels)],
            "rows": rows,
        },
        "model": describe_model(model),
        "training": {
            "seed": arguments.seed,
            "epochs": state.epoch or 0,
            "steps": state.global_step,
            "seconds_training": seconds,
        },
        "metrics": {"validation": {**metrics, "rows": rows.get("validation", 0)}} if metrics else {},
        "environment": describe_environment(arguments),
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
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
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
