"""Training rows that are read as they are needed, for data sets larger than a disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import datasets

from ..errors import DataError
from . import texts as text_files
from .hub_datasets import load_hub
from .splits import DataConfig, load_data, loaded_sources, sources_of

SHUFFLE_BUFFER = 10_000
"""Rows held in memory, among which the next one is drawn."""
VALIDATION_ROWS = 2_000


def load_streamed(config: DataConfig) -> dict[str, Any]:
    """Splits whose train is streamed; the others are loaded as `load_data` does.

    Args:
        config: with `streaming`. Files need `label_names`. Without a validation split the first `max_eval_samples`
            (2,000 by default) rows of train are held out for it.

    Returns:
        `train`, a `datasets.IterableDataset` with the columns `text`, `text_pair` if one is configured, and `label`;
        `validation` and, where there is one, `test`, which are `datasets.Dataset`s.

    Raises:
        DataError: naming the file or data set and the mend; for a row of train, when it is reached.
    """
    if config.train_fraction != 1.0 or config.max_train_samples is not None:
        raise DataError("data.streaming reads all rows of train: leave out train_fraction and max_train_samples")
    rows, held = _file_rows(config) if config.reads_files else _hub_rows(config)
    label = rows.features["label"]
    named = dataclasses.replace(config, label_names=list(label.names), streaming=False)
    found: dict[str, Any] = {}
    if held:
        found = dict(load_data(named, list(held), held))
    if "validation" not in found:
        size = config.max_eval_samples or VALIDATION_ROWS
        first = list(islice(iter(rows), size))
        if len(first) < size:
            raise DataError(f"train has only {len(first)} rows: leave out data.streaming, or lower max_eval_samples")
        found["validation"] = datasets.Dataset.from_list(first, features=rows.features)
        rows = rows.skip(size)
    return {"train": rows.shuffle(seed=config.seed, buffer_size=SHUFFLE_BUFFER), **found}


def _features(names: Sequence[str], config: DataConfig) -> datasets.Features:
    texts = ("text", "text_pair") if config.text_pair_column else ("text",)
    columns: dict[str, Any] = {name: datasets.Value("string") for name in texts}
    return datasets.Features({**columns, "label": datasets.ClassLabel(names=list(names))})


def _file_rows(config: DataConfig) -> tuple[datasets.IterableDataset, dict[str, Any]]:
    if config.label_names is None:
        raise DataError("data.streaming does not read the files before training: list the classes as data.label_names")
    sources = sources_of(config)
    if "train" not in sources:
        raise DataError("no train split found: set data.train_file")
    rows = datasets.IterableDataset.from_generator(
        _read, _features(config.label_names, config), gen_kwargs={"sources": sources["train"], "config": config}
    )
    return rows, {split: files for split, files in sources.items() if split != "train"}


def _read(sources: Sequence[Any], config: DataConfig) -> Iterator[dict[str, Any]]:
    names = config.label_names or []
    ids = {name: index for index, name in enumerate(names)}
    by_index = {str(index): index for index in range(len(names))}
    for source in sources:
        columns: dict[str, str] = {}
        for number, record in source.records():
            place = source.place(number)
            asked = {"text": config.text_column, "label": config.label_column, "text_pair": config.text_pair_column}
            for role, name in asked.items() if not columns else ():
                if role != "text_pair" or name:
                    columns[role] = text_files.find_column(list(record), name, role, source.name)
            values = {role: record.get(column) for role, column in columns.items()}
            label = text_files.label_value(values.pop("label"), lambda place=place: place)  # type: ignore[misc]
            if label not in ids and label not in by_index:
                raise DataError(f"{place}: label {label!r} is not one of the classes {names[:20]}: mend the row")
            if str(values["text"] or "").strip():
                yield {**values, "label": ids.get(label, by_index.get(label))}


def _hub_rows(config: DataConfig) -> tuple[datasets.IterableDataset, dict[str, Any]]:
    """The rows of train, and the sources of the other splits: these are read whole, train is never downloaded."""
    name = str(config.name)
    loaded = load_hub(name, config.config_name, config.revision, streaming=True)
    if "train" not in loaded:
        raise DataError(f"{name}: no train split found among {list(loaded)}: choose another data.config_name")
    rows = loaded["train"]
    columns = list(rows.features or {})
    asked = {"text": config.text_column, "label": config.label_column, "text_pair": config.text_pair_column}
    chosen = {
        text_files.find_column(columns, column, role, name): role
        for role, column in asked.items()
        if role != "text_pair" or column
    }
    rows = rows.select_columns(list(chosen)).rename_columns({old: new for old, new in chosen.items() if old != new})
    label = rows.features["label"]
    names = config.label_names or (list(label.names) if isinstance(label, datasets.ClassLabel) else None)
    if names is None:
        raise DataError(f"{name} does not name its classes: list them as data.label_names")
    words = [word for split, words in text_files.SPLIT_WORDS.items() if split != "train" for word in words]
    held = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(list(loaded[split]), features=loaded[split].features)
            for split in words
            if split in loaded
        }
    )
    return rows.cast(_features(names, config)), loaded_sources(name, held, config)
