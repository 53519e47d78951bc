"""Records out of text files: tsv, csv, json lines and parquet, gzipped or not, in constant memory.

Each record comes with its line, from 1, and the first thing that cannot be read is one error that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, nearest

COLUMN_NAMES = {
    "text": (
        "text",
        "sentence",
        "review",
        "content",
        "review_text",
        "comment",
        "body",
        "message",
        "tweet",
        "document",
    ),
    "label": (
        "label",
        "labels",
        "stars",
        "star_rating",
        "rating",
        "sentiment",
        "target",
        "class",
        "category",
        "score",
    ),
}
SPLIT_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
NOT_A_SPLIT = {"phrases", "pool", "unlabeled", "unlabelled", "unsupervised"}
TABLE_TYPES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
PTB_ESCAPES = {"-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "-lcb-": "{", "-rcb-": "}"}
PTB_ESCAPES |= {"``": '"', "''": '"', "`": "'", "\\/": "/", "\\*": "*"}
PTB_PATTERN = re.compile(r"-[lr][rsc]b-|``|''|`|\\/|\\\*", re.IGNORECASE)

Records = Iterator[tuple[int, dict[str, Any]]]


def file_type(path: Path) -> str:
    """The extension without a final .gz, in lower case, with its dot."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_file(path: Path, more_types: Sequence[str] = ()) -> Path:
    """The path itself, if it is a file of a type that is read.

    Args:
        path: as the user gave it.
        more_types: extensions beside `TABLE_TYPES`.

    Raises:
        DataError: if it is missing, a folder, or of another type.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder where a file is needed: name the file, or give the folder as data.dir")
    if not path.exists():
        near = nearest(path.name, (other.name for other in path.parent.glob("*")))
        raise DataError(f"{path}: no such file{near}: check the path")
    allowed = (*more_types, *TABLE_TYPES)
    if file_type(path) not in allowed:
        raise DataError(f"{path}: files of this type are not read: use {', '.join(allowed)}, each also .gz")
    return path


def find_column(columns: Sequence[str], asked: str | int | None, role: str, place: str) -> str:
    """The column that plays a role.

    Args:
        columns: what there is.
        asked: the configured name; None looks for the usual ones of the role, `COLUMN_NAMES`, in any case.
        role: "text", "text_pair" or "label".
        place: file or data set, for the message.

    Raises:
        DataError: listing the columns, if there is none.
    """
    asked = None if asked is None else str(asked)
    if asked in columns:
        return str(asked)
    lower = {column.lower(): column for column in reversed(columns)}
    found = next((lower[name] for name in COLUMN_NAMES.get(role, ()) if name in lower), None)
    if asked is not None or found is None:
        missing = f"no column {asked!r}{nearest(asked, columns)}" if asked else f"no {role} column found"
        raise DataError(f"{place}: {missing} among {list(columns)}: set data.{role}_column")
    return found


def read_lines(path: Path, encoding: str) -> Iterator[str]:
    """Lines of a text file with their ends. Gzip is known by its first bytes, whatever the name says.

    Raises:
        DataError: at the first byte that the encoding does not have, a NUL, a damaged gzip or an unreadable file.
    """
    number = 0
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            binary: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            # Escaped instead of strict: a strict decoder fails by the chunk and cannot tell the line.
            for line in io.TextIOWrapper(binary, encoding, errors="surrogateescape", newline="\n"):
                number += 1
                _check_line(line, f"{path}, line {number}", encoding)
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, after line {number}: damaged gzip ({error}): fetch the file again") from error
    except (UnicodeError, LookupError) as error:
        raise DataError(f"{path}, after line {number}: {error}: set data.encoding to the file's own") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}): check the path and its permissions") from error


def _check_line(line: str, place: str, encoding: str) -> None:
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError as error:
            guess = "utf-16" if line[:2] in ("\udcff\udcfe", "\udcfe\udcff") else "latin-1 or cp1252"
            raise DataError(
                f"{place}: byte 0x{ord(line[error.start]) & 0xFF:02x} is not {encoding.removesuffix('-sig')}: "
                f"set data.encoding (perhaps {guess}) or save the file as UTF-8"
            ) from error
    if "\0" in line:
        raise DataError(f"{place}: a NUL byte: the file is binary or UTF-16; save it as UTF-8 or set data.encoding")


def read_cells(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a tsv (quotes are plain characters) or a csv, with the line each starts on; blank lines are skipped."""
    if file_type(path) == ".tsv":
        for number, line in enumerate(read_lines(path, encoding), 1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split("\t")
        return
    reader, start = csv.reader(read_lines(path, encoding), strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: {error}: mend its quotes, or use jsonl for longer texts") from error


def _table(path: Path, encoding: str) -> Records:
    """Records of a tsv or csv. Two columns, one of them a whole number on the first line, have no header."""
    rows = read_cells(path, encoding)
    number, header = next(rows, (0, []))
    whole = [re.fullmatch(r"\d+", cell.strip()) is not None for cell in header]
    if len(header) == 2 and any(whole):
        rows = itertools.chain([(number, header)], rows)
        header = ["label", "text"] if whole[0] else ["text", "label"]
    header = [column.strip() for column in header]
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line {number}: column names repeat: {header}: rename them")
    for number, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, line {number}: {len(cells)} columns instead of {len(header)}: mend the row")
        yield number, dict(zip(header, cells, strict=True))


def _json_lines(path: Path, encoding: str) -> Records:
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}): one object a line is needed") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: a JSON {type(record).__name__}: one object a line is needed")
        yield number, record


