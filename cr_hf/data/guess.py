"""Which columns of a file hold texts and labels, where their names do not say: a look at its first rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .config import NUMBER, DataConfig, has_usual_names, usual_columns
from .paths import split_paths
from .table_schema import NAMELESS
from .texts import TABLE_TYPES, check_file, file_type, read_records

LOOKED_AT = 1000
LEAST_WORDS = 2.5
"""Of a column of texts, in the mean."""
MOST_CLASSES, MOST_LEVELS = 150, 20
"""Different values of a column of labels; and of numbers with a fraction, if they are classes and not amounts."""


@dataclass(frozen=True)
class Guess:
    """What the columns of a file seem to be; `None` where nothing seems to be it.

    Args:
        text_column: the column of a usual name, or else the one with the most words.
        label_column: the column of a usual name, or else the one with the fewest different values.
        feature_columns: those that hold numbers, where there is no text.
        has_gaps: whether a feature is missing in a row.
        has_header: whether the first line of a csv or tsv names the columns.
        is_amount: whether the labels are numbers and no classes.
    """

    text_column: str | None
    label_column: str | None
    feature_columns: list[str]
    has_gaps: bool
    has_header: bool
    is_amount: bool


def is_data(path: Path) -> bool:
    """Whether a path is that of rows: by its name a file of a type that is read, or a folder with a file of train."""
    return bool(_train_files(path)) if path.is_dir() else file_type(path) in TABLE_TYPES


def guess_columns(path: Path) -> Guess:
    """What the columns of a file, or of the training file of a folder, seem to be.

    Raises:
        DataError: if it is no file that is read.
    """
    if path.is_dir():
        path = next(iter(_train_files(path)), path)
    check_file(path)
    config = DataConfig()
    rows = _first_rows(path, config)
    header = list(rows[0]) if rows else []
    has_header = file_type(path) not in (".csv", ".tsv") or has_usual_names(header) or not _is_row(rows)
    if not has_header:
        rows = _first_rows(path, replace(config, has_header=False))
    names = list(rows[0]) if rows else []
    cells = {name: [str(row.get(name) if row.get(name) is not None else "").strip() for row in rows] for name in names}
    numbers = [name for name in names if any(cells[name]) and all(NUMBER.fullmatch(x) for x in cells[name] if x)]
    words = {name: sum(len(x.split()) for x in cells[name]) / len(rows) for name in names if name not in numbers}
    usual = usual_columns(list(words), "text")
    text = usual[0] if usual else max(words, key=lambda name: words[name], default=None)
    if text is not None and not usual and words[text] < LEAST_WORDS:
        text = None
    label = _label([name for name in names if name != text], cells)
    values = set(cells[label]) if label in numbers else set()
    return Guess(
        text_column=text,
        label_column=label,
        feature_columns=[] if text is not None else [n for n in numbers if n != label and not NAMELESS.fullmatch(n)],
        has_gaps=any("" in cells[name] for name in numbers),
        has_header=has_header,
        is_amount=len(values) > MOST_LEVELS and not all(float(value or 0).is_integer() for value in values),
    )


def _train_files(folder: Path) -> list[Path]:
    return split_paths(DataConfig(dir=str(folder))).get("train", [])


def _is_row(rows: list[dict[str, Any]]) -> bool:
    """Whether what was taken for names of columns is data: numbers, or a value that its column has too."""
    header = [name for name in (rows[0] if rows else {}) if name]
    stands_again = any(row.get(name) == name for name in header for row in rows)
    return bool(header) and (stands_again or all(NUMBER.fullmatch(name) for name in header))


def _first_rows(path: Path, config: DataConfig) -> list[dict[str, Any]]:
    return [record for _, record in itertools.islice(read_records(path, config), LOOKED_AT)]


def _label(names: Sequence[str], cells: dict[str, list[str]]) -> str | None:
    if usual := usual_columns(names, "label"):
        return usual[0]
    different = {name: len(set(cells[name]) - {""}) for name in names}
    few = [name for name in names if 2 <= different[name] <= min(MOST_CLASSES, max(2, len(cells[name]) // 2))]
    return min(reversed(few), key=lambda name: different[name], default=None)
