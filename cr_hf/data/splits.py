"""Rows in, a checked `datasets.DatasetDict` out: a Hub data set, files of one's own, or the embedded demo reviews.

Every source is read twice. The first pass checks each row, names the place of the first bad one and hashes what it
sees; the second writes memory-mapped Arrow into the cache of `datasets` under that hash, so no copy is ever stale.
Rows without a text are left out of train and kept in the other splits, whose rows are what is measured.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from ..errors import DataError
from .config import Columns, DataConfig
from .label_cells import NUMBERS, SEVERAL, SINGLE, key_of, read_label
from .labels import Classes, Seen, find_classes
from .parts import split_off, subset
from .paths import SPLIT_WORDS, wanted_splits
from .sources import Row, Source, loaded_sources, read_sources, sources_of
from .texts import file_type
from .understood import Understood

logger = logging.get_logger(__name__)

FEW_ROWS = 10
"""So few rows of validation are said."""


class RowSplits(datasets.DatasetDict):
    """Splits, and what was understood of them."""

    understood: Understood


@dataclass
class Scan:
    """What the first pass over one split saw."""

    name: str
    seen: Seen = field(default_factory=Seen)
    digest: str = ""
    hashes: array[int] = field(default_factory=lambda: array("q"))
    width: int | None = None
    columns: list[Columns] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    first_blank: str = ""
    notes: list[str] = field(default_factory=list)
    labels: dict[str, set[str]] = field(default_factory=dict)
    """By source, to be compared."""


@dataclass(frozen=True)
class RowCodec:
    """How the rows of a data set become examples.

    Args:
        config: of the data.
        problem_type: of the model.
        names: of the classes, where they are known before rows are read.
        classes: None for regression, and before the first pass.
        width: numbers to predict.
    """

    config: DataConfig
    problem_type: str
    names: list[str] | None = None
    classes: Classes | None = None
    width: int | None = None

    def features(self) -> datasets.Features:
        """Types of the columns."""
        texts = ("text", "text_pair") if self.config.text_pair_column is not None else ("text",)
        features = datasets.Features({name: datasets.Value("string") for name in texts})
        if self.problem_type == SINGLE:
            features["label"] = datasets.ClassLabel(names=self.classes.names if self.classes else [])
        else:
            width = self.width if self.classes is None else len(self.classes.names)
            features["label"] = datasets.Sequence(datasets.Value("float32"), length=width)
        return features

    def describe(self, info: datasets.DatasetInfo) -> None:
        """Keep the names of classes with rows whose type does not name them, for `label_names_of`."""
        if self.problem_type != SINGLE:
            info.description = json.dumps(self.classes and self.classes.names)

    def rows(
        self, split: str, sources: Sequence[Source], scan: Scan | None = None
    ) -> Iterator[tuple[Row, list[str] | list[float]]]:
        """Rows that are kept, with their labels. Those that are not are counted in `scan`."""
        scan = scan or Scan("")
        for row in read_sources(sources, self.config):
            if row.columns not in scan.columns:
                scan.columns.append(row.columns)
            if not row.text.strip():
                scan.first_blank = scan.first_blank or row.place()
                scan.dropped["empty text"] += 1
                if split == "train":
                    continue
            label = read_label(row.label, row.columns.labels, self.config, self.problem_type, self.names, row.place)
            if label is None:
                scan.dropped["label missing"] += 1
            else:
                yield row, label

    def examples(self, split: str, sources: Sequence[Source], digest: Any = None) -> Iterator[dict[str, Any]]:
        """The rows of a split that are kept, as `features` says."""
        for row, label in self.rows(split, sources):
            if digest is not None:
                digest.update(_digest(row, label))
            pair = {} if row.text_pair is None else {"text_pair": row.text_pair}
            target: Any = label
            if self.classes is not None and self.problem_type == SINGLE:
                target = self.classes.id_of(target[0], row.place, split)
            elif self.classes is not None:
                target = self.classes.encode(target, row.place)
            yield {"text": row.text, **pair, "label": target}


def _digest(row: Row, label: list[str] | list[float]) -> bytes:
    return json.dumps([row.text, row.text_pair, label], ensure_ascii=False).encode()


def scan_rows(split: str, sources: Sequence[Source], codec: RowCodec, limit: int | None = None) -> Scan:
    """Check every row of a split, or the first of them."""
    scan, digest = Scan(" + ".join(source.name for source in sources)), hashlib.sha256()
    label: Any
    has_comment = False
    for row, label in islice(codec.rows(split, sources, scan), limit):
        digest.update(_digest(row, label))
        first = str(next(iter(row.record.values())))
        if not has_comment and first.startswith("# ") and file_type(Path(row.source)) == ".csv":
            has_comment = True
            scan.notes.append(f"{row.place()}: {first[:50]!r} is read as a row: remove it if it is a comment")
        scan.hashes.append(hash((row.text, row.text_pair)))
        if codec.problem_type != NUMBERS:
            scan.seen.add(label, row.place)
            scan.labels.setdefault(row.source, set()).update(label)
            continue
        scan.width = scan.width or len(label)
        if len(label) != scan.width:
            raise DataError(f"{row.place()}: {len(label)} targets instead of {scan.width}: every row needs as many")
    scan.digest = digest.hexdigest()
    blank, missing = scan.dropped["empty text"], scan.dropped["label missing"]
    if len(scan.hashes) == (0 if split == "train" else blank):
        raise DataError(f"{scan.name}: no row of {split} has a text and a label: check the file and data.text_column")
    if blank:
        done = f"are {'left out' if split == 'train' else 'kept'}, the first is {scan.first_blank}"
        scan.notes.append(f"{scan.name}: {blank} rows have an empty text and {done}")
    if missing:
        scan.notes.append(f"{scan.name}: {missing} rows have no label and are left out")
    keys = {name: set(map(key_of, found)) for name, found in scan.labels.items()}
    files_of = Counter(key for found in keys.values() for key in found)
    for name, own in keys.items():
        if 1 < len(own) < len(files_of) and all(files_of[key] == 1 for key in own):
            shown = sorted(scan.labels[name])[:8]
            scan.notes.append(f"{name}: its labels {shown} stand in no other file of {split}")
            break
    if split != "train":
        del scan.dropped["empty text"]
    for columns in scan.columns:
        if columns.passed_over:
            taken = f"{columns.labels[0]!r} and not from {columns.passed_over}"
            scan.notes.append(f"{scan.name}: labels are read from {taken}: see data.label_column")
    return scan


def load_rows(
    config: DataConfig,
    problem_type: str = SINGLE,
    splits: Sequence[str] | None = None,
    dataset: datasets.DatasetDict | None = None,
) -> RowSplits:
    """Read, check and split.

    Args:
        config: where the rows are. `labels.py` says how labels are read.
        problem_type: of the model. For regression the label column holds a number or a list of numbers, for several
            classes a row as many as there are.
        splits: those to return; None means train, validation and, where there is one, test. Train is read but not
            returned where validation has to be split off it, or the class names are only known from it.
        dataset: splits that are loaded already, instead of those of `config`.

    Returns:
        Splits with the columns `text`, `text_pair` if one is configured, and `label`: a `ClassLabel`, or a list of
        floats, shape (num_labels,), for the two other problem types. `understood` says how they were read.

    Raises:
        DataError: naming the file or data set, the line or row, and the mend.
    """
    sources = sources_of(config) if dataset is None else loaded_sources("the data set given", dataset, config)
    return load_sources(config, problem_type, wanted_splits(splits, sources, config), sources)


def load_sources(
    config: DataConfig, problem_type: str, wanted: Sequence[str], sources: Mapping[str, Sequence[Source]]
) -> RowSplits:
    """What `load_rows` returns, of sources."""
    names = known_names(config, problem_type, sources)
    splits_off = "validation" not in sources and not set(wanted) <= {"test"}
    needs_names = names is None and problem_type != NUMBERS
    reads_train = "train" in sources and ("train" in wanted or splits_off or needs_names)
    if needs_names and not reads_train:
        raise DataError(f"{list(wanted)}: no train split to take the classes from: set data.label_names")
    codec = RowCodec(config, problem_type, names)
    read = [split for split in sources if split in wanted or (split == "train" and reads_train)]
    scans = {split: scan_rows(split, sources[split], codec) for split in read}
    codec, notes = settle(codec, scans)
    if "train" in wanted:
        notes += _check_train(scans, codec)
    kept = [split for split in read if split in wanted or splits_off]
    built = {split: _build(split, sources[split], codec, scans[split]) for split in kept}
    if splits_off:
        rest, part = split_off(built["train"], config.validation_fraction, config.seed, scans["train"].name)
        built |= {"train": rest, "validation": part}
        if len(part) < FEW_ROWS and "train" in wanted:
            notes.append(f"{len(part)} rows of validation say little: give data.validation_file or more rows")
    found = RowSplits({split: subset(split, built[split], config) for split in SPLIT_WORDS if split in wanted})
    found.understood = understand(found, scans, codec, notes, sources)
    return found


def known_names(config: DataConfig, problem_type: str, sources: Mapping[str, Sequence[Source]]) -> list[str] | None:
    """The names of the classes that are known before rows are read."""
    first, *others = [source for part in sources.values() for source in part]
    for source in others if config.label_names else ():
        own, usual = source.own_names(config), first.own_names(config)
        if own and usual and own != usual and source.class_names(config) == config.label_names:
            raise DataError(
                f"{source.name}: its classes are {own[:20]}, those of {first.name} {usual[:20]}, and data.label_names "
                "gives them new names: leave it out"
            )
    if config.label_names or config.label_columns:
        return config.label_names or [str(name) for name in config.label_columns or ()]
    return first.class_names(config) if problem_type != NUMBERS else None


def settle(codec: RowCodec, scans: Mapping[str, Scan]) -> tuple[RowCodec, list[str]]:
    """The codec with what the first pass saw, and notes to tell the user."""
    notes = [note for scan in scans.values() for note in scan.notes]
    config = codec.config
    if codec.problem_type == NUMBERS:
        widths = {split: scan.width for split, scan in scans.items()}
        if len(set(widths.values())) > 1:
            raise DataError(f"the splits have different numbers of targets: {widths}: every row needs as many")
        return RowCodec(config, NUMBERS, width=next(iter(widths.values()))), notes
    several = codec.problem_type == SEVERAL
    seen = {split: scan.seen for split, scan in scans.items()}
    classes, more = find_classes(seen, codec.names, config.label_start, several)
    return RowCodec(config, codec.problem_type, codec.names, classes), notes + more


def _check_train(scans: Mapping[str, Scan], codec: RowCodec) -> list[str]:
    """Too few classes or rows are errors; classes without a row, and rows of other splits, are notes."""
    train, notes = scans["train"], []
    if codec.classes is not None and codec.problem_type == SINGLE:
        names, rows = codec.classes.names, len(train.hashes)
        found = {codec.classes.id_of(label, train.name.__str__) for label in train.seen.counts}
        if len(found) == 1:
            only = next(iter(train.seen.counts))
            raise DataError(f"{train.name}: every row of train has the label {only!r}: two classes are needed")
        if rows < len(names):
            raise DataError(f"{train.name}: {rows} rows of train for {len(names)} classes: give more rows")
        missing = [name for index, name in enumerate(names) if index not in found]
        if missing:
            notes.append(f"{train.name}: {len(missing)} of {len(names)} classes have no row in train: {missing[:20]}")
    for split, scan in scans.items():
        shared = 0 if split == "train" else int(np.isin(np.asarray(scan.hashes), np.asarray(train.hashes)).sum())
        if shared:
            notes.append(f"{scan.name}: {shared} rows of {split} also stand in train")
    return notes


def _build(split: str, sources: Sequence[Source], codec: RowCodec, scan: Scan) -> datasets.Dataset:
    """The rows of a split as memory-mapped Arrow, in the cache of `datasets` under the hash of all that is in it."""
    classes, features = codec.classes, codec.features()

    def rows() -> Iterator[dict[str, Any]]:
        digest = hashlib.sha256()
        yield from codec.examples(split, sources, digest)
        if digest.hexdigest() != scan.digest:
            raise DataError(f"{scan.name}: changed while it was being read: start again")

    about = None if classes is None else [classes.names, classes.ids, classes.one_hot]
    key = hashlib.sha256(json.dumps([split, scan.digest, codec.problem_type, about]).encode()).hexdigest()[:32]
    try:
        found = datasets.Dataset.from_generator(rows, features, split=datasets.NamedSplit(split), fingerprint=key)
    except (datasets.exceptions.DatasetGenerationError, OSError) as error:
        cause: Any = error.__cause__ or error
        if isinstance(cause, DataError):
            raise cause from error
        reason = getattr(cause, "strerror", None) or cause
        raise DataError(
            f"{scan.name}: not written to the cache of datasets ({reason}): free some space, or set HF_HOME to "
            "a folder that can be written"
        ) from error
    codec.describe(found.info)
    return found


def understand(
    found: Mapping[str, Any],
    scans: Mapping[str, Scan],
    codec: RowCodec,
    notes: list[str],
    sources: Mapping[str, Sequence[Source]],
) -> Understood:
    """What loading made of the data; its notes are logged."""
    columns = [columns for scan in scans.values() for columns in scan.columns]
    understood = Understood(
        text_columns=list(dict.fromkeys(part.text for part in columns)),
        text_pair_columns=list(dict.fromkeys(part.text_pair for part in columns if part.text_pair is not None)),
        label_columns=list(dict.fromkeys(name for part in columns for name in part.labels)),
        dropped=dict(sum((scan.dropped for scan in scans.values()), Counter())),
        notes=notes,
    )
    understood.reading["unescape_ptb"] = next(iter(sources.values()))[0].unescape
    for field_name, names in (("text_column", understood.text_columns), ("label_column", understood.label_columns)):
        if len(names) == 1 and not codec.config.label_columns and not codec.config.is_demo:
            understood.reading[field_name] = names[0]
    count_rows(found, codec.classes, understood, [source.name for part in sources.values() for source in part])
    return understood


def count_rows(
    found: Mapping[str, Any], classes: Classes | None, understood: Understood, places: Sequence[str]
) -> None:
    """Note the rows of each split and of its classes, and log what was noted before.

    The logged notes name files by their paths. The kept ones travel with the results: of an absolute path they have
    the file's name.
    """
    for split, rows in found.items():
        if not isinstance(rows, datasets.Dataset):
            continue
        understood.rows[split] = len(rows)
        if classes is not None:
            labels = np.asarray(rows["label"][:])
            counts = np.bincount(labels, minlength=len(classes.names)) if labels.ndim == 1 else labels.sum(0)
            understood.classes[split] = {n: int(count) for n, count in zip(classes.names, counts, strict=True)}
    if classes is not None and classes.start is not None:
        understood.reading["label_start"] = classes.start
    for note in understood.notes:
        logger.warning(note)
    for place in sorted(places, key=len, reverse=True):
        if Path(place).is_absolute():
            understood.notes = [note.replace(place, Path(place).name) for note in understood.notes]
