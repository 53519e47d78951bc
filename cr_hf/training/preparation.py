"""What is settled before the first step: arguments, labels, class weights, the standardisation and learning rates."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..modeling import CRConfig, Standardize, feature_moments, merge_moments
from .arguments import CRTrainingArguments

logger = logging.get_logger(__name__)

LABEL_COLUMNS = ("labels", "label")
SAMPLE_WEIGHT = "sample_weight"


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
    is_sized = has_length(dataset)  # a call in the condition would narrow the type
    if not is_sized or not len(dataset):
        return None
    for name in set(LABEL_COLUMNS) & set(getattr(dataset, "column_names", None) or ()):
        return np.asarray(dataset[name][:])
    for name in LABEL_COLUMNS:
        if isinstance(dataset[0], dict) and isinstance(dataset[0].get(name), str):
            raise ValueError(f"row 0 of the training set has the label {dataset[0][name]!r}: use integers from 0")
    return None


def check_labels(labels: Any, dataset: Any, config: CRConfig) -> None:
    """Refuse labels, as `training_labels` returns them, that do not fit what the model is asked.

    Raises:
        ValueError: naming the first row that does not fit, or the field of the configuration.
    """
    if config.num_labels == 1:
        features = getattr(dataset, "features", None)  # of `FeatureDataset`, an array
        types = features if isinstance(features, dict) else {}
        is_named = any(isinstance(types.get(name), datasets.ClassLabel) for name in LABEL_COLUMNS)
        is_binary = labels is not None and labels.dtype.kind in "bui" and set(np.unique(labels)) <= {0, 1}
        if is_named or is_binary:
            raise ValueError(
                "the labels are classes, and num_labels=1 predicts a number: set num_labels to the number of classes, "
                "or give the labels as floats"
            )
    if labels is not None and config.problem_type == "single_label_classification":
        check_class_labels(labels, int(config.num_labels or 0), config.objective)


def check_class_labels(labels: Any, num_labels: int, objective: str) -> None:
    """Refuse labels, shape (rows,), that are no classes before a loss reads them.

    Raises:
        ValueError: naming the first row whose label is not an integer from 0 to num_labels - 1.
    """
    for row, label in enumerate(labels.tolist()):
        if not isinstance(label, int) or not 0 <= label < num_labels:
            kind = "ordered integers" if objective == "ordinal" else "integers"
            raise ValueError(
                f"row {row} of the training set has the label {label!r}: objective={objective!r} needs {kind} from 0 "
                f"to {num_labels - 1}"
            )


def check_token_labels(dataset: Any, num_labels: int) -> None:
    """Refuse labels of tokens that are no classes, where a column has them: on a GPU they would stop the device.

    Raises:
        ValueError: naming the first row with a label that is neither an integer from 0 to num_labels - 1 nor -100.
    """
    is_sized = has_length(dataset)
    columns = set(getattr(dataset, "column_names", None) or ()) if is_sized else set()
    for name in columns & set(LABEL_COLUMNS):
        for row, labels in enumerate(dataset[name]):
            wrong = next((label for label in labels if label != -100 and label not in range(num_labels)), None)
            if wrong is not None:
                raise ValueError(
                    f"row {row} of the training set has the label {wrong!r}: a token has an integer from 0 to "
                    f"{num_labels - 1}, or -100 for none"
                )


def normalized_class_weights(weights: Sequence[float] | str, counts: Sequence[int]) -> list[float]:
    """Class weights times one constant, so that their mean over a training set is 1.

    Args:
        weights: one per class, at least 0; `"balanced"` means the reciprocals of the counts, 0 for no row.
        counts: training rows of each class.

    Raises:
        ValueError: if the lengths differ, a weight is negative or not finite, or the mean is 0.
    """
    if isinstance(weights, str):
        weights = [0.0 if count == 0 else 1 / count for count in counts]
    if len(weights) != len(counts):
        raise ValueError(f"class_weights has {len(weights)} entries but there are {len(counts)} classes")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"class_weights={list(weights)} must be finite and 0 or above")
    total = sum(weight * count for weight, count in zip(weights, counts, strict=True))
    if not total > 0:
        raise ValueError(f"class_weights={list(weights)} give every training row the weight 0")
    return [weight * sum(counts) / total for weight in weights]


def hint_at_rate(model: nn.Module, learning_rate: float) -> None:
    """Say, where the head alone trains, that the default learning rate is one for fine-tuning."""
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trained == {"classifier"}:
        is_media = getattr(model, "pipeline_tag", "") in ("image-classification", "audio-classification")
        own = "; encode_media encodes every row once instead of every epoch" if is_media else ""
        logger.warning(
            f"learning_rate={learning_rate:g}, the default, is for fine-tuning, and the head alone trains: recipes "
            f"have 5e-4, 10 epochs of batches of 32, weight_decay 0.1 and a cosine schedule{own}"
        )


def fit_feature_norm(trainer: Trainer, model: Any) -> None:
    """Fit the standardisation, unless it is fitted, on the training rows of all processes.

    Raises:
        ValueError: if the training set gives its rows only once.
    """
    if all(module.is_fitted for module in model.modules() if isinstance(module, Standardize)):
        return
    count, mean, squares = feature_moments(_features(trainer, model))
    gathered = gather_object([(count, mean.cpu(), squares.cpu())])
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
        without = (SAMPLE_WEIGHT,) if model.label_level == "token" else (SAMPLE_WEIGHT, "labels")
        yield model.get_features(**{name: value for name, value in inputs.items() if name not in without})


def split_by_rate(
    groups: list[dict[str, Any]],
    model: nn.Module,
    head_learning_rate: float | None,
    threshold_learning_rate: float | None,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    """The groups of an optimizer of `model`, before its first step, divided so that each has one learning rate.

    The rates are fields of `CRTrainingArguments`; `None` leaves the head the groups' own, the thresholds the head's.
    """
    names = [name for name, _ in model.named_parameters()]
    factors = dict(zip(names, layer_factors(names, layer_decay), strict=True))
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    divided = []
    for group in groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            name = named[id(parameter)]
            rate = group["lr"] * factors[name]
            if head_learning_rate is not None and "classifier" in name.split("."):
                rate = head_learning_rate
            if threshold_learning_rate is not None and "thresholds" in name.split("."):
                rate = threshold_learning_rate
            by_rate.setdefault(rate, []).append(parameter)
        divided += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    return divided


def layer_factors(names: Sequence[str], layer_decay: float | None) -> list[float]:
    """What multiplies the learning rate of each parameter of a model.

    It is 1 for the last layer of the backbone and for what is outside it, `layer_decay` for the layer before, and so
    on down to the embeddings.
    """
    found = [re.search(r"(?:^|\.)backbone\..*?\.?(?:layers?|h|blocks?)\.(\d+)\.", name) for name in names]
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    factors = []
    for name, match in zip(names, found, strict=True):
        is_embedding = match is None and re.search(r"backbone\..*(embed|shared)", name) is not None
        depth = int(match[1]) + 1 if match else 0 if is_embedding else layers
        factors.append((1.0 if layer_decay is None else layer_decay) ** (layers - depth))
    return factors
