"""Rows to predict, read as the rows that a model was trained on; labels are not needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers.utils import logging

from ..errors import DataError
from .config import DataConfig
from .paths import INPUT_TYPES, input_paths
from .sources import Row, Source, file_source, read_sources
from .texts import Records, check_file, check_line, file_type, read_lines

logger = logging.get_logger(__name__)

LINES, TEXTS = "standard input", "the texts given"


def read_inputs(source: str | Path | Sequence[str] | Iterable[str], config: DataConfig) -> Iterator[Row]:
    """Rows to predict, one at a time, in constant memory.

    Args:
        source: the path of a file, one of `TABLE_TYPES` or a .txt with one text a line; or a list of what was given on
            a command line, either texts or files, which are read one after the other; or an open handle, one text a
            line.
        config: of the run: columns, pairs, encoding, escapes, separator, header, limits.

    Yields:
        A row for each of the input, an empty one too, so that predictions line up with it; it has no label, and of a
        line or a text given its record holds `text` alone. How many texts are empty is logged at the end.

    Raises:
        DataError: at once for what is no file, and for texts without the second text of a pair; for a row when it is
            reached.
    """
    config = replace(config, unescape_ptb=bool(config.unescape_ptb))
    if isinstance(source, str | Path):
        return _rows([_file(Path(os.path.expanduser(source)), config)])
    if not isinstance(source, list | tuple):
        return _rows([_singles(LINES, partial(_numbered, _checked(source, config.encoding)), config)])
    paths = input_paths(source)
    if not paths:
        return _rows([_singles(TEXTS, partial(_numbered, source, "text"), config)])
    return _rows([_file(path, config) for path in paths])


def _file(path: Path, config: DataConfig) -> tuple[Source, DataConfig]:
    check_file(path, INPUT_TYPES)
    if file_type(path) != ".txt":
        return file_source(path, config), config
    return _singles(str(path), lambda: _numbered(read_lines(path, config)), config)


def _singles(name: str, records: Callable[[], Records], config: DataConfig) -> tuple[Source, DataConfig]:
    """A source of texts without columns."""
    if config.text_pair_column is not None:
        raise DataError(
            f"the run reads pairs of texts, and {name} has no second text: give a file with the column "
            f"{config.text_pair_column!r}, or set data.text_pair_column"
        )
    return Source(name, records, bool(config.unescape_ptb)), replace(config, text_column="text")


def _numbered(texts: Iterable[str], unit: str = "line") -> Records:
    for number, text in enumerate(texts, 1):
        yield f"{unit} {number}", {"text": text.rstrip("\r\n") if unit == "line" else text}


def _checked(handle: Iterable[str], encoding: str) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(handle, 1):
            check_line(line, f"{LINES}, line {number}", encoding)
            yield line
    except UnicodeError as error:
        raise DataError(f"{LINES}: {error} after line {number}: send it as {encoding}") from error


def _rows(sources: list[tuple[Source, DataConfig]]) -> Iterator[Row]:
    """The rows, with a word at the end on those without a text."""
    count, blank, first = 0, 0, ""
    for source, config in sources:
        for row in read_sources([source], config, labelled=False):
            count += 1
            if not row.text.strip():
                blank, first = blank + 1, first or row.place()
            yield row
    if not count:
        logger.warning(f"{' + '.join(source.name for source, _ in sources)}: there is no row")
    if blank:
        logger.warning(f"{blank} rows have an empty text, the first is {first}: their predictions mean nothing")
