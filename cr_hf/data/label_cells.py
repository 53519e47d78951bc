"""What one cell of labels says, before the column decides what its labels mean: see `labels.py`."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import DataError
from .config import NUMBER, DataConfig, as_number

SINGLE, SEVERAL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"
SEPARATOR = "|"
"""Between the classes of a row in one cell, unless `data.label_separator` says another."""
MISSING = re.compile(
    r"-?nan|n[/.]?a\.?|nat|nil|null|none|k\. ?a\.|\\n|[<(](na|null|none|blank|empty)[>)]"
    # What Stata, spreadsheets in several languages, and C write.
    r"|\.[a-z]?|#\w/\w|#n[av]|#\w+(/0)?[!?]|err:\d+|-?1\.#(qnan|ind)|",
    re.IGNORECASE,
)
"""Words for a missing label."""
LARGEST = float(np.finfo(np.float32).max)
LONGEST = 200
"""Characters of a label."""
WRAPPED = re.compile(r"(?:frozenset|set|tuple|list|array)\((.*?)(?:, dtype=[\w.]+)?\)", re.DOTALL)
LISTS = re.compile(rf"\s*(?:[\[{{(].*[\])}}]|{WRAPPED.pattern})\s*", re.DOTALL)
ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\]]+"""
Place = Callable[[], str]
Label = list[str] | list[float]
HINT = f"; for several set problem_type: {SEVERAL}"
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


# ---- one label ----


def written(value: Any, place: Place) -> str | None:
    """A label as text; None if it is missing. What is not a single value, or holds what no label may, is refused."""
    if isinstance(value, list | dict | tuple | bytes | np.ndarray):
        hint = ": decode them" if isinstance(value, bytes) else HINT
        raise DataError(f"{place()}: the label is a {type(value).__name__}: one class a row is needed{hint}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    label = str(value).strip()
    if len(label) > LONGEST:
        raise DataError(f"{place()}: a label of {len(label)} characters: check data.label_column")
    if not label.isprintable() or not label.isascii():
        bad = next((c for c in label if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI), None)
        if bad is not None:
            raise DataError(f"{place()}: the label {label!a} has the character {bad!a}: take it out")
    return label


@lru_cache(maxsize=65_536)
def key_of(label: str) -> str:
    """What labels are compared by: numbers and booleans as what they are, names as they are written."""
    if label.lower() in ("true", "false"):
        return label.lower()
    if NUMBER.fullmatch(label) is None:
        return label
    number = Decimal(label)
    text = format(number, "f")
    return "0" if not number else text.rstrip("0").rstrip(".") if "." in text else text


def is_whole(key: str) -> bool:
    """Whether a label's key is a whole number."""
    return key.lstrip("-").isdecimal() and key.isascii()


def label_order(label: str) -> tuple[bool, float, str]:
    """Sort key of class names: numbers by value, then words."""
    is_number = NUMBER.fullmatch(label) is not None
    return not is_number, float(label) if is_number else 0.0, label


# ---- one cell ----


def cell_labels(value: Any, config: DataConfig, place: Place) -> list[Any]:
    """The labels of a cell that may hold several; an empty cell holds none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    if not isinstance(value, str):
        raise DataError(f"{place()}: the label {value!r} is no list of classes: use a list, or names with '|' between")
    if LISTS.fullmatch(value) or value.lstrip().startswith("["):
        return _parse_list(value.strip(), place)
    separator = config.label_separator or SEPARATOR
    return [part.strip() for part in value.split(separator) if part.strip()]


def _parse_list(text: str, place: Place) -> list[Any]:
    """A list in a text, as JSON, Python or numpy write it."""
    wrapped = WRAPPED.fullmatch(text)
    text = wrapped[1] or "[]" if wrapped else text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        inner, gap = text[1:-1].strip().removesuffix(","), r"(?:\s*,\s*|\s+)"
        if re.fullmatch(rf"(?:(?:{ITEM})(?:{gap}(?:{ITEM}))*)?", inner) is None:
            raise DataError(f"{place()}: the label {text[:80]!r} is no list that can be read: use JSON") from None
        found = [_item(part, place) for part in re.findall(ITEM, inner)]
    if not isinstance(found, list):
        raise DataError(f"{place()}: the label {text[:80]!r} is no list: use JSON")
    return found


def _item(text: str, place: Place) -> Any:
    if text[0] in "'\"":
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            raise DataError(f"{place()}: the label {text[:80]!r} has an escape that is none: use JSON") from error
    return float(text) if NUMBER.fullmatch(text) else text


def targets_of(value: Any, place: Place) -> list[float] | None:
    """The numbers of a cell, for regression; None if they are missing."""
    if isinstance(value, str) and LISTS.fullmatch(value):
        value = _parse_list(value.strip(), place)
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if all(written(item, place) is None or MISSING.fullmatch(str(item).strip()) for item in values):
        return None
    numbers = [as_number(item) for item in values]
    for item, number in zip(values, numbers, strict=True):
        if not abs(number) <= LARGEST:
            raise DataError(
                f"{place()}: the label {item!r} is not a finite number: mend the row, or check problem_type"
            )
    return numbers


def read_label(
    value: Any,
    columns: Sequence[str],
    config: DataConfig,
    problem_type: str,
    names: Sequence[str] | None,
    place: Place,
) -> Label | None:
    """What the label of a row says: one label, several, or numbers; None if it is missing and may be dropped.

    Args:
        value: the cell, or the cells of `data.label_columns`, whose names are `columns`.
        columns: see `value`.
        config: of the data.
        problem_type: of the model.
        names: of the classes, where they are known.
        place: of the row, for messages.
    """
    if problem_type == NUMBERS:
        numbers = targets_of(value, place)
        if numbers is None:
            _check_missing(None, config, place)
        return numbers
    if problem_type == SEVERAL and config.label_columns:
        marks = {name: key_of(written(cell, place) or "") for name, cell in zip(columns, value, strict=True)}
        for name, mark in marks.items():
            if mark not in ("0", "1", "true", "false"):
                raise DataError(f"{place()}, column {name!r}: {mark!r} is neither 0 nor 1: mend the row")
        return [str(config.label_columns[i]) for i, mark in enumerate(marks.values()) if mark in ("1", "true")]
    if config.label_columns:
        raise DataError(f"data.label_columns is for problem_type: {SEVERAL} or {NUMBERS}: leave it out")
    if problem_type == SEVERAL:
        cells = cell_labels(value, config, place)
        for cell in cells:
            if isinstance(cell, list | dict | tuple):
                raise DataError(f"{place()}: {cell!r:.80} is no name of a class: give each row a list of names")
        if names is None and any(not isinstance(cell, str) for cell in cells):
            raise DataError(f"{place()}: the classes {cells[:8]} are numbers: give their names as data.label_names")
        labels = [written(cell, place) for cell in cells]
    else:
        labels = [written(value, place)]
    known = names or ()
    present = [label for label in labels if label is not None and (label in known or not MISSING.fullmatch(label))]
    if len(present) < len(labels):
        _check_missing(next(label for label in labels if label not in present), config, place)
        return None
    return present


def _check_missing(label: str | None, config: DataConfig, place: Place) -> None:
    if config.missing_labels == "error":
        what = "the label is missing" if not label else f"the label {label!r} stands for a missing one"
        raise DataError(
            f"{place()}: {what}: fill it in, remove the row, or set data.missing_labels=drop"
            + (f"; if {label!r} is a class, list it in data.label_names" if label else "")
        )
