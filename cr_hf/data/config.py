"""What a recipe says of its data, and which columns play a role where it does not say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, nearest

COLUMN_NAMES = {
    "text": ["text", "sentence", "review", "content", "review_text", "comment", "body", "message", "tweet",
             "document"],
    "label": ["label", "labels", "stars", "star_rating", "rating", "sentiment", "target", "class", "category",
              "score"],
}  # fmt: skip
"""Usual names of the columns, the likeliest first."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Other ways to write `data.separator`."""


@dataclass
class DataConfig:
    """Where the rows are and how they are read. `dir` or a file, when given, is read instead of `name`.

    Args:
        name: a Hub data set, "owner/name", or "embedded" for the synthetic demo reviews.
        config_name: configuration of the Hub data set.
        revision: commit, tag or branch of the Hub data set.
        dir: folder of the files; splits not named below are found in it by file name. Also a folder that
            `Dataset.save_to_disk` wrote, or a data set as the Hub lays it out.
        train_file: one path or several, relative to `dir` if that is given, or a pattern such as "part*.csv"; so are
            the next two.
        validation_file: absent, a stratified part of train is split off.
        test_file: may be absent.
        text_column: None finds it among the usual names, in any case; columns without a header are 0, 1, ...
        text_pair_column: second text of a pair; None means single texts.
        label_column: None finds it among the usual names.
        label_names: classes in order; `labels.py` says how labels are read. None takes the names of the Hub data set,
            or else the values found in train, numbers in numerical order.
        label_start: number of the first class, 0 or 1, where labels are numbers and `label_names` names. None finds
            it from all rows.
        label_columns: for several labels a text, a column of zeros and ones for each; for regression, a column for
            each number.
        label_separator: between several labels in one cell; None means "|".
        missing_labels: "error", or "drop" to leave out rows whose label is missing: empty, nan, NA, null, None.
        validation_fraction: of train, used where there is no validation split; never taken from test.
        train_fraction: stratified part of train to keep, for runs with few labels; a larger part contains a smaller.
        max_train_samples: upper limit of rows, stratified.
        max_eval_samples: the same for validation and for test.
        unescape_ptb: turn Penn Treebank escapes (-LRB-, \\/, ``) back; None means only for SST-5.
        encoding: of text files; a UTF-8 byte order mark is accepted.
        separator: between the columns of a csv or tsv; None finds it in the first line (tsv: a tab, and quotes are
            plain characters unless it is given here).
        has_header: whether the first row of a csv or tsv names the columns. None means that it does, except for two
            columns of which one holds numbers alone.
        max_cell_characters: longest text or label that is read.
        max_rows: most rows of a split.
        max_unpacked_ratio: how many times its size a compressed file may become.
        streaming: read the rows of train as training needs them, see `streaming.py`; for fine-tuning alone.
        seed: of the validation split and of the subsets.
        feature_columns: of a table, see `tables.py`, which the next three are for too; None means every column
            with a name but the label's. A csv without a header has the columns 0, 1, 2, ...
        missing_value: what stands for a missing value, such as 0, "" or "NA"; it is replaced by the column's median
            over the training rows. None means that a missing value is an error.
        missing_columns: those in which it does; None means all feature columns.
        test_fraction: of train, put apart where there is no test split; 0 means none.

    Raises:
        DataError: if a number is out of its range, or `label_names` are fewer than two or repeat.
    """

    name: str | None = None
    config_name: str | None = None
    revision: str | None = None
    dir: str | None = None
    train_file: str | list[str] | None = None
    validation_file: str | list[str] | None = None
    test_file: str | list[str] | None = None
    text_column: str | int | None = None
    text_pair_column: str | int | None = None
    label_column: str | int | None = None
    label_names: list[str] | None = None
    label_start: int | None = None
    label_columns: list[str | int] | None = None
    label_separator: str | None = None
    missing_labels: str = "error"
    validation_fraction: float = 0.1
    train_fraction: float = 1.0
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    unescape_ptb: bool | None = None
    encoding: str = "utf-8"
    separator: str | None = None
    has_header: bool | None = None
    max_cell_characters: int = 10_000_000
    max_rows: int = 100_000_000
    max_unpacked_ratio: float = 100.0
    streaming: bool = False
    seed: int = 0
    feature_columns: list[str | int] | None = None
    missing_value: float | str | None = None
    missing_columns: list[str | int] | None = None
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        """Check what can be checked without reading."""
        if not 0 < self.validation_fraction < 1:
            raise DataError(f"data.validation_fraction={self.validation_fraction} must be between 0 and 1")
        if not 0 <= self.test_fraction < 1:
            raise DataError(f"data.test_fraction={self.test_fraction} must be 0 or above and below 1")
        if not 0 < self.train_fraction <= 1:
            raise DataError(f"data.train_fraction={self.train_fraction} must be above 0 and at most 1")
        for key in ("max_train_samples", "max_eval_samples", "max_cell_characters", "max_rows", "seed"):
            limit, least = getattr(self, key), int(key != "seed")
            if limit is not None and not (isinstance(limit, int) and limit >= least):
                raise DataError(f"data.{key}={limit} must be a whole number from {least}, or leave it out")
        for key in ("train_file", "validation_file", "test_file", "label_names"):
            for item in value if isinstance(value := getattr(self, key), list) else []:
                if isinstance(item, list | dict) or (key != "label_names" and not isinstance(item, str)):
                    raise DataError(f"data.{key}={value}: {item!r} is no text: put it in quotes")
        if self.label_names is not None:
            self.label_names = [str(name).strip() for name in self.label_names]
            if len(self.label_names) < 2 or len(set(self.label_names)) < len(self.label_names):
                raise DataError(f"data.label_names={self.label_names} must be two or more different names")
        if self.label_start not in (None, 0, 1):
            raise DataError(f"data.label_start={self.label_start} must be 0 or 1")
        if self.missing_labels not in ("error", "drop"):
            raise DataError(f"data.missing_labels={self.missing_labels!r} must be 'error' or 'drop'")
        if self.separator is not None:
            self.separator = SEPARATORS.get(self.separator, self.separator)
            if len(self.separator) != 1 or self.separator in '\r\n"':
                raise DataError(f"data.separator={self.separator!r} must be one character, or 'tab'")
        if self.label_separator == "":
            raise DataError("data.label_separator='' must be a character that labels do not have")

    @property
    def reads_files(self) -> bool:
        """Whether files are read, whatever `name` says."""
        return any((self.dir, self.train_file, self.validation_file, self.test_file))

    @property
    def is_demo(self) -> bool:
        """Whether the rows are the embedded demo reviews, which are synthetic."""
        return self.name == "embedded" and not self.reads_files