def _parquet(path: Path) -> Records:
    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}): write it again") from error


def read_records(path: Path, encoding: str) -> Records:
    """Records of a file, each with its line (parquet: row) from 1.

    Args:
        path: a file of one of `TABLE_TYPES`. Quotes are plain characters in tsv. A tsv or csv of two columns whose
            first line holds a whole number has no header: its columns are `label` and `text`, in the order that fits.
        encoding: of the text; a UTF-8 byte order mark is skipped.

    Yields:
        (line, record by column).

    Raises:
        DataError: at the first line that cannot be read.
    """
    if file_type(path) == ".parquet":
        return _parquet(path)
    return _table(path, encoding) if file_type(path) in (".tsv", ".csv") else _json_lines(path, encoding)


def find_split(folder: Path, split: str) -> list[Path]:
    """The file of a folder that its name declares to be a split.

    Args:
        folder: an existing folder.
        split: a key of `SPLIT_WORDS`. A name that ends in one of its words is preferred ("sst5_train.tsv"); one with
            a word of `NOT_A_SPLIT` ("sst5_train_phrases.tsv") is passed over.

    Returns:
        One path, or none.

    Raises:
        DataError: naming the files, if several could be it.
    """
    named: dict[Path, list[str]] = {}
    words = set(SPLIT_WORDS[split])
    for path in sorted(folder.iterdir()):
        stem = re.sub(r"-\d+-of-\d+$", "", path.name.lower().removesuffix(".gz").rpartition(".")[0])
        parts = re.findall("[a-z]+", stem)
        if file_type(path) in TABLE_TYPES and words & set(parts) and not NOT_A_SPLIT & set(parts):
            named[path] = parts
    found = [path for path, parts in named.items() if parts[-1] in words] or list(named)
    if len(found) > 1:
        raise DataError(f"{folder}: {[path.name for path in found]} could each be {split}: set data.{split}_file")
    return found


def text_value(value: Any, unescape: bool, place: Callable[[], str]) -> str:
    """A text, "" where there is none.

    Args:
        value: what the column holds.
        unescape: turn the escapes of the Penn Treebank back: brackets, quotes, slashes, asterisks.
        place: of the row, for the message.

    Raises:
        DataError: if it is not a string.
    """
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place()}: the text is a {type(value).__name__}, not a string: check data.text_column")
    text = value or ""
    return PTB_PATTERN.sub(lambda match: PTB_ESCAPES[match.group().lower()], text) if unescape else text


def label_value(value: Any, place: Callable[[], str]) -> str:
    """A label as a string; whole numbers lose their fraction, so that 3, 3.0 and "3" are one class.

    Args:
        value: what the column holds.
        place: of the row, for the message.

    Raises:
        DataError: if it is missing or not a single value.
    """
    if isinstance(value, list | dict):
        raise DataError(f"{place()}: the label is a {type(value).__name__}: one class a row is needed")
    label = str(value).strip()
    if value is None or label in ("", "nan"):
        raise DataError(f"{place()}: the label is missing: fill it in or remove the row")
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", label)


def label_order(label: str) -> tuple[bool, float, str]:
    """Sort key of class names: numbers by value, then words."""
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?", label) is not None
    return not is_number, float(label) if is_number else 0.0, label


def read_texts(source: str | Path | IO[str], text_column: str | None = None, encoding: str = "utf-8") -> Iterator[str]:
    """Texts to predict, one at a time, in constant memory.

    Args:
        source: a .txt file (one text a line), a file of one of `TABLE_TYPES`, or an open handle (one text a line).
        text_column: of a table; None finds it among the usual names.
        encoding: of a file.

    Yields:
        One text a row, an empty one too, so that predictions line up with the input.

    Raises:
        DataError: if it cannot be read, has no text column, or a text is not a string.
    """
    if not isinstance(source, str | Path):
        try:
            for number, line in enumerate(source, 1):
                _check_line(line, f"standard input, line {number}", encoding)
                yield line.rstrip("\r\n")
        except UnicodeError as error:
            raise DataError(f"standard input: {error}: send it as {encoding}") from error
        return
    path = check_file(Path(source).expanduser(), (".txt",))
    if file_type(path) == ".txt":
        yield from (line.rstrip("\r\n") for line in read_lines(path, encoding))
        return
    column = ""
    for number, record in read_records(path, encoding):
        column = column or find_column(list(record), text_column, "text", str(path))
        yield text_value(record.get(column), False, partial("{}, line {}".format, path, number))
