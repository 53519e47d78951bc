"""Rows whose labels are not one class each: numbers for regression, sets of classes for multi-label classification."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np

from ..errors import DataError, RecipeError, nearest
from . import texts as text_files
from .splits import DataConfig, load_data, sources_of, wanted_splits

SEPARATOR = "|"
"""Between the classes of a row in a csv or tsv; json lines and parquet hold lists."""


def load_rows(
    config: DataConfig, problem_type: str = "single_label_classification", splits: Sequence[str] | None = None
) -> datasets.DatasetDict:
    """Rows for any problem type.

    Args:
        config: where the rows are. For regression the label column holds a number or a list of numbers; for
            multi-label classification a list of class names, or names with "|" between them, or a list of zeros and
            ones in the order of `label_names`. `train_fraction` and the limits keep the first rows.
        problem_type: of the model.
        splits: as `load_data` takes them.

    Returns:
        As `load_data`, but `label` is a list of floats, shape (num_labels,), for the two other problem types.

    Raises:
        DataError: naming the file or data set, the line or row, and the mend.
    """
    if problem_type == "single_label_classification":
        return load_data(config, splits)
    sources = sources_of(config)
    wanted = wanted_splits(splits, sources, config)
    names = None
    if problem_type == "multi_label_classification":
        names = config.label_names or _class_names(sources, config)
    read = sorted({split if split in sources else "train" for split in wanted} | ({"train"} & set(sources)))
    built = {split: _build(split, sources[split], config, names) for split in read}
    if "validation" not in built and "validation" in wanted:
        order = np.random.default_rng(config.seed).permutation(len(built["train"]))
        size = max(1, round(config.validation_fraction * len(order)))
        if size == len(order):
            raise DataError(f"{sources['train'][0].name}: 1 row of train cannot be split: set data.validation_file")
        built["validation"] = built["train"].select(np.sort(order[:size]))
        built["train"] = built["train"].select(np.sort(order[size:]))
    return datasets.DatasetDict({split: _limited(split, built[split], config) for split in wanted})


def refuse_unordered(config: DataConfig, names: Sequence[str]) -> None:
    """Refuse classes whose order was only guessed, before an ordinal objective takes it for the truth.

    Args:
        config: of the data; the order is known if `label_names` says it, or a Hub data set.
        names: of the classes.

    Raises:
        RecipeError: if the order is not known and the names are not whole numbers.
    """
    is_guess = config.label_names is None and (config.reads_files or config.name is None)
    if is_guess and not all(name.lstrip("+-").isdigit() for name in names):
        raise RecipeError(
            f"objective='ordinal' needs ordered integers as labels, found {list(names)[:8]}: list the classes from "
            "lowest to highest as data.label_names"
        )


def _records(sources: Sequence[Any], config: DataConfig) -> Iterator[tuple[str, dict[str, str], Any]]:
    """Place, texts and label of each row; rows without a text are left out."""
    for source in sources:
        columns: dict[str, str] = {}
        for number, record in source.records():
            if not columns:
                asked = {"text": config.text_column, "label": config.label_column}
                if config.text_pair_column:
                    asked["text_pair"] = config.text_pair_column
                columns = {
                    role: text_files.find_column(list(record), name, role, source.name) for role, name in asked.items()
                }
            place = source.place(number)
            texts = {
                role: text_files.text_value(record.get(columns[role]), source.unescape, str(place).__str__)
                for role in columns
                if role != "label"
            }
            if texts["text"].strip():
                yield place, texts, record.get(columns["label"])


def _classes(label: Any, place: str) -> list[Any]:
    """The classes of a row as they are written; an empty label is no class."""
    if isinstance(label, str):
        return [part.strip() for part in label.split(SEPARATOR) if part.strip()]
    if label is None:
        return []
    if not isinstance(label, list | tuple | np.ndarray):
        raise DataError(f"{place}: the label {label!r} is no list of classes: use a list, or names with '|' between")
    return list(label)


def _class_names(sources: dict[str, list[Any]], config: DataConfig) -> list[str]:
    found: set[str] = set()
    for place, _, label in _records(sources.get("train") or next(iter(sources.values())), config):
        classes = _classes(label, place)
        if not all(isinstance(name, str) for name in classes):
            raise DataError(f"{place}: the classes {classes[:8]} are numbers: give their names as data.label_names")
        found.update(classes)
    if len(found) < 1:
        raise DataError("no row of train has a class: check data.label_column")
    return sorted(found)


def _target(label: Any, names: list[str] | None, width: int | None, place: str) -> list[float]:
    if names is None:
        values = label if isinstance(label, list | tuple | np.ndarray) else [label]
        numbers = [_number(value, place) for value in values]
        if width is not None and len(numbers) != width:
            raise DataError(f"{place}: {len(numbers)} targets instead of {width}: every row needs as many")
        return numbers
    classes = _classes(label, place)
    if len(classes) == len(names) and all(isinstance(value, int | float) and value in (0, 1) for value in classes):
        return [float(value) for value in classes]
    for name in classes:
        if name not in names:
            hint = nearest(str(name), names)
            raise DataError(f"{place}: class {name!r} is not one of {names[:20]}{hint}: mend the row or label_names")
    return [float(name in classes) for name in names]


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: the label {value!r} is not a finite number: mend the row, or check problem_type")
    return number


def _build(split: str, sources: Sequence[Any], config: DataConfig, names: list[str] | None) -> datasets.Dataset:
    """The rows as memory-mapped Arrow. All are read first: the first bad one is an error, and they name the cache."""
    digest, width, rows = hashlib.sha256(json.dumps([split, names]).encode()), None, 0
    for place, texts, label in _records(sources, config):
        target = _target(label, names, width, place)
        width, rows = len(target), rows + 1
        digest.update(json.dumps([texts, target]).encode())
    if width is None:
        raise DataError(f"{' + '.join(source.name for source in sources)}: no row of {split} has a text")
    features = datasets.Features({role: datasets.Value("string") for role in ("text", "text_pair")[: 1 + bool(
        config.text_pair_column)]})  # fmt: skip
    features["label"] = datasets.Sequence(datasets.Value("float32"), length=width)

    def generate() -> Iterator[dict[str, Any]]:
        for place, texts, label in _records(sources, config):
            yield {**texts, "label": _target(label, names, width, place)}

    found = datasets.Dataset.from_generator(generate, features, fingerprint=digest.hexdigest()[:32])
    found.info.description = json.dumps(names)
    return found


def label_names_of(rows: datasets.Dataset) -> list[str] | None:
    """Class names of a split that `load_rows` returned; `None` for regression."""
    label = rows.features["label"]
    if isinstance(label, datasets.ClassLabel):
        return list(label.names)
    names: list[str] | None = json.loads(rows.info.description)
    return names


def _limited(split: str, rows: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    limit = config.max_train_samples if split == "train" else config.max_eval_samples
    fraction = config.train_fraction if split == "train" else 1.0
    return rows.select(range(min(limit or len(rows), max(1, round(fraction * len(rows))))))