def column_name(asked: str | float) -> str:
    """A column as a recipe names it; columns of a file without a header are numbers there."""
    return str(int(asked)) if isinstance(asked, float) and asked.is_integer() else str(asked)


def as_number(cell: Any) -> float:
    """The number that a cell holds; NaN where it holds none, or one as only Python writes it, such as 1_000."""
    if isinstance(cell, bool) or (isinstance(cell, str) and ("_" in cell or not cell.isascii())):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def usual_columns(columns: Sequence[str], role: str) -> list[str]:
    """Columns that have a usual name of a role, `COLUMN_NAMES`, in any case, the likeliest first."""
    found = [column for name in COLUMN_NAMES.get(role, ()) for column in columns if _plain(column) == name]
    return sorted(found, key=lambda column: (COLUMN_NAMES[role].index(_plain(column)), column != _plain(column)))


def has_usual_names(columns: Sequence[str]) -> bool:
    """Whether any column has a usual name."""
    return any(usual_columns(columns, role) for role in COLUMN_NAMES)


def find_column(columns: Sequence[str], asked: str | float | None, role: str, place: str) -> str:
    """The column that plays a role, "text", "text_pair" or "label".

    Args:
        columns: what there is; it is listed in the refusal, if no column plays the role.
        asked: the configured name, in any case; None looks for the usual ones of the role.
        role: see above.
        place: file or data set, for the message.
    """
    if asked is None:
        found = usual_columns(columns, role)
    else:
        asked = column_name(asked)
        alike = [column for column in columns if _plain(column) == _plain(asked)]
        found = [asked] if asked in columns else alike if len(alike) == 1 else []
    if found:
        return found[0]
    missing = f"no {role} column found" if asked is None else f"no column {asked!r}{nearest(str(asked), columns)}"
    mend = f"set data.{role}_column" + (", or data.label_columns for a column a label" if role == "label" else "")
    has_cells = place.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    if has_cells and len(columns) == 1:
        mend += ", or data.separator to what stands between the columns"
    if has_cells and not has_usual_names(columns) and not all(column.isdigit() for column in columns):
        mend += ", or data.has_header=false if the first row of the file is data and no names"
    if role == "label" and asked is None and "test" in Path(place).name.lower():
        mend = "rows to predict go to cr-hf predict after training: name data.train_file and leave this file out"
    raise DataError(f"{place}: {missing} among {list(columns)[:50]}: {mend}")


class Columns(NamedTuple):
    """The columns of a source that play a role, and usual label columns that were not taken."""

    text: str
    text_pair: str | None
    labels: list[str]
    passed_over: list[str]


def find_columns(names: list[str], config: DataConfig, place: str, labelled: bool = True) -> Columns:
    """The columns of a source that play a role; `labelled` says whether labels are among them."""
    text = find_column(names, config.text_column, "text", place)
    pair = None if config.text_pair_column is None else find_column(names, config.text_pair_column, "text_pair", place)
    asked: Sequence[str | int | None] = (config.label_columns or [config.label_column]) if labelled else []
    labels = [find_column(names, name, "label", place) for name in asked]
    roles = [name for name in (text, pair, *labels) if name is not None]
    for name in roles:
        if roles.count(name) > 1:
            raise DataError(f"{place}: the column {name!r} is asked for twice: check data.text_column and the others")
    others = usual_columns(names, "label") if asked == [None] else []
    return Columns(text, pair, labels, [name for name in others if name not in roles])
