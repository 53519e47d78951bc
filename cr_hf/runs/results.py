"""What `results.json` holds: every number that a card, a table or a plot may quote."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..data import DataConfig, Understood, label_names_of, table_fingerprint
from ..files import Json

MODEL_FIELDS = (
    *("activation", "degree", "polynomial_range", "coefficient_init", "hidden_sizes", "in_features", "dropout"),
    *("pooling", "feature_layers", "feature_norm", "objective", "ordinal_loss", "soft_labels", "dreg_lambda"),
    *("dreg_mode", "freeze_backbone"),
)
NOT_METRICS = ("rows", "accuracy_interval", "robustness", "certified_accuracy", "certified_rows")
PROBE_TEXTS = (
    "A warm, funny film that earns every laugh.",
    "The room was clean, but the breakfast was cold and the staff were rude.",
    "Two hours of my life that I will never get back.",
    "It is fine: nothing wrong with it, nothing to remember either.",
)


def data_fingerprint(dataset_dict: datasets.DatasetDict) -> dict[str, str]:
    """What identifies the rows of each split, for results.

    Args:
        dataset_dict: as `load_rows` returns it.

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


def describe_data(config: DataConfig, dataset: datasets.DatasetDict) -> Json:
    """Source, labels, rows and SHA-256 of the splits. A local folder is not named: paths do not travel.

    Files that are read in place of the data set that the recipe names may be a sample of it, or something else: they
    are "local files", and what they stand for is only noted.
    """
    names = label_names_of(dataset["train"])
    # The rows of a streamed split are never all seen.
    known = datasets.DatasetDict({name: rows for name, rows in dataset.items() if isinstance(rows, datasets.Dataset)})
    understood: Understood | None = getattr(dataset, "understood", None)
    return {
        "understood": None if understood is None else dataclasses.asdict(understood),
        "title": _title(config),
        "source": config.name if not config.reads_files else "local files",
        "in_place_of": config.name if config.reads_files else None,
        "revision": None if config.reads_files else config.revision,
        "synthetic": config.is_demo,
        "labels": names,
        "rows": {name: len(rows) for name, rows in known.items()},
        "sha256": table_fingerprint(known) if "features" in dataset["train"].column_names else data_fingerprint(known),
    }


def _title(config: DataConfig) -> str | None:
    """What the training data are called: a data set, or the names of files or of their folder."""
    if not config.reads_files:
        return config.name
    files = config.train_file or config.dir or []
    return ", ".join(Path(file).name for file in ([files] if isinstance(files, str) else files)) or None


def describe_model(model: Any) -> Json:
    """What was trained: the fields of the head and the number of parameters."""
    config = model.config
    head = sum(parameter.numel() for parameter in model.classifier.parameters())
    return {
        **{name: getattr(config, name) for name in MODEL_FIELDS},
        "backbone_type": None if config.backbone_config is None else config.backbone_config.model_type,
        "parameters_head": head,
        "parameters_total": sum(parameter.numel() for parameter in model.parameters()),
    }


def text_probe(model: Any, tokenizer: PreTrainedTokenizerBase, reads_pairs: bool = False) -> Json:
    """Made-up texts and the model's logits, to see that a saved or published model still answers as it did."""
    pairs = list(PROBE_TEXTS[::-1]) if reads_pairs else None
    probe = {"texts": list(PROBE_TEXTS), "logits": model.predict_texts(PROBE_TEXTS, tokenizer, pairs).tolist()}
    return {**probe, "text_pairs": pairs} if pairs else probe


def input_probe(model: Any, batch: Mapping[str, Any]) -> Json:
    """`text_probe` of other models: shapes of one row of a batch, and the logits of made-up inputs."""
    shapes = {name: [1, *value.shape[1:]] for name, value in batch.items() if name != "labels"}
    return {"shapes": shapes, "logits": model.probe(shapes).tolist()}


def metric_table(metrics: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Metrics by split as a header and one row a metric; the accuracy is followed by its 95 % interval."""
    names = dict.fromkeys(name for values in metrics.values() for name in values if name not in NOT_METRICS)
    header = ["metric", *(f"{split} ({values['rows']:,} rows)" for split, values in metrics.items())]
    rows = [[name, *(_metric(name, values) for values in metrics.values())] for name in names]
    curves = {"certified accuracy": [values.get("certified_accuracy") for values in metrics.values()]}
    counts = [(values.get("certified_rows", values["rows"]), values["rows"]) for values in metrics.values()]
    return [header, *rows, *radius_rows(curves, counts)]


def radius_rows(
    curves: Mapping[str, Sequence[Mapping[str, float] | None]], counts: Sequence[tuple[int, int]]
) -> list[list[str]]:
    """Shares of rows by radius, a row a title; and, where a column looked at some rows alone, how many of them."""
    rows = []
    for title, columns in curves.items():
        if radii := next((" / ".join(shares) for shares in columns if shares), None):
            texts = (" / ".join(f"{share:.4f}" for share in (shares or {}).values()) for shares in columns)
            rows.append([f"{title} at {radii}", *(text or "-" for text in texts)])
    if any(some != every for some, every in counts):
        rows.append(["  of so many random rows", *(f"{some:,}" for some, _ in counts)])
    return rows


def _metric(name: str, values: Mapping[str, Any]) -> str:
    if values.get(name) is None:
        return "-"
    interval = values.get("accuracy_interval") if name == "accuracy" else None
    return f"{values[name]:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def describe_trainer(trainer: Any, model: Any) -> Json:
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
        "environment": {**describe_machine(arguments.device), "processes": arguments.world_size},
    }


def describe_machine(device: torch.device | None = None) -> Json:
    """Versions and hardware; the device is the GPU if there is one, unless it is given."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }
