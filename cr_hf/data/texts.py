"""Records out of files: tsv and csv, gzipped or not; the others are read in `json_files.py` and `parquet.py`.

Each record comes with its line or row, from 1, and the first thing that cannot be read is one error that names file
and line. The readers of pandas, pyarrow and `datasets` name no line, guess types from a first block and take
texts such as "NA" for missing: only parquet is left to them.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, nearest
from .config import NUMBER, DataConfig, column_name, has_usual_names, usual_columns

TABLE_TYPES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
SNIFFED_BYTES = 65_536
LOOKED_AT = 1000  # rows, where columns have no names
GZIP_RATIO = 1100
"""No gzip unpacks to more; one that says so is damaged."""
FREE_BYTES = 2**24
"""A compressed file may become this large whatever its ratio."""
OTHER_KINDS: dict[str, tuple[tuple[bytes, ...], str]] = {
    "a web page": ((b"<!doctype html", b"<html", b"<table", b"<?xml"), "fetch the file itself"),
    "a git-lfs pointer": ((b"version https://git-lfs",), "fetch the file itself (git lfs pull)"),
    "an archive or a spreadsheet": (
        (b"pk\x03\x04", b"bzh91ay&sy", b"\xfd7zxz", b"\xd0\xcf\x11\xe0"),
        "unpack it, or save it as csv",
    ),
    "parquet": ((b"par1\x15",), "name it .parquet"),
    "json": ((b'{"', b'[{"'), "name it .jsonl or .json"),
}
"""What a file may be whatever its name says: how it begins, in lower case, and what to do."""

Record = dict[str, Any]
Records = Iterator[tuple[str, Record]]
"""Where a record stands, such as "line 7", and its cells by column."""


def file_type(path: Path) -> str:
    """The extension without a final .gz, in lower case, with its dot."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_exists(path: Path) -> None:
    """Refuse what is no file."""
    if re.match(r"[a-zA-Z][\w+.-]+:/", str(path)):
        url = re.sub(":/+", "://", str(path), count=1)  # a Path keeps one slash of two
        raise DataError(f"{url}: a URL is not read: fetch the file, or name a data set of the Hub as data.name")
    if path.is_dir():
        raise DataError(f"{path}: a folder where a file is needed: name the file, or give the folder as data.dir")
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: a pipe or a device: save what it gives as a file")
    if not path.is_file():
        near = nearest(path.name, (other.name for other in path.parent.glob("*") if other.name != path.name))
        raise DataError(f"{path}: no such file{near}: check the path")


def check_file(path: Path, types: Sequence[str] = TABLE_TYPES) -> None:
    """Refuse what is no file of one of the types."""
    check_exists(path)
    if file_type(path) not in types:
        raise DataError(f"{path}: files of this type are not read: use {', '.join(types)}, each also .gz")
    with contextlib.suppress(OSError), path.open("rb") as handle:
        start = handle.read(64).lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
        for kind, (beginnings, mend) in OTHER_KINDS.items():
            if start.startswith(beginnings) and kind not in path.suffix:
                raise DataError(f"{path}: {kind} and not a {file_type(path)[1:]} file: {mend}")


# ---- lines ----


class _Unpacked(io.RawIOBase):
    """Bytes of a gzip that may not grow without end."""

    def __init__(self, raw: IO[bytes], limit: float) -> None:
        self.file, self.limit, self.count = gzip.GzipFile(fileobj=raw), limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.file.read1(len(buffer))
        self.count += len(part)
        if self.count > self.limit:
            raise OverflowError
        buffer[: len(part)] = part
        return len(part)


def read_lines(path: Path, config: DataConfig) -> Iterator[str]:
    """Lines of a text file with their ends. Gzip is known by its first bytes, whatever the name says. Refused is a
    byte that the encoding does not have, a NUL, what is too long, a damaged gzip, a file that cannot be read.
    """
    number, limit = 0, 4 * config.max_cell_characters
    try:
        encoding = "utf-8-sig" if codecs.lookup(config.encoding).name == "utf-8" else config.encoding
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            most = max(FREE_BYTES, config.max_unpacked_ratio * path.stat().st_size)
            if is_gzip:
                raw.seek(-4, 2)  # where a gzip says its size
                if most < int.from_bytes(raw.read(), "little") < GZIP_RATIO * path.stat().st_size:
                    raise OverflowError
                raw.seek(0)
            binary: Any = io.BufferedReader(_Unpacked(raw, most), SNIFFED_BYTES) if is_gzip else raw
            start = binary.peek(SNIFFED_BYTES)
            # Old spreadsheets end lines with a carriage return alone.
            end = "\r" if b"\n" not in start and start.count(b"\r") > 1 else "\n"
            # Escaped instead of strict: a strict decoder fails by the chunk and cannot tell the line.
            handle = io.TextIOWrapper(binary, encoding, errors="surrogateescape", newline=end)
            following = handle.readline(limit)
            while line := following:
                following, number = handle.readline(limit), number + 1
                place = f"{path}, line {number}"
                if len(line) >= limit:
                    raise DataError(f"{place}: more than {limit} characters: raise data.max_cell_characters")
                if not following and line.strip() and not line.strip("\0\x1a\r\n"):
                    return  # what some programs write at the end of a file
                check_line(line, place, encoding)
                yield line if end == "\n" else line.replace("\r", "\n")
    except OverflowError as error:
        raise DataError(
            f"{path}, after line {number}: unpacks to more than {config.max_unpacked_ratio:g} times its size: if that "
            "is meant, unpack it or raise data.max_unpacked_ratio"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, after line {number}: damaged gzip ({error}): fetch the file again") from error
    except (UnicodeError, LookupError) as error:
        raise DataError(f"{path}, after line {number}: {error}: set data.encoding to the file's own") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}): check the path and its permissions") from error


