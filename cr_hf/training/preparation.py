"""What has to be settled before the first step: arguments, labels, weights of classes and the standardisation."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length

from ..modeling import CRConfig, Standardize, feature_moments, merge_moments
from .arguments import CRTrainingArguments
from .class_labels import check_class_labels, normalized_class_weights

LABEL_COLUMNS = ("labels", "label")


def with_dreg(args: TrainingArguments) -> CRTrainingArguments:
    """The same arguments as `CRTrainingArguments`, whose own fields and changed defaults apply."""
    own = set(vars(CRTrainingArguments)["__annotations__"])
    fields = [item.name for item in dataclasses.fields(args) if item.init and item.name not in own]
    return CRTrainingArguments(**{name: getattr(args, name) for name in fields})


def training_labels(dataset: Any) -> Any:
    """All labels, where they can be had without reading the rows, else `None`.

    Raises:
        ValueError: if the first label is text.
    """
    if hasattr(dataset, "labels"):
        return np.asarray(dataset.labels)
    is_sized = has_length(dataset)
    if not is_sized or not len(dataset):
        return None
    for name in set(LABEL_COLUMNS) & set(getattr(dataset, "column_names", None) or ()):
        return np.asarray(dataset[name][:])
    for name in LABEL_COLUMNS:
        if isinstance(dataset[0], dict) and isinstance(dataset[0].get(name), str):
            raise ValueError(f"row 0 of the training set has the label {dataset[0][name]!r}: use integers from 0")
    return None


def check_labels(labels: Any, dataset: Any, config: CRConfig) -> None:
    """Refuse labels that do not fit what the model is asked.

    Args:
        labels: as `training_labels` returns them.
        dataset: the training set.
        config: of the model.

    Raises:
        ValueError: naming the first row that does not fit, or the field of the configuration.
    """
    if config.num_labels == 1:
        features = getattr(dataset, "features", None) or {}
        is_named = any(isinstance(features.get(name), datasets.ClassLabel) for name in LABEL_COLUMNS)
        is_binary = labels is not None and labels.dtype.kind in "bui" and set(np.unique(labels)) <= {0, 1}
        if is_named or is_binary:
            raise ValueError(
                "the labels are classes, and num_labels=1 predicts a number: set num_labels to the number of classes, "
                "or give the labels as floats"
            )
    if labels is not None and config.problem_type == "single_label_classification":
        check_class_labels(labels, int(config.num_labels or 0), config.objective)


def scaled_class_weights(weights: list[float] | str, labels: Any, num_labels: int) -> list[float]:
    """The weight of each class, scaled to mean 1 over the training rows.

    Raises:
        ValueError: if there are no labels to count.
    """
    if labels is None:
        raise ValueError("class_weights need a training set with a column of labels: give the weights to CRConfig")
    counted = Counter(labels.tolist())
    return normalized_class_weights(weights, [counted[label] for label in range(num_labels)])


def fit_feature_norm(trainer: Trainer, model: Any) -> None:
    """Fit the standardisation, unless it is fitted, on the training rows of all processes.

    Raises:
        ValueError: if the training set gives its rows only once.
    """
    norms = [module for module in model.modules() if isinstance(module, Standardize)]
    if not norms or all(norm.is_fitted for norm in norms):
        return
    count, mean, squares = feature_moments(_features(trainer, model))
    gathered: list[Any] = [(count, mean.cpu(), squares.cpu())]
    if trainer.args.world_size > 1:
        gathered = gather_object(gathered)
    model.set_feature_moments(*reduce(merge_moments, gathered))


@torch.no_grad()
def _features(trainer: Trainer, model: Any) -> Iterator[Tensor]:
    """Features of this process's share of the training rows, each row once; of a stream, the rows of all steps."""
    args = trainer.args
    dataset: Any = trainer.train_dataset
    model.eval()
    is_sized = has_length(dataset)
    if not is_sized and iter(dataset) is iter(dataset):
        raise ValueError(
            "feature_norm='standardize' reads the training rows once more, and this training set gives them only "
            "once: use 'layer_norm', or fit_feature_norm before training"
        )
    if not is_sized:
        batches: Any = islice(trainer.get_train_dataloader(), args.max_steps * args.gradient_accumulation_steps)
    else:
        rows = trainer._remove_unused_columns(dataset) if hasattr(dataset, "column_names") else dataset
        share: Any = Subset(rows, range(args.process_index, len(dataset), args.world_size))
        batches = DataLoader(share, args.per_device_eval_batch_size, collate_fn=trainer.data_collator)
    for batch in batches:
        inputs = trainer._prepare_inputs(batch)
        yield model.get_features(**{name: value for name, value in inputs.items() if name != "labels"})
