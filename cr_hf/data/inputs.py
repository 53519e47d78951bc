"""Rows to predict, read as the rows that a model was trained on; labels are not needed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import DataError
from .config import DataConfig
from .sources import Source, check_text, file_source, read_sources
from .texts import TABLE_TYPES, check_file, check_line, file_type, read_lines

logger = logging.get_logger(__name__)

FILE_NAME = re.compile(rf"\S+({'|'.join(map(re.escape, ('.txt', *TABLE_TYPES)))})(\.gz)?|[a-zA-Z][\w+.-]+://\S+")
LONGEST_PATH = 4096


@dataclass(frozen=True)
class InputRow:
    """A row to predict.

    Args:
        text: as the model reads it, escapes turned back; may be empty.
        text_pair: the second text, of a run that was trained on pairs.
        record: the row's own columns, in their order; of a line or a text given, its `text` alone.
    """

    text: str
    text_pair: str | None = None
    record: dict[str, Any] = field(default_factory=dict)


def read_inputs(source: str | Path | Sequence[str] | Iterable[str], config: DataConfig) -> Iterator[InputRow]:
    """Rows to predict, one at a time, in constant memory.

    Args:
        source: the path of a file, one of `TABLE_TYPES` or a .txt with one text a line; or a list of what was given on
            a command line, either texts or files, which are read one after the other; or an open handle, one text a
            line.
        config: of the run: columns, pairs, encoding, escapes, separator, header, limits.

    Yields:
        A row for each of the input, an empty one too, so that predictions line up with it. How many texts are empty
        is logged at the end.

    Raises:
        DataError: at once for what is no file, and for texts without the second text of a pair; for a row when it is
            reached.
    """
    if isinstance(source, str | Path):
        return _counted(_file_rows([Path(source).expanduser()], config))
    if isinstance(source, list | tuple):
        named = [text for text in source if _looks_like_a_file(text)]
        if named and len(named) < len(source):
            other = next(text for text in source if text not in named)
            raise DataError(f"{named[0]!r} is a file and {other[:50]!r} is a text: give files or texts")
        if named:
            paths = [Path(path).expanduser() for name in named for path in (sorted(glob.glob(name)) or [name])]
            return _counted(_file_rows(paths, config))
        _refuse_singles("texts", config)
        return _counted(_text_rows("texts given", "text", source, config))
    _refuse_singles("lines of standard input", config)
    return _counted(_text_rows("standard input", "line", _lines(source, config), config))


def _refuse_singles(what: str, config: DataConfig) -> None:
    if config.text_pair_column is not None:
        raise DataError(
            f"the run reads pairs of texts, and {what} have no second text: give a file with the column "
            f"{config.text_pair_column!r}, or set data.text_pair_column"
        )


def _looks_like_a_file(text: str) -> bool:
    """Whether something given is a path or a URL, which is never classified as a text."""
    if FILE_NAME.fullmatch(text) is not None:
        return True
    return 0 < len(text) < LONGEST_PATH and "\0" not in text and os.path.exists(os.path.expanduser(text))


def _file_rows(paths: Sequence[Path], config: DataConfig) -> Iterator[tuple[str, InputRow]]:
    """The rows of files, each checked before the first is read."""
    sources: list[Source] = []
    for path in paths:
        check_file(path, (".txt",))
        if file_type(path) == ".txt":
            _refuse_singles(f"the lines of {path}", config)
            sources.append(Source(str(path), partial(_line_records, path, config), bool(config.unescape_ptb)))
        else:
            sources.append(file_source(path, config, bool(config.unescape_ptb)))
    return _rows(sources, config)


def _rows(sources: Sequence[Source], config: DataConfig) -> Iterator[tuple[str, InputRow]]:
    for row in read_sources(sources, config, labelled=False):
        yield ("" if row.text.strip() else row.place()), InputRow(row.text, row.text_pair, row.record)


def _line_records(path: Path, config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    column = "text" if config.text_column is None else str(config.text_column)
    for number, line in enumerate(read_lines(path, config), 1):
        yield f"line {number}", {column: line.rstrip("\r\n")}


def _lines(handle: Iterable[str], config: DataConfig) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(handle, 1):
            check_line(line, f"standard input, line {number}", config.encoding)
            yield line.rstrip("\r\n")
    except UnicodeError as error:
        raise DataError(f"standard input: {error} after line {number}: send it as {config.encoding}") from error


def _text_rows(name: str, unit: str, texts: Iterable[str], config: DataConfig) -> Iterator[tuple[str, InputRow]]:
    for number, text in enumerate(texts, 1):
        place = partial("{}, {} {}".format, name, unit, number)
        check_text(text, config, place)
        yield ("" if text.strip() else place()), InputRow(text, None, {"text": text})


def _counted(rows: Iterator[tuple[str, InputRow]]) -> Iterator[InputRow]:
    """The rows, with a word at the end on those without a text."""
    blank, first = 0, ""
    for empty_at, row in rows:
        if empty_at:
            blank, first = blank + 1, first or empty_at
        yield row
    if blank:
        logger.warning(f"{blank} rows have an empty text, the first is {first}: their predictions mean nothing")
