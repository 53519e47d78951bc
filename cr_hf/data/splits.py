"""Rows in, a checked `datasets.DatasetDict` out: a Hub data set, files of one's own, or the embedded demo reviews.

Every source is read twice. The first pass checks each row, names the place of the first bad one and hashes what it
sees; the second writes memory-mapped Arrow into the cache of `datasets` under that hash, so no copy is ever stale.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ..errors import DataError, nearest
from . import texts as text_files
from .config import DataConfig as DataConfig
from .demo import LEVELS, demo_reviews
from .hub_datasets import load_hub
from .texts import read_texts as read_texts

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class _Source:
    """One file, or one split of a data set that is loaded already."""

    name: str
    records: Callable[[], Iterator[tuple[int, dict[str, Any]]]]
    unescape: bool
    features: datasets.Features | None = None
    unit: str = "row"

    def place(self, number: int) -> str:
        return f"{self.name}, {self.unit} {number}"


class _Row(NamedTuple):
    place: Callable[[], str]
    text: str
    text_pair: str | None
    label: str

    def digest(self) -> bytes:
        try:
            return json.dumps(self[1:], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{self.place()}: half a surrogate pair in the text: remove it") from error


@dataclass
class _Scan:
    """What the first pass over one split saw."""

    name: str
    digest: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    first_place: dict[str, str] = field(default_factory=dict)
    hashes: array[int] = field(default_factory=lambda: array("q"))


def split_paths(config: DataConfig) -> dict[str, list[Path]]:
    """Files of each split that has any: those given, and those that a folder's file names declare.

    Raises:
        DataError: if the folder is missing, or several of its files could be one split.
    """
    folder = Path(config.dir).expanduser() if config.dir else Path()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: check data.dir")
    found: dict[str, list[Path]] = {}
    for split in text_files.SPLIT_WORDS:
        given = getattr(config, f"{split}_file") or []
        paths = [folder / Path(name).expanduser() for name in ([given] if isinstance(given, str) else given)]
        if not paths and config.dir:
            paths = text_files.find_split(folder, split)
        if paths:
            found[split] = paths
    return found


def _file_sources(config: DataConfig) -> dict[str, list[_Source]]:
    sources: dict[str, list[_Source]] = {}
    for split, paths in split_paths(config).items():
        for path in paths:
            unescape = path.name.startswith("sst5") if config.unescape_ptb is None else config.unescape_ptb
            records = partial(text_files.read_records, text_files.check_file(path), config.encoding)
            unit = "row" if text_files.file_type(path) == ".parquet" else "line"
            sources.setdefault(split, []).append(_Source(str(path), records, unescape, unit=unit))
    return sources


def loaded_sources(name: str, loaded: datasets.DatasetDict, config: DataConfig) -> dict[str, list[_Source]]:
    """Sources of `datasets.Dataset`s; a test split whose labels are all -1, as in GLUE, is left out."""
    unescape = name.lower() == "setfit/sst5" if config.unescape_ptb is None else config.unescape_ptb
    sources: dict[str, list[_Source]] = {}
    for split, words in text_files.SPLIT_WORDS.items():
        for found in [word for word in words if word in loaded][:1]:
            rows = loaded[found]
            label = text_files.find_column(rows.column_names, config.label_column, "label", name)
            is_unlabelled = isinstance(rows.features[label], datasets.ClassLabel) and rows.unique(label) == [-1]
            if split == "test" and is_unlabelled:
                logger.warning(f"{name}: its test split has no labels (all are -1) and is left out")
                continue
            records = partial(enumerate, rows, 1)
            sources[split] = [_Source(f"{name} [{found}]", records, unescape, rows.features)]
    return sources


def sources_of(config: DataConfig) -> dict[str, list[_Source]]:
    """Where the rows of each split come from; no row of a file is read yet."""
    if config.reads_files:
        return _file_sources(config)
    name = config.name
    if name is None:
        raise DataError("no data: set data.name (a Hub data set or 'embedded'), data.dir or data.train_file")
    if name == "embedded":
        names = datasets.ClassLabel(names=list(LEVELS))
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        splits = {split: datasets.Dataset.from_list(rows, features) for split, rows in demo_reviews().items()}
        return loaded_sources(name, datasets.DatasetDict(splits), config)
    return loaded_sources(name, load_hub(name, config.config_name, config.revision), config)


def _rows(sources: Sequence[_Source], config: DataConfig) -> Iterator[_Row]:
    for source in sources:
        text = pair = label = ""
        for number, record in source.records():
            place = partial(source.place, number)
            if not text:
                text = text_files.find_column(list(record), config.text_column, "text", source.name)
                label = text_files.find_column(list(record), config.label_column, "label", source.name)
                if config.text_pair_column:
                    pair = text_files.find_column(list(record), config.text_pair_column, "text_pair", source.name)
            texts = [
                text_files.text_value(record.get(column), source.unescape, place) for column in (text, pair) if column
            ]
            yield _Row(place, texts[0], texts[1] if pair else None, text_files.label_value(record.get(label), place))


def _scan(split: str, sources: Sequence[_Source], config: DataConfig) -> _Scan:
    """Check every row of a split. Rows with an empty text are counted, and left out of train."""
    scan, digest = _Scan(" + ".join(source.name for source in sources)), hashlib.sha256()
    blank, first_blank = 0, ""
    for row in _rows(sources, config):
        if not row.text.strip():
            blank, first_blank = blank + 1, first_blank or row.place()
            if split == "train":
                continue
        digest.update(row.digest())
        scan.hashes.append(hash(row[1:3]))
        scan.counts[row.label] += 1
        if row.label not in scan.first_place:
            scan.first_place[row.label] = row.place()
    scan.digest = digest.hexdigest()
    if len(scan.hashes) == (0 if split == "train" else blank):
        raise DataError(f"{scan.name}: no row of {split} has a text: check the file and data.text_column")
    if blank:
        done = "left out" if split == "train" else "kept"
        logger.warning(f"{scan.name}: {blank} rows have an empty text and are {done}, the first is {first_blank}")
    return scan


def _class_ids(names: list[str] | None, is_index: bool, scans: dict[str, _Scan]) -> tuple[list[str], dict[str, int]]:
    """Class names in order, and the class of each label as it is written. A label of no class is an error."""
    reference = [scans["train"]] if "train" in scans else list(scans.values())
    found = {label for scan in reference for label in scan.counts}
    names = sorted(found, key=text_files.label_order) if names is None else names
    ids = {name: index for index, name in enumerate(names)}
    by_index = {str(index): index for index in range(len(names))}
    if is_index or len(found & set(by_index)) > len(found & set(ids)):
        ids = by_index
    for split, scan in scans.items():
        for label, place in scan.first_place.items():
            if label not in ids:
                raise DataError(
                    f"{place}: label {label!r} of {split} is not one of the {len(ids)} classes {list(ids)[:20]}"
                    f"{nearest(label, ids)}: mend the row, or set data.label_names"
                )
    return names, ids


def _check_train(scans: dict[str, _Scan], names: list[str], ids: dict[str, int]) -> None:
    """Too few classes or rows are errors; classes without a row, and rows of other splits, are warnings."""
    train = scans["train"]
    rows = len(train.hashes)
    if len(train.counts) == 1:
        only = next(iter(train.counts))
        raise DataError(f"{train.name}: every row of train has the label {only!r}: two classes are needed")
    if rows < len(names):
        raise DataError(f"{train.name}: {rows} rows of train for {len(names)} classes: give more rows")
    missing = [names[index] for label, index in ids.items() if label not in train.counts]
    if missing:
        logger.warning(f"{train.name}: {len(missing)} of {len(names)} classes have no row in train: {missing}")
    for split in [split for split in scans if split != "train"]:
        shared = int(np.isin(np.asarray(scans[split].hashes), np.asarray(train.hashes)).sum())
        if shared:
            logger.warning(f"{scans[split].name}: {shared} rows of {split} also stand in train")


def _build(
    split: str, sources: Sequence[_Source], config: DataConfig, scan: _Scan, names: list[str], ids: dict[str, int]
) -> datasets.Dataset:
    """The rows of a split as memory-mapped Arrow, in the cache of `datasets` under the hash of all that is in it."""
    columns = ("text", "text_pair") if config.text_pair_column else ("text",)
    features = datasets.Features({column: datasets.Value("string") for column in columns})
    features["label"] = datasets.ClassLabel(names=names)

    def rows() -> Iterator[dict[str, Any]]:
        digest = hashlib.sha256()
        for row in _rows(sources, config):
            if split == "train" and not row.text.strip():
                continue
            digest.update(row.digest())
            texts = dict(zip(columns, row[1:3], strict=False))
            yield texts | {"label": ids[row.label]}
        if digest.hexdigest() != scan.digest:
            raise DataError(f"{scan.name}: changed while it was being read: start again")

    key = hashlib.sha256(json.dumps([split, scan.digest, names, ids]).encode()).hexdigest()[:32]
    try:
        return datasets.Dataset.from_generator(rows, features, split=datasets.NamedSplit(split), fingerprint=key)
    except (datasets.exceptions.DatasetGenerationError, OSError) as error:
        raise DataError(f"{scan.name}: not written to the cache of datasets: {error.__cause__ or error}") from error


def stratified_order(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Rows of these labels in random order, such that every beginning of it has the classes in proportion.

    Row r of n of its class, in random order, stands at r / n of the way: the first rows are one of each class.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    way = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        way[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(way, kind="stable")]


def split_off(
    rows: datasets.Dataset, fraction: float, seed: int, name: str
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rest and a stratified part of the rows, at least one, both in the old order.

    Raises:
        DataError: with the name of the rows, if fewer than there are classes would be left.
    """
    labels = np.asarray(rows["label"][:])
    order = stratified_order(labels, seed)
    size = len(order) - max(1, round(fraction * len(order)))
    if size < (classes := len(np.unique(labels))):
        raise DataError(
            f"{name}: {len(order)} rows of {classes} classes are too few to split validation off: give more rows, or "
            "data.validation_file"
        )
    return rows.select(np.sort(order[:size])), rows.select(np.sort(order[size:]))


