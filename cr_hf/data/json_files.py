"""Records out of JSON: an object a line, or one value over the whole file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .config import DataConfig, usual_columns
from .texts import Record, Records, read_lines

WHOLE_JSON_CHARACTERS = 500_000_000
"""Of a JSON file that is one array or object, which is read at once."""


def json_records(path: Path, config: DataConfig) -> Records:
    """Objects, one a line; or one array of objects, or one object of columns, over the whole file."""
    lines = enumerate(read_lines(path, config), 1)
    head = list(itertools.islice(((number, line) for number, line in lines if line.strip()), 2))
    whole: Any = None
    if head and (path.name.lower().removesuffix(".gz").endswith(".json") or head[0][1].lstrip()[0] == "["):
        whole = _whole_json(path, head, lines)
    if whole is not None:
        yield from ((f"row {number}", record) for number, record in enumerate(_objects(path, whole), 1))
        return
    for number, line in itertools.chain(head, lines):
        if not line.strip():
            continue
        record = _parsed(line.rstrip(), path, number)
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(record).__name__}: one object a line is needed")
        yield f"line {number}", record


def _parsed(text: str, path: Path, line: int) -> Any:
    """The value of JSON text that starts on a line."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        number = line + getattr(error, "lineno", 1) - 1
        raise DataError(f"{path}, line {number}: not JSON ({error}): one object a line is needed") from error


def _once(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError(f"a key stands twice among {[name for name, _ in pairs][:20]}")
    return record


def _whole_json(path: Path, head: list[tuple[int, str]], lines: Iterator[tuple[int, str]]) -> Any:
    """The value that a file is, or None where it holds an object a line."""
    try:
        value = json.loads(head[0][1], object_pairs_hook=_once)
    except (ValueError, RecursionError):
        size, parts = 0, []
        for _, line in itertools.chain(head, lines):
            parts.append(line)
            size += len(line)
            if size > WHOLE_JSON_CHARACTERS:
                raise DataError(f"{path}: one JSON value of this size is not read: write an object a line") from None
        return _parsed("".join(parts), path, head[0][0])
    cells = list(value.values()) if isinstance(value, dict) else []
    holds_records = any(isinstance(cell, list) and cell and isinstance(cell[0], dict) for cell in cells)
    holds_columns = bool(cells) and all(isinstance(cell, list | dict) for cell in cells)
    return value if len(head) == 1 and (isinstance(value, list) or holds_records or holds_columns) else None


def _objects(path: Path, value: Any) -> Iterator[Record]:
    """Records of an array, of an object that holds one, or of the columns as pandas writes them."""
    if isinstance(value, dict):
        lists = [cells for cells in value.values() if isinstance(cells, list)]
        arrays = [cells for cells in lists if cells and all(isinstance(cell, dict) for cell in cells)]
        if set(value) >= {"columns", "data"} and len(lists) > 1:
            wide = all(isinstance(cells, list) and len(cells) == len(value["columns"]) for cells in value["data"])
            value = [dict(zip(value["columns"], cells, strict=True)) for cells in value["data"]] if wide else value
        elif len(arrays) == 1 and not usual_columns(list(value), "text"):
            value = arrays[0]
        elif value and len(lists) == len(value) and len(set(map(len, lists))) == 1:
            value = [dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True)]
        elif value and all(isinstance(cells, dict) for cells in value.values()) and usual_columns(list(value), "text"):
            rows = dict.fromkeys(row for cells in value.values() for row in cells)
            value = [{name: cells.get(row) for name, cells in value.items()} for row in rows]
    if not isinstance(value, list):
        raise DataError(f"{path}: a JSON {type(value).__name__} that is no table: use an array of objects")
    for number, record in enumerate(value, 1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, row {number}: a JSON {type(record).__name__}: an array of objects is needed")
        yield record