def check_line(line: str, place: str, encoding: str) -> None:
    """Refuse bytes that the encoding does not have, which stand in the line as surrogates, and NULs."""
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


# ---- csv and tsv ----


def _opened(path: Path, config: DataConfig) -> tuple[Iterator[str], str, int, str | None]:
    """Lines of a csv or tsv from its first row on, that row, how many lines stand above it, and the separator; None if
    the quotes of a tsv are plain characters: they are, unless its header or its user says that they are not.
    """
    lines, skipped, asked = read_lines(path, config), 0, config.separator
    is_tsv = file_type(path) == ".tsv"
    first = comment = ""
    for first in lines:
        mark = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"), re.IGNORECASE)
        if mark:
            asked = asked or mark[1]
        is_comment = first.startswith("#") and config.has_header is not False and not is_tsv
        if first.strip() and not mark and not (is_comment and not has_usual_names(_split(first, ","))):
            break
        skipped, first, comment = skipped + 1, "", first if is_comment else ""
    rows = itertools.chain([first], lines)
    if is_tsv and asked is None and not re.fullmatch(r'("[^"\t]*"\t)+"[^"\t]*"\s*', first):
        return rows, first, skipped, None
    found = "\t" if is_tsv else _separator(first)
    separator = asked or found
    names = _split(first, found)
    if separator not in first and len(names) > 1 and has_usual_names(names):
        raise DataError(f"{path}, line {skipped + 1}: no {separator!r} between {names[:20]}: data.separator={found!r}")
    names = _split(first, separator)
    are_names = has_usual_names(names) or _asked(config) & set(_names(names))
    if len(_split(comment, separator)) == len(names) > 1 and not are_names and config.has_header is None:
        raise DataError(
            f"{path}, line {skipped}: {comment.strip()[:50]!r} is as wide as the rows: remove the line if it is a "
            "comment, or set data.has_header"
        )
    return rows, first, skipped, separator


def separator_of(path: Path, config: DataConfig) -> str:
    """What stands between the columns of a csv or tsv; a comma for other files."""
    is_table = file_type(path) in (".csv", ".tsv")
    return (_opened(path, config)[3] or "\t") if is_table else ","


def read_cells(path: Path, config: DataConfig) -> Iterator[tuple[int, list[str]]]:
    """Rows of a csv or tsv, with the line each starts on; blank rows, and comments above the header, are skipped."""
    rows, first, skipped, separator = _opened(path, config)
    if separator is None:
        yield from _plain_cells(path, rows, skipped)
        return
    skips_space = re.search(re.escape(separator) + r' +"', first) is not None
    csv.field_size_limit(max(csv.field_size_limit(), config.max_cell_characters))
    reader = csv.reader(rows, delimiter=separator, strict=True, skipinitialspace=skips_space)
    start, width = 1, 0
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells) or width == len(cells) == 1:
                width = width or len(cells)
                yield start + skipped, cells
            start = reader.line_num + 1
    except csv.Error as error:
        mend = "mend its quotes, or use jsonl or data.separator"
        mend = "raise data.max_cell_characters" if "limit" in str(error) else mend
        mend = "give all lines the same end, or put the cell in quotes" if "new-line" in str(error) else mend
        raise DataError(f"{path}, line {start + skipped}: {error}: {mend} (quotes in a cell are doubled)") from error


def _plain_cells(path: Path, lines: Iterator[str], skipped: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, 1 + skipped):
        cells = line.rstrip("\r\n").split("\t")
        if any('""' in cell and re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in cells):
            raise DataError(f"{path}, line {number}: a quoted cell: set data.separator=tab to read quotes as csv does")
        if any(cell.strip() for cell in cells):
            yield number, cells


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _separator(line: str) -> str:
    """The one that finds usual names in the first line, or else the only one that stands there."""
    found = {mark: _split(line, mark) for mark in ",;\t|"}
    named = [mark for mark, columns in found.items() if len(columns) > 1 and has_usual_names(columns)]
    present = [mark for mark, columns in found.items() if len(columns) > 1]
    return named[0] if named else present[0] if len(present) == 1 else ","