def subset(split: str, rows: datasets.Dataset, config: DataConfig) -> datasets.Dataset:
    """What the fraction and the limits of the configuration leave: stratified, in the old order."""
    if split == "train":
        size = min(round(config.train_fraction * len(rows)), config.max_train_samples or len(rows))
        classes = len(set(rows["label"][:]))
        if size < max(classes, 2):
            mend = "raise data.train_fraction or lower data.validation_fraction"
            raise DataError(f"{size} rows of train are left for {classes} classes: {mend}")
    else:
        size = config.max_eval_samples or len(rows)
    order: Any = [] if size >= len(rows) else stratified_order(np.asarray(rows["label"][:]), config.seed)[:size]
    return rows.select(np.sort(order)) if len(order) else rows


def wanted_splits(splits: Sequence[str] | None, sources: Mapping[str, Any], config: DataConfig) -> list[str]:
    """The splits to return, checked against what there is."""
    known = text_files.SPLIT_WORDS
    wanted = list(splits) if splits else [split for split in known if split != "test" or "test" in sources]
    for split in wanted:
        if split not in known:
            raise DataError(f"no split {split!r}{nearest(split, known)}: use one of {list(known)}")
        if split not in sources and (split != "validation" or "train" not in sources):
            where = config.dir or config.name or "the files given"
            raise DataError(f"{where}: no {split} split found: set data.{split}_file")
    return wanted


