"""What a table's columns are to a model: features in their order, and the label."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, nearest
from .config import NUMBER, DataConfig, column_name, find_column
from .texts import named_cells

NAMELESS = re.compile(r"|Unnamed: \d+")
"""Columns such as the index that pandas writes; they are features only where they are asked for."""


@dataclass(frozen=True)
class TableSchema:
    """How a table becomes features.

    Args:
        columns: of the features, in their order; of a table without names "0", "1", ...
        label_column: name of the label's column; `None` where labels stand apart, as in npz and IDX.
        width: number of columns of the training table.
        medians: of the training rows, by column, for those whose missing values are replaced.
        shape: of an image whose pixels the columns are: height, width and perhaps channels; empty for a table.
    """

    columns: list[str]
    label_column: str | None
    width: int
    medians: dict[str, float] = field(default_factory=dict)
    shape: list[int] = field(default_factory=list)


def read_header(path: Path, config: DataConfig) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Columns of a csv or tsv of numbers, and its rows, each with its line."""
    # A first line without any number is the header, unless the configuration says.
    return named_cells(path, config, lambda cells: not any(map(NUMBER.fullmatch, cells)))


def schema_of_columns(columns: list[str], path: Path, config: DataConfig, has_labels: bool = True) -> TableSchema:
    """The schema of a table with these columns.

    Args:
        columns: of the file.
        path: of the file, for messages.
        config: which of them are features and label.
        has_labels: whether one of the columns is the label.

    Raises:
        DataError: naming the file and the column that is not there.
    """
    asked = None if config.label_column is None else column_name(config.label_column)
    label = find_column(columns, asked, "label", str(path)) if has_labels else None
    named = [name for name in columns if not NAMELESS.fullmatch(name)]
    features = [column_name(name) for name in config.feature_columns or named if column_name(name) != label]
    for name in features:
        if name not in columns:
            hint = nearest(name, columns)
            raise DataError(f"{path}: no column {name!r}{hint} among {columns[:20]}: set feature_columns")
    if not features:
        raise DataError(f"{path}: no column but the label's: a table needs features")
    for name in map(column_name, config.missing_columns or []):
        if name not in features:
            raise DataError(f"data.missing_columns: {name!r}{nearest(name, features)} is no feature of {path}")
    return TableSchema(features, label, len(columns))


def column_positions(columns: list[str], schema: TableSchema, path: Path) -> list[int]:
    """Where a model's features stand in a file with these columns: by name, or without names by position.

    Raises:
        DataError: naming the file and the column that is not there.
    """
    unnamed = all(name.isdigit() for name in [*schema.columns, *columns])
    if unnamed and len(columns) != schema.width:
        if len(columns) == len(schema.columns):
            return list(range(len(columns)))
        raise DataError(
            f"{path}: {len(columns)} columns, but the model reads {len(schema.columns)} features out of "
            f"{schema.width} columns: give those"
        )
    missing = [name for name in schema.columns if name not in columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r} among {columns[:20]}: the model needs it")
    return [columns.index(name) for name in schema.columns]
