"""Which files a recipe names, and that they are there with the columns that are asked for.

Nothing heavy is imported here: a missing file or column is refused at once.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError, nearest
from .config import DataConfig, find_columns
from .table_schema import TableSchema, column_positions, read_header, schema_of_columns
from .texts import TABLE_TYPES, check_exists, check_file, file_type, read_records

SPLIT_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")}
SPLIT_WORDS["test"] = ("test", "testing", "eval", "evaluation")
NOT_A_SPLIT = {"phrases", "pool", "unlabeled", "unlabelled", "unsupervised"}
INPUT_TYPES = (".txt", *TABLE_TYPES)
NOT_READ = (".cvs", ".xls", ".xlsx", ".ods", ".zip", ".xz", ".bz2", ".zst", ".7z", ".arrow", ".feather", ".pdf")
_TYPES = "|".join(map(re.escape, (*INPUT_TYPES, *NOT_READ)))
FILE_NAME = re.compile(rf"\S+({_TYPES})(\.gz)?|[a-z][\w+.-]+://\S+", re.IGNORECASE)
LONGEST_PATH = 4096
SHARD = re.compile(r"-\d+-of-\d+$")


def names_arrays(files: str | Sequence[str] | None) -> bool:
    """Whether rows are arrays of numbers by the names of their files: npz or IDX."""
    names = [files] if isinstance(files, str) else files or ()
    return any(re.search(r"\.npz$|-idx3-ubyte(\.gz)?$", str(name)) for name in names)


def check_files(config: DataConfig, is_table: bool = False) -> None:
    """Refuse files that are missing, and text files whose first record lacks a column; no more of them is read.

    Args:
        config: of the data; data sets that are no files are not looked at.
        is_table: whether the rows are numbers.

    Raises:
        DataError: as reading them would.
    """
    if config.revision and config.name in (None, "embedded"):
        raise DataError(f"data.revision={config.revision!r} is of a Hub data set: set data.name or leave it out")
    for path in [path for paths in split_paths(config).values() for path in paths] if config.reads_files else []:
        if is_table:
            check_exists(path)
            if file_type(path) in (".csv", ".tsv"):
                schema_of_columns(read_header(path, config)[0], path, config)
            continue
        check_file(path)
        _check_columns(path, config, labelled=True)


def check_inputs(source: Sequence[str], config: DataConfig, schema: TableSchema | None) -> None:
    """The same for what is given to be predicted: texts or files, for the run of a table (`schema`) one file."""
    for path in input_paths(source) if schema is None else map(Path, source):
        if schema is not None:
            check_exists(path)
            if file_type(path) in (".csv", ".tsv"):
                column_positions(read_header(path, config)[0], schema, path)
            continue
        check_file(path, INPUT_TYPES)
        if file_type(path) in TABLE_TYPES:
            _check_columns(path, config, labelled=False)


def _check_columns(path: Path, config: DataConfig, labelled: bool) -> None:
    if file_type(path) == ".json":
        return  # JSON that is one value has to be read whole
    for _, record in itertools.islice(read_records(path, config), 1):
        find_columns(list(record), config, str(path), labelled)


def input_paths(source: Sequence[str]) -> list[Path]:
    """The files that are named, in their order; none if texts were given.

    Raises:
        DataError: if there are both.
    """
    named = [text for text in source if _looks_like_a_file(text)]
    if named and len(named) < len(source):
        other = next(text for text in source if text not in named)
        raise DataError(f"{named[0]!r} is a file and {other[:50]!r} is a text: give files or texts")
    found = [[name] if os.path.exists(name) else sorted(glob.glob(name)) or [name] for name in named]
    return [Path(os.path.expanduser(path)) for paths in found for path in paths]


def _looks_like_a_file(text: str) -> bool:
    """Whether something given is a path or a URL, which is never classified as a text."""
    if FILE_NAME.fullmatch(text) is not None:
        return True
    return 0 < len(text) < LONGEST_PATH and "\0" not in text and os.path.exists(os.path.expanduser(text))


def split_paths(config: DataConfig) -> dict[str, list[Path]]:
    """Files of each split that has any: those given, and those that a folder's file names declare."""
    folder = Path(os.path.expanduser(config.dir or ""))
    if not folder.is_dir():
        raise DataError(f"{config.dir}: no such folder: check data.dir")
    if config.config_name and (folder / config.config_name).is_dir():
        folder = folder / config.config_name
    found: dict[str, list[Path]] = {}
    for split in SPLIT_WORDS:
        given = getattr(config, f"{split}_file") or []
        names = [given] if isinstance(given, str) else given
        paths = [path for name in names for path in _matching(folder / os.path.expanduser(name), name)]
        for twice in [path for path in paths if paths.count(path) > 1][:1]:
            raise DataError(f"{twice}: stands twice in data.{split}_file: leave it out once")
        if not paths and config.dir and not is_saved(folder):
            paths = _find_split(folder, split)
            for other, taken in found.items():
                if set(paths) & set(taken) and not getattr(config, f"{other}_file"):
                    raise DataError(f"{paths[0]} could be {other} or {split}: set data.{other}_file")
            paths = [path for path in paths if not any(path in taken for taken in found.values())]
        if paths:
            found[split] = paths
    return found


