"""Rows to predict, read as the rows that a model was trained on; labels are not needed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import DataError
from .config import DataConfig
from .sources import Source, file_source, read_sources
from .texts import TABLE_TYPES, check_file, check_line, file_type, read_lines

logger = logging.get_logger(__name__)

FILE_NAME = re.compile(rf"\S+({'|'.join(map(re.escape, ('.txt', *TABLE_TYPES)))})(\.gz)?|[a-zA-Z][\w+.-]+://\S+")
LONGEST_PATH = 4096
LINES, TEXTS = "standard input", "the texts given"


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
        return _rows([_file(Path(source).expanduser(), config)])
    if not isinstance(source, list | tuple):
        return _rows([_singles(LINES, partial(_lines, source, config.encoding), config)])
    named = [text for text in source if _looks_like_a_file(text)]
    if not named:
        records = [(f"text {number}", {"text": text}) for number, text in enumerate(source, 1)]
        return _rows([_singles(TEXTS, records.__iter__, config)])
    if len(named) < len(source):
        other = next(text for text in source if text not in named)
        raise DataError(f"{named[0]!r} is a file and {other[:50]!r} is a text: give files or texts")
    paths = [Path(path).expanduser() for name in named for path in (sorted(glob.glob(name)) or [name])]
    return _rows([_file(path, config) for path in paths])


def _looks_like_a_file(text: str) -> bool:
    """Whether something given is a path or a URL, which is never classified as a text."""
    if FILE_NAME.fullmatch(text) is not None:
        return True
    return 0 < len(text) < LONGEST_PATH and "\0" not in text and os.path.exists(os.path.expanduser(text))


def _file(path: Path, config: DataConfig) -> tuple[Source, DataConfig]:
    check_file(path, (".txt",))
    if file_type(path) == ".txt":
        return _singles(str(path), partial(_text_lines, path, config), config)
    return file_source(path, config, bool(config.unescape_ptb)), config


def _singles(name: str, records: Any, config: DataConfig) -> tuple[Source, DataConfig]:
    """A source of texts without columns."""
    if config.text_pair_column is not None:
        raise DataError(
            f"the run reads pairs of texts, and {name} has no second text: give a file with the column "
            f"{config.text_pair_column!r}, or set data.text_pair_column"
        )
    return Source(name, records, bool(config.unescape_ptb)), replace(config, text_column="text")


def _text_lines(path: Path, config: DataConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path, config), 1):
        yield f"line {number}", {"text": line.rstrip("\r\n")}


def _lines(handle: Iterable[str], encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        for number, line in enumerate(handle, 1):
            check_line(line, f"{LINES}, line {number}", encoding)
            yield f"line {number}", {"text": line.rstrip("\r\n")}
    except UnicodeError as error:
        raise DataError(f"{LINES}: {error} after line {number}: send it as {encoding}") from error


def _rows(sources: list[tuple[Source, DataConfig]]) -> Iterator[InputRow]:
    """The rows, with a word at the end on those without a text."""
    blank, first = 0, ""
    for source, config in sources:
        for row in read_sources([source], config, labelled=False):
            if not row.text.strip():
                blank, first = blank + 1, first or row.place()
            yield InputRow(row.text, row.text_pair, row.record)
    if blank:
        logger.warning(f"{blank} rows have an empty text, the first is {first}: their predictions mean nothing")