def _is_header(first: list[str]) -> bool:
    """Whether the first row of texts names columns: two columns of which one is a number do not."""
    return has_usual_names(first) or len(first) != 2 or not any(NUMBER.fullmatch(cell.strip()) for cell in first)


def named_cells(
    path: Path, config: DataConfig, is_header: Callable[[list[str]], bool]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Columns of a csv or tsv and its rows, each with its line and as many cells as there are columns.

    `is_header` says whether the first row names the columns, where the configuration does not; columns without names
    are called 0, 1, ...
    """
    rows = read_cells(path, config)
    number, first = next(rows, (0, []))
    header = _names(first)
    has_header = config.has_header
    asked = _asked(config)
    if has_header is None:
        has_header = bool(asked & set(header) and not all(name.isdigit() for name in asked)) or is_header(header)
    if config.has_header is False and usual_columns(header, "text") and usual_columns(header, "label"):
        raise DataError(f"{path}, line {number}: {header[:20]} looks like names of columns: set data.has_header=true")
    if not has_header and header:
        header, rows = list(map(str, range(len(header)))), itertools.chain([(number, first)], rows)
    while header and not header[-1]:
        header.pop()  # spreadsheets write commas after the last column
    unnamed = header.count("") > 1
    header = [name or f"Unnamed: {index}" if unnamed else name for index, name in enumerate(header)]
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line {number}: column names repeat: {header[:50]}: rename them")
    return header, _even(path, rows, header)


def _names(cells: list[str]) -> list[str]:
    """The cells of a header without what is not seen of them."""
    return [cell.strip().strip("\ufeff\u200b").strip() for cell in cells]


def _asked(config: DataConfig) -> set[str]:
    """The columns that the configuration names."""
    return {column_name(name) for name in (config.text_column, config.label_column) if name is not None}


def _even(path: Path, rows: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[tuple[int, list[str]]]:
    width = len(header)
    for number, cells in rows:
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) != width:
            mend = "mend the row"
            if has_usual_names(cells):
                mend = "remove what stands above the names of the columns"
            elif len(cells) > width:
                mend += ", put cells that hold a separator in quotes, or name every column in the first line"
            raise DataError(f"{path}, line {number}: {len(cells)} columns instead of {width}: {mend}")
        is_rule = cells[0][:1] in "-: " and not (joined := "".join(cells)).strip("-: ") and joined.count("-") > 3
        if width > 1 and (_names(cells) == header or is_rule):
            what = "a rule of dashes, as Markdown has" if is_rule else "the names of the columns again"
            mend = "remove the line" + ", or set data.has_header=true" * cells[0].isdigit()
            raise DataError(f"{path}, line {number}: {what}: {mend}")
        yield number, cells


# ---- records ----


def _table(path: Path, config: DataConfig) -> Records:
    header, rows = named_cells(path, config, _is_header)
    if header == ["0", "1"] and not any(name.isdigit() for name in _asked(config)):
        looked_at = list(itertools.islice(rows, LOOKED_AT))
        rows = itertools.chain(looked_at, rows)
        columns = [{cells[index].strip() for _, cells in looked_at} - {""} for index in (0, 1)]
        first, second = (all(map(NUMBER.fullmatch, cells)) for cells in columns)
        if first == second and (first or config.has_header is None) and looked_at:
            raise DataError(
                f"{path}: its columns have no names, and not one of the two holds numbers alone: set "
                "data.has_header=false, data.text_column=0 and data.label_column=1, or the other way round"
            )
        header = ["label", "text"] if first and looked_at else ["text", "label"]
    is_spaced = False
    for number, cells in rows:
        was_spaced, is_spaced = is_spaced, any(cell[:1] == " " for cell in cells[1:])
        if cells[0][:1] == "#" and file_type(path) == ".csv" and is_spaced and not was_spaced:
            raise DataError(f"{path}, line {number}: {cells[0][:50]!r} looks like a comment: remove the line")
        yield f"line {number}", dict(zip(header, cells, strict=True))


def read_records(path: Path, config: DataConfig) -> Records:
    """Records of a file of one of `TABLE_TYPES`, each with its line or row; refused at the first that is not read."""
    if file_type(path) == ".parquet":
        from .parquet import parquet_records  # pyarrow takes a moment that other files need not wait for

        return parquet_records(path, config)
    if file_type(path) in (".tsv", ".csv"):
        return _table(path, config)
    from .json_files import json_records

    return json_records(path, config)