def _matching(path: Path, name: str) -> list[Path]:
    """The path, or the files that it is a pattern of."""
    if path.exists() or not glob.has_magic(name):
        return [Path(name) if "://" in name else path]
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise DataError(f"{path}: no file is of this pattern: check the path")
    return found


def _find_split(folder: Path, split: str) -> list[Path]:
    """The file of a folder that its name declares to be a split, or the parts of one; none, where there is none.

    A name that ends in a word of the split is preferred ("sst5_train.tsv"); one with a word of `NOT_A_SPLIT`
    ("sst5_train_phrases.tsv") is passed over. Where the folder holds none, its folder `data` and one named like the
    split are looked into, as data sets of the Hub are laid out. Several files that could be it are refused.
    """
    named: dict[Path, list[str]] = {}
    words = set(SPLIT_WORDS[split])
    for path in sorted(folder.iterdir()):
        parts = re.findall("[a-z]+", _stem(path))
        if path.name.startswith("."):
            continue  # what systems and editors leave beside a file
        is_table = path.is_file() and file_type(path) in TABLE_TYPES
        if is_table and words & set(parts) and not NOT_A_SPLIT & set(parts):
            named[path] = parts
    found = [path for path, parts in named.items() if parts[-1] in words] or list(named)
    are_shards = len(set(map(_stem, found))) == 1 and all(SHARD.search(path.name.split(".")[0]) for path in found)
    if len(found) > 1 and not are_shards:
        raise DataError(f"{folder}: {[path.name for path in found]} could each be {split}: set data.{split}_file")
    if not found:
        if (folder / "data").is_dir():
            found = _find_split(folder / "data", split)
        for inner in (folder / word for word in SPLIT_WORDS[split]):
            if not found and inner.is_dir():
                found = [path for path in sorted(inner.iterdir()) if file_type(path) in TABLE_TYPES]
    sizes = {match[0].rpartition("-")[2] for path in found for match in SHARD.finditer(path.name.split(".")[0])}
    if sizes and {int(size) for size in sizes} != {len(found)}:
        raise DataError(
            f"{found[0].parent}: {len(found)} files of {split} are not the {max(sizes)} parts that they say"
        )
    return found


def _stem(path: Path) -> str:
    """The name of a file without its types, and without the number of a shard."""
    return SHARD.sub("", path.name.lower().removesuffix(".gz").rpartition(".")[0])


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def split_named(word: str) -> str:
    """The split that a word stands for, such as validation for dev; a word that stands for none is refused."""
    for split, words in SPLIT_WORDS.items():
        if word in words:
            return split
    raise DataError(f"no split {word!r}{nearest(word, SPLIT_WORDS)}: use one of {list(SPLIT_WORDS)}")


def wanted_splits(splits: Sequence[str] | None, available: Iterable[str], config: DataConfig) -> list[str]:
    """The splits to return, checked against what there is."""
    found = list(available)
    usual = [split for split in SPLIT_WORDS if split != "test" or "test" in found]
    wanted = list(map(split_named, splits)) if splits else usual
    for split in wanted:
        if split not in found and (split != "validation" or "train" not in found):
            where = config.dir or config.name or "the files given"
            other = ", or measure validation rows (--split validation)" if split == "test" and "train" in found else ""
            raise DataError(f"{where}: no {split} split found: set data.{split}_file{other}")
    return wanted