def load_data(
    config: DataConfig, splits: Sequence[str] | None = None, sources: dict[str, list[_Source]] | None = None
) -> datasets.DatasetDict:
    """Read, check and split.

    Args:
        config: where the rows are.
        splits: those to return; None means train, validation and, where there is one, test. Train is read but not
            returned where validation has to be split off it, or the class names are only known from it.
        sources: of splits that are loaded already, instead of those of `config`.

    Returns:
        Splits with the columns `text`, `text_pair` if one is configured, and `label`, a `ClassLabel`.

    Raises:
        DataError: naming the file or data set, the line or row, and the mend.
    """
    sources = sources_of(config) if sources is None else sources
    wanted = wanted_splits(splits, sources, config)
    features = next(iter(sources.values()))[0].features
    names, is_index = config.label_names, False
    if features is not None:
        label = features[text_files.find_column(list(features), config.label_column, "label", str(config.name))]
        is_index = isinstance(label, datasets.ClassLabel)
        names = list(label.names) if is_index and names is None else names
    splits_off = "validation" not in sources and not set(wanted) <= {"test"}
    reads_train = "train" in wanted or splits_off or (names is None and "train" in sources)
    if names is None and not reads_train:
        raise DataError(f"{wanted}: no train split to take the classes from: set data.label_names")
    read = [split for split in sources if split in wanted or (split == "train" and reads_train)]
    scans = {split: _scan(split, sources[split], config) for split in read}
    names, ids = _class_ids(names, is_index, scans)
    if "train" in wanted:
        _check_train(scans, names, ids)
    built = {
        split: _build(split, sources[split], config, scan, names, ids)
        for split, scan in scans.items()
        if split in wanted or splits_off
    }
    if splits_off:
        rest, part = split_off(built["train"], config.validation_fraction, config.seed, scans["train"].name)
        built["train"], built["validation"] = rest, part
    order_of_splits = [split for split in text_files.SPLIT_WORDS if split in wanted]
    return datasets.DatasetDict({split: subset(split, built[split], config) for split in order_of_splits})
