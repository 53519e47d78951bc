"""Tables of numbers in, features out: csv and tsv, npz with x and y, and the IDX files of MNIST.

What a model was trained on is its `TableSchema`: the columns and, where values were missing, the medians of the
training rows. It is saved with the run, so that later rows are read and completed in the same way.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .config import DataConfig, as_number, column_name, find_column, usual_columns
from .label_cells import LARGEST, SINGLE, key_of, read_label
from .labels import Classes, Seen, find_classes
from .parts import split_off, subset
from .paths import SPLIT_WORDS, split_paths, wanted_splits
from .splits import RowSplits, count_rows
from .table_schema import NAMELESS, TableSchema, column_positions, read_header, schema_of_columns
from .texts import check_exists, check_file, file_type
from .understood import Understood

COUNTED_ROWS = 10
"""So many rows that are numbered are no chance."""
IDX_NAME, IDX_LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"


class _Table(NamedTuple):
    """A file as it was read: cells of a csv are still text, arrays are numbers already."""

    path: Path
    columns: list[str]
    rows: Any
    lines: Sequence[int]
    labels: NDArray[Any] | None
    shape: tuple[int, ...] = ()

    def place(self, row: int) -> str:
        return f"{self.path}, {'line' if self.labels is None else 'row'} {self.lines[row]}"

    def written_labels(self, schema: TableSchema, config: DataConfig, seen: Seen) -> list[str]:
        """The labels as they are written, shape (rows,), also counted in `seen`."""
        if self.labels is not None:
            cells = (self.labels.astype(str) if self.labels.dtype.kind == "f" else self.labels).tolist()
        else:
            position = self.columns.index(find_column(self.columns, schema.label_column, "label", str(self.path)))
            cells = [row[position] for row in self.rows]
        found: list[str] = []
        for index, cell in enumerate(cells):
            place = partial(self.place, index)
            label: Any = read_label(cell, [], config, SINGLE, config.label_names, place)
            if label is None:
                raise DataError(f"{place()}: the label is missing: data.missing_labels is for texts, remove the row")
            seen.add(label, place)
            found += label
        return found


def load_tables(
    config: DataConfig,
    splits: Sequence[str] | None = None,
    schema: TableSchema | None = None,
    are_images: bool = False,
) -> RowSplits:
    """Read and check tables, split them, and replace missing values.

    Args:
        config: where the files are, and what their columns mean.
        splits: those to return; None means train, validation and, where there is one, test.
        schema: of a trained model; None takes it from the training rows in use, the only ones medians are taken of.
        are_images: the rows are images, which a backbone is to read; a trained model's schema says so itself.

    Returns:
        Splits with the columns `features`, (in_features,) float32, and `label`, a `ClassLabel`. `schema_of` tells the
        schema.

    Raises:
        DataError: naming the file, the line or row, the column and the mend.
    """
    paths: dict[str, Any] = dict(split_paths(config))
    available = {**paths, "test": []} if config.test_fraction and "train" in paths else paths
    if not paths:
        raise DataError("no table: set data.train_file, and data.dir if that is in another folder")
    wanted = wanted_splits(splits, available, config)
    # The classes and the parts that are split off come from train, whatever is wanted.
    needs_train = schema is None or config.label_names is None or not set(wanted) <= set(paths)
    needed = {*wanted, "train"} if needs_train else set(wanted)
    read = [split for split in SPLIT_WORDS if split in paths and split in needed]
    features: dict[str, NDArray[np.float32]] = {}
    labels: dict[str, list[str]] = {}
    seen: dict[str, Seen] = {}
    base, column_notes = schema, list[str]()
    for split in read:
        seen[split], labels[split], parts = Seen(), [], []
        for path in paths[split]:
            table = _read_table(path, split, config)
            is_first = base is None
            base = base or _schema_of(table, config, are_images)
            parts.append(_numbers(table, base, config, schema is not None))
            column_notes += _column_notes(table, base, parts[0]) if is_first and table.labels is None else []
            labels[split] += table.written_labels(base, config, seen[split])
        features[split] = np.concatenate(parts)
    assert base is not None
    if "train" in seen and len(set(map(key_of, seen["train"].counts))) < 2:
        place = " + ".join(map(str, paths["train"]))
        raise DataError(f"{place}: every row of train has the label {labels['train'][0]!r}: two classes are needed")
    classes, notes = find_classes(seen, config.label_names, config.label_start)
    notes += [*column_notes, *_shared(features, paths)]
    built = {split: _with_classes(features[split], labels[split], classes, split) for split in read}
    built = _all_splits(built, {*available, "validation"} - paths.keys(), config, paths)
    if schema is None:
        base = _with_medians(base, table_features(built["train"]), config)
    found = RowSplits({split: _complete(built[split], base) for split in wanted})
    found.understood = Understood(label_columns=[base.label_column or "y"], notes=notes)
    count_rows(found, classes, found.understood, [str(path) for part in paths.values() for path in part])
    return found


def _all_splits(
    built: dict[str, datasets.Dataset], lacking: set[str], config: DataConfig, paths: dict[str, Any]
) -> dict[str, datasets.Dataset]:
    """Splits that have no file of their own are taken from train; and of each what the configuration asks for."""
    for split, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if split in lacking and "train" in built:
            built["train"], built[split] = split_off(built["train"], fraction, config.seed, str(paths["train"][0]))
    return {split: subset(split, rows, config) for split, rows in built.items()}


def _schema_of(table: _Table, config: DataConfig, are_images: bool) -> TableSchema:
    schema = schema_of_columns(table.columns, table.path, config, has_labels=table.labels is None)
    return dataclasses.replace(schema, shape=list(table.shape)) if are_images else schema


def _column_notes(table: _Table, schema: TableSchema, features: NDArray[np.float32]) -> list[str]:
    """Notes on columns that are no features, and on features that a user may not have meant to be some."""
    left = [name for name in table.columns if name not in (*schema.columns, schema.label_column)]
    labels = [name for name in usual_columns(schema.columns, "label") if not name.isdigit()]
    counts = [
        name
        for name, column in zip(schema.columns, features.T, strict=True)
        if len(column) >= COUNTED_ROWS and (np.diff(column) == 1).all()
    ]
    notes = [f"columns without a name are left out: {left}"] if any(map(NAMELESS.fullmatch, left)) else []
    notes += [f"labels are read from {schema.label_column!r}, and {labels} are features"] if labels else []
    notes += [f"the columns {counts} count the rows, and are features"] if counts else []
    return [f"{table.path}: {note}: see data.feature_columns" for note in notes]


def _shared(features: dict[str, NDArray[np.float32]], paths: dict[str, list[Path]]) -> list[str]:
    """Notes on rows that stand in train and in another split."""
    train = {hash(row.tobytes()) for row in features.get("train", ())}
    counts = {split: sum(hash(row.tobytes()) in train for row in rows) for split, rows in features.items()}
    return [
        f"{' + '.join(map(str, paths[split]))}: {count} rows of {split} also stand in train"
        for split, count in counts.items()
        if count and split != "train"
    ]


def _read_table(path: Path, split: str, config: DataConfig, labelled: bool = True) -> _Table:
    """One file: a csv, tsv, npz or IDX file. Of an npz the arrays of the split: `x_train`, say, or `x` where there is
    only one. Without `labelled` rows may have labels or not.
    """
    if file_type(path) in (".csv", ".tsv"):
        check_file(path)
        columns, rows = read_header(path, config)
        numbered = list(rows)
        table = _Table(path, columns, [cells for _, cells in numbered], [number for number, _ in numbered], None)
    else:
        table = _read_arrays(path, split, labelled)
    if not len(table.rows):
        raise DataError(f"{path}: no rows: check the file")
    return table


def read_rows(path: Path, config: DataConfig, schema: TableSchema) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
    """Rows of a file to predict; a label column may be there or not.

    Returns:
        Features, shape (rows, in_features), and each row's cells by column; no cells of arrays, which have no names.

    Raises:
        DataError: naming the file, the line or row, the column and the mend.
    """
    table = _read_table(path, "test", config, labelled=False)
    names = table.columns if table.labels is None else []
    records = [dict(zip(names, cells, strict=False)) for cells in table.rows]
    return _impute(_numbers(table, schema, config, is_trained=True), schema), records


def table_features(rows: datasets.Dataset) -> NDArray[np.float32]:
    """Features of a split that `load_tables` returned, shape (rows, in_features)."""
    values = rows.with_format("arrow")[:]["features"].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(len(rows), -1)


def table_fingerprint(dataset: datasets.DatasetDict) -> dict[str, str]:
    """SHA-256 by split, over features and labels in their order."""
    return {
        split: hashlib.sha256(
            table_features(rows).tobytes() + np.asarray(rows["label"][:], np.int64).tobytes()
        ).hexdigest()
        for split, rows in dataset.items()
    }


def schema_of(rows: datasets.Dataset) -> TableSchema:
    """The schema by which `load_tables` made these rows."""
    return TableSchema(**json.loads(rows.info.description))


def _read_arrays(path: Path, split: str, labelled: bool) -> _Table:
    """Arrays of an npz (x and y, or x_train and y_train, ...), or an IDX file of images and the labels beside it."""
    check_exists(path)
    try:
        if file_type(path) == ".npz":
            x, y = _npz_arrays(path, split, labelled)
        elif IDX_NAME in path.name:
            x = read_idx(path)
            y = read_idx(path.with_name(path.name.replace(IDX_NAME, IDX_LABELS))) if labelled else None
        else:
            raise DataError(f"{path}: no table: use .csv, .tsv, .npz or a file named like train{IDX_NAME}.gz")
    except (OSError, ValueError, TypeError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}): check the file") from error
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(f"{path}: x is {x.dtype} of shape {x.shape}: numbers of shape (rows, ...) are needed")
    if not x.size:
        raise DataError(f"{path}: x has the shape {x.shape}, and no numbers: check the file")
    labels = np.zeros(len(x)) if y is None else y
    if labels.dtype.kind == "c":
        raise DataError(f"{path}: labels are complex numbers: give whole numbers or names")
    if labels.shape != (len(x),):
        raise DataError(f"{path}: labels of shape {labels.shape} for {len(x)} rows: give one a row")
    flat = x.reshape(len(x), -1)
    columns = [str(index) for index in range(flat.shape[1])]
    return _Table(path, columns, flat, range(1, len(x) + 1), labels, x.shape[1:])


def _npz_arrays(path: Path, split: str, labelled: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    with np.load(path, allow_pickle=False) as arrays:
        suffix = next((f"_{word}" for word in SPLIT_WORDS[split] if f"x_{word}" in arrays), "")
        for name in ("x", "y")[: 1 + labelled]:
            if name + suffix not in arrays:
                raise DataError(f"{path}: no array {name + suffix!r} among {sorted(arrays)}: call them x and y")
        return arrays[f"x{suffix}"], arrays[f"y{suffix}"] if labelled else None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Unsigned bytes in the IDX format: magic number 0, 0, 8, dimensions; sizes, big-endian; the bytes."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    dimensions = content[3] if len(content) > 4 else 0
    if content[:3] != b"\0\0\x08" or not dimensions:
        raise ValueError(f"{path.name} is no IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _numbers(table: _Table, schema: TableSchema, config: DataConfig, is_trained: bool) -> NDArray[np.float32]:
    """The features as float32; NaN where a value is missing, which only `missing_columns` may be, and to a trained
    model only those that have a median.
    """
    if schema.shape:
        _check_images(table, schema.shape)
    positions = column_positions(table.columns, schema, table.path)
    may_miss = [name in map(column_name, config.missing_columns or schema.columns) for name in schema.columns]
    text = None if config.missing_value is None else str(config.missing_value).lower()
    number = as_number(text or "")
    if table.labels is not None:
        values = table.rows[:, positions]
        missing = np.isnan(values) if text == "nan" and values.dtype.kind == "f" else values == number
    else:
        cells = [[cells[position].strip() for position in positions] for cells in table.rows]
        values = np.array([[as_number(cell) for cell in row] for row in cells])
        missing = (values == number) | np.array([[cell.lower() == text for cell in row] for row in cells])
    missing &= np.array(may_miss)
    bad = ~(np.abs(values) <= LARGEST) & ~missing if values.dtype.kind == "f" else np.zeros((0, 0), bool)
    without_median = missing & np.array([is_trained and name not in schema.medians for name in schema.columns])
    for row, column in np.argwhere(without_median)[:1]:
        place = f"{table.place(row)}, column {schema.columns[column]!r}"
        raise DataError(
            f"{place}: a value is missing, and training knew of no missing ones: fill it in, or train anew"
        )
    for row, column in np.argwhere(bad)[:1]:
        value = table.rows[row][positions[column]]
        raise DataError(
            f"{table.place(row)}, column {schema.columns[column]!r}: {value!r} is not a finite number: mend it, leave "
            "the column out of data.feature_columns, or say what stands for a missing value as data.missing_value"
        )
    features = values.astype(np.float32)
    features[missing] = math.nan
    return features


def _check_images(table: _Table, shape: list[int]) -> None:
    """Refuse rows that are no images, or of another shape than those a model was trained on."""
    kind = getattr(table.rows, "dtype", "text")
    if kind != np.uint8 or len(table.shape) not in (2, 3) or table.shape[2:] not in ((), (1,), (3,), (4,)):
        raise DataError(
            f"{table.path}: rows are {kind} of shape {table.shape}: images are bytes (uint8) of shape (height, width) "
            "or (height, width, 3)"
        )
    if list(table.shape) != shape:
        raise DataError(f"{table.path}: images have the shape {table.shape}, those of training {tuple(shape)}")


def _with_classes(rows: NDArray[np.float32], labels: list[str], classes: Classes, split: str) -> datasets.Dataset:
    numbers = datasets.Sequence(datasets.Value("float32"), length=rows.shape[1])
    kinds = datasets.Features({"features": numbers, "label": datasets.ClassLabel(names=classes.names)})
    columns = {"features": rows, "label": [classes.id_of(label, str, split) for label in labels]}
    return datasets.Dataset.from_dict(columns, features=kinds)


def _with_medians(schema: TableSchema, features: NDArray[np.float32], config: DataConfig) -> TableSchema:
    """The schema with the medians of the training rows, for the columns whose values may be missing."""
    if config.missing_value is None:
        return schema
    columns = [column_name(name) for name in config.missing_columns or schema.columns]
    values = {name: features[:, schema.columns.index(name)] for name in columns}
    for name, column in values.items():
        if np.isnan(column).all():
            raise DataError(f"column {name!r} has no value in train: leave it out of data.feature_columns")
    return dataclasses.replace(schema, medians={name: float(np.nanmedian(values[name])) for name in columns})


def _impute(features: NDArray[np.float32], schema: TableSchema) -> NDArray[np.float32]:
    fill = np.array([schema.medians.get(name, math.nan) for name in schema.columns], np.float32)
    return np.where(np.isnan(features), fill, features)


def _complete(rows: datasets.Dataset, schema: TableSchema) -> datasets.Dataset:
    """The rows without missing values, and with their schema."""
    columns = {"features": _impute(table_features(rows), schema), "label": rows["label"][:]}
    complete = datasets.Dataset.from_dict(columns, features=rows.features)
    complete.info.description = json.dumps(dataclasses.asdict(schema))
    return complete
