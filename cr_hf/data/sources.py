"""Where rows come from, and the one way in which a row is read, whatever its source.

A source is a file, or a split of a data set: of the Hub, in a folder that `save_to_disk` wrote, or embedded. It gives
records; `read_sources` finds the columns that play a role and gives rows, for training, streams and prediction alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants, get_session
from transformers.utils import logging

from ..errors import DataError
from .config import Columns, DataConfig, find_column, find_columns
from .demo import LEVELS, demo_reviews
from .paths import SPLIT_WORDS, is_saved, split_paths
from .texts import Record, check_file, file_type, read_records

logger = logging.get_logger(__name__)

PTB_ESCAPES = {"-lrb-": "(", "-rrb-": ")", "-lsb-": "[", "-rsb-": "]", "-lcb-": "{", "-rcb-": "}"}
PTB_ESCAPES |= {"``": '"', "''": '"', "`": "'", "\\/": "/", "\\*": "*"}
PTB_PATTERN = re.compile(r"-[lr][rsc]b-|``|''|`|\\/|\\\*", re.IGNORECASE)
NARROW = ("float32", "float16")
CONNECTION_SECONDS = 10.0
"""Until a Hub that does not answer is an error."""


@dataclass(frozen=True)
class Source:
    """One file, or one split of a data set.

    Args:
        name: for messages.
        records: opens it anew, and gives (line or row, record).
        unescape: turn the escapes of the Penn Treebank back.
        features: types of the columns, where they are known.
    """

    name: str
    records: Callable[[], Iterable[tuple[str, Record]]]
    unescape: bool = False
    features: datasets.Features | None = None

    def own_names(self, config: DataConfig) -> list[str] | None:
        """The classes that the type of the label column names."""
        if self.features is None or config.label_columns:
            return None
        label = self.features[find_column(list(self.features), config.label_column, "label", self.name)]
        label = getattr(label, "feature", label)
        return [name.strip() for name in label.names] if isinstance(label, datasets.ClassLabel) else None

    def class_names(self, config: DataConfig) -> list[str] | None:
        """What the numbers in the label column mean, if its type says that; other `label_names` are new names."""
        names, asked = self.own_names(config), config.label_names or []
        return asked if names and len(asked) == len(names) and not set(asked) & set(names) else names


class Row(NamedTuple):
    """A row as it was read: the label is the cell, or the cells of `data.label_columns`; None where none is asked."""

    place: Callable[[], str]
    text: str
    text_pair: str | None
    label: Any
    record: Record
    columns: Columns
    source: str


# ---- rows ----


def read_sources(sources: Sequence[Source], config: DataConfig, labelled: bool = True) -> Iterator[Row]:
    """The rows of a split in their order, with labels or, to predict, without.

    Each source finds its own columns, in its first record. The first row that cannot be read is refused.
    """
    count = 0
    for source in sources:
        columns, names = None, source.class_names(config) if labelled else None
        types = (source.features or {}).items()
        narrow = {name: kind for name, kind in types if isinstance(kind, datasets.Value) and kind.dtype in NARROW}
        for where, record in source.records():
            if narrow:
                record = {**record, **{name: _as_written(record[name], kind) for name, kind in narrow.items()}}
            place = partial("{}, {}".format, source.name, where)
            columns = columns or find_columns(list(record), config, source.name, labelled)
            count += 1
            if count > config.max_rows:
                raise DataError(f"{place()}: more than {config.max_rows} rows: raise data.max_rows")
            if (
                labelled
                and (answer := record.get("answer")) in ("reject", "ignore")
                and "answer" not in columns.labels
            ):
                raise DataError(f"{place()}: its answer is {answer!r}: leave out what annotators turned down")
            text = _text(record, columns.text, source.unescape, config, place)
            pair = columns.text_pair and _text(record, columns.text_pair, source.unescape, config, place)
            label: Any = [_named(record.get(name), names) for name in columns.labels]
            yield Row(
                place,
                text,
                pair,
                label if config.label_columns else next(iter(label), None),
                record,
                columns,
                source.name,
            )
        if columns is None and len(sources) > 1:
            logger.warning_once(f"{source.name}: there is no row")


def _as_written(value: float | None, kind: datasets.Value) -> float | None:
    """A number of 32 or 16 bits by its own digits: 0.1 and not 0.10000000149."""
    return None if value is None else float(str(np.dtype(kind.dtype).type(value)))


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """A number of a class, or several, as its name; what is none as it is."""
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _text(record: Record, column: str, unescape: bool, config: DataConfig, place: Callable[[], str]) -> str:
    """The text in a cell, "" where there is none. Without the column, or with no text in it, it is refused."""
    if column not in record:
        raise DataError(f"{place()}: no {column!r} among {list(record)[:20]}: give every row the same columns")
    value = record[column]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place()}: the text is a {type(value).__name__}, not a string: check data.text_column")
    text = value or ""
    if len(text) > config.max_cell_characters:
        raise DataError(f"{place()}: a text of {len(text)} characters: cut it, or raise data.max_cell_characters")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise DataError(f"{place()}: half a surrogate pair in the text: remove it")
    return PTB_PATTERN.sub(lambda match: PTB_ESCAPES[match.group().lower()], text) if unescape else text


# ---- files ----


def file_source(path: Path, config: DataConfig) -> Source:
    """The source that a file is; parquet may name its classes."""
    check_file(path)
    unescape = path.name.startswith("sst5") if config.unescape_ptb is None else config.unescape_ptb
    features = None
    if file_type(path) == ".parquet":
        try:
            features = datasets.Features.from_arrow_schema(pq.read_schema(path))
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):
            features = None  # reading it says what is wrong with it
    return Source(str(path), partial(read_records, path, config), unescape, features)


# ---- data sets ----


def reach_hub(cached: Path) -> None:
    """Ask the Hub whether it is there, unless what is wanted of it is in the folder `cached` or it must not be asked.

    Its own clients try every file six times, for a minute or more, before they say that there is no network.

    Raises:
        ConnectionError: if there is no answer of any kind within `CONNECTION_SECONDS`.
    """
    if cached.is_dir() or constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECTION_SECONDS)
    except httpx2.HTTPError as error:
        raise ConnectionError(f"no answer from {constants.ENDPOINT}: {error}") from error


def load_hub(name: str, config_name: str | None, revision: str | None, streaming: bool) -> Any:
    """What `datasets.load_dataset` returns for a data set of the Hub, or one line where it cannot be had."""
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is None or Path(name).exists():
        # load_dataset would take the name of a folder, or "csv", for files of the working directory.
        raise DataError(f"data.name={name!r} is no Hub id: write owner/name, 'embedded', or use data.dir for files")
    try:
        reach_hub(Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___")))
        return datasets.load_dataset(name, config_name, revision=revision, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, httpx2.HTTPError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"Hub data set {name!r} cannot be loaded ({cause}): check its name and the connection; offline, give "
            "data.dir=FOLDER or data.name=embedded"
        ) from error


def _from_disk(folder: Path) -> datasets.DatasetDict:
    """What `save_to_disk` wrote into a folder."""
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: not a readable data set on disk ({cause}): save it again") from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})


def _dataset_records(rows: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    for number, record in enumerate(rows, 1):
        yield f"row {number}", record


def loaded_sources(name: str, loaded: Any, config: DataConfig) -> dict[str, list[Source]]:
    """Sources of `datasets.Dataset`s, in memory or streamed; a test split whose labels are all -1, as in GLUE, is left
    out.
    """
    unescape = name.lower() == "setfit/sst5" if config.unescape_ptb is None else config.unescape_ptb
    sources: dict[str, list[Source]] = {}
    for split, words in SPLIT_WORDS.items():
        for found in [word for word in words if word in loaded][:1]:
            rows = loaded[found]
            source = Source(f"{name} [{found}]", partial(_dataset_records, rows), unescape, rows.features)
            if split == "test" and source.class_names(config) is not None:
                label = find_column(list(rows.features), config.label_column, "label", name)
                if isinstance(rows, datasets.Dataset) and rows.unique(label) == [-1]:
                    logger.warning(f"{name}: its test split has no labels (all are -1) and is left out")
                    continue
            sources[split] = [source]
    return sources


def sources_of(config: DataConfig, streaming: bool = False) -> dict[str, list[Source]]:
    """Where the rows of each split come from; no row of a file, or of a data set that is streamed, is read yet."""
    if config.reads_files:
        paths, folder = split_paths(config), Path(os.path.expanduser(config.dir or ""))
        given = {split: [file_source(path, config) for path in found] for split, found in paths.items()}
        return {**loaded_sources(str(folder), _from_disk(folder), config), **given} if is_saved(folder) else given
    name = config.name
    if name is None:
        raise DataError("no data: set data.name (a Hub data set or 'embedded'), data.dir or data.train_file")
    if name == "embedded":
        names = datasets.ClassLabel(names=list(LEVELS))
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        splits = {split: datasets.Dataset.from_list(rows, features) for split, rows in demo_reviews().items()}
        return loaded_sources(name, datasets.DatasetDict(splits), config)
    return loaded_sources(name, load_hub(name, config.config_name, config.revision, streaming), config)
