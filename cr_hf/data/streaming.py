"""Training rows that are read as they are needed, for data sets larger than a disk."""

from __future__ import annotations

import dataclasses
from itertools import islice

import datasets

from ..errors import DataError
from .config import DataConfig
from .label_cells import NUMBERS, SINGLE
from .sources import sources_of
from .splits import RowCodec, RowSplits, known_names, load_sources, scan_rows, settle, understand

SHUFFLE_BUFFER = 10_000
"""Rows held in memory, among which the next one is drawn; as many are looked at for what labels mean."""
VALIDATION_ROWS = 2_000


def load_streamed(config: DataConfig, problem_type: str = SINGLE) -> RowSplits:
    """Splits whose train is streamed; the others are loaded as `load_rows` does.

    Args:
        config: with `streaming`. Classes that the type of the label column does not name need `label_names`. Without a
            validation split the first `max_eval_samples` (2,000 by default) rows of train are held out for it.
        problem_type: of the model.

    Returns:
        `train`, a `datasets.IterableDataset`, `validation` and, where there is one, `test`, with the columns of
        `load_rows`.

    Raises:
        DataError: naming the file or data set and the mend; for a row of train, when it is reached.
    """
    if config.train_fraction != 1.0 or config.max_train_samples is not None:
        raise DataError("data.streaming reads all rows of train: leave out train_fraction and max_train_samples")
    sources = sources_of(config, streaming=True)
    if "train" not in sources:
        raise DataError(f"{config.name or 'the files given'}: no train split found: set data.train_file")
    names = known_names(config, problem_type, sources)
    if names is None and problem_type != NUMBERS:
        raise DataError("data.streaming does not read train before training: list the classes as data.label_names")
    codec = RowCodec(config, problem_type, names)
    # What labels mean is decided by the first rows of train and all others; a later row that does not fit is an error.
    scans = {"train": scan_rows("train", sources["train"], codec, SHUFFLE_BUFFER)}
    held = {split: found for split, found in sources.items() if split != "train"}
    scans |= {split: scan_rows(split, found, codec) for split, found in held.items()}
    codec, notes = settle(codec, scans)
    rows = datasets.IterableDataset.from_generator(
        codec.examples, codec.features(), gen_kwargs={"split": "train", "sources": sources["train"]}
    )
    codec.describe(rows.info)
    start = None if codec.classes is None else codec.classes.start
    settled = dataclasses.replace(config, label_start=start, label_names=config.label_names or names, streaming=False)
    found = RowSplits(load_sources(settled, problem_type, list(held), held)) if held else RowSplits()
    if "validation" not in found:
        size = config.max_eval_samples or VALIDATION_ROWS
        first = list(islice(iter(rows), size))
        if len(first) < size:
            raise DataError(f"train has only {len(first)} rows: leave out data.streaming, or lower max_eval_samples")
        found["validation"] = datasets.Dataset.from_list(first, features=rows.features)
        codec.describe(found["validation"].info)
        rows = rows.skip(size)
    splits = {"train": rows.shuffle(seed=config.seed, buffer_size=SHUFFLE_BUFFER), **found}
    result = RowSplits(splits)
    result.understood = understand(result, scans, codec, notes, sources)
    return result
