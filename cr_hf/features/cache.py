"""The feature cache on disk: shards with checksums behind one memory-mapped file, and what is in the cache.

An entry is a folder named by a hash of everything its features depend on, so it can never be stale:

    features.npy    shape (rows, width), float32, in the order of the texts, read through a memory map
    checksums       SHA-256 of each shard, 32 bytes apiece; zeros, or the end of the file, where there is none yet
    about.json      what `cr-hf cache list` says of it

The rows of a shard are written first, its checksum last: rows without a matching checksum, after a kill or on a bad
disk, are encoded again. Processes share the work, whether they belong to one distributed job or to several: each holds
a lock on the shard that it encodes, and the system drops the locks of a process that dies. So nobody waits at a
barrier, and nobody waits for the dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray

from ..errors import FeatureCacheError
from ..files import write_text

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

FORMAT = 1
FEATURES, CHECKSUMS, ABOUT = "features.npy", "checksums", "about.json"
ABOUT_PART = re.compile(rf"\.?{re.escape(ABOUT)}\.\d+\.part")
ENTRY_NAME = re.compile("[0-9a-f]{32}")
CHECKSUM_BYTES = hashlib.sha256().digest_size
NO_CHECKSUM = bytes(CHECKSUM_BYTES)

Rows: TypeAlias = NDArray[np.int64]
Features: TypeAlias = NDArray[np.float32]


def default_cache_dir() -> Path:
    """Where features are kept unless told otherwise: `cr_hf/features` under `HF_HOME`."""
    return Path(constants.HF_HOME) / "cr_hf" / "features"


class FeatureFile:
    """The features of one set of texts, in one folder of the cache.

    Args:
        folder: named by a hash of everything the features depend on.
        shards: row numbers of each shard; every row is in one of them.
        width: features of a row.
        about: more for `about.json`: `description`, `backbone` and `texts`.

    Raises:
        OSError: from every method, if the disk is full or the folder cannot be used; see `one_line_errors`.
    """

    def __init__(self, folder: Path, shards: list[Rows], width: int, about: dict[str, Any]) -> None:
        self.folder, self.shards = folder, shards
        self.shape = (sum(map(len, shards)), width)
        self.about = {"format": FORMAT, "shards": len(shards), "features": width, **about}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": self.shape})
        self.header = header.getvalue()
        self.row_bytes = 4 * width
        self.size = len(self.header) + self.row_bytes * self.shape[0]

    def open(self) -> Features:
        """The features, as a read-only memory map; an error if another process has removed or cut the file."""
        features = self._map()
        if features is None:
            raise FeatureCacheError(f"feature cache {self.folder} was changed while it was written: run again")
        return features

    def _map(self) -> Features | None:
        try:
            with (self.folder / FEATURES).open("rb") as handle:
                whole = os.fstat(handle.fileno()).st_size >= self.size
                if not whole or handle.read(len(self.header)) != self.header:
                    return None
                return np.memmap(handle, np.dtype("<f4"), "r", len(self.header), self.shape)
        except FileNotFoundError:
            return None

    def missing(self) -> list[int]:
        """Shards that are not there yet or are damaged; the damaged ones are counted in one warning."""
        if self._map() is None or not (self.folder / CHECKSUMS).is_file():
            self._make_room()
        features = np.asarray(self.open())
        with (self.folder / CHECKSUMS).open("rb") as checksums, ThreadPoolExecutor() as pool:
            recorded = [self._checksum(checksums, shard) for shard in range(len(self.shards))]
            good = list(pool.map(lambda shard: self._is_good(features, shard, recorded[shard]), range(len(recorded))))
        damaged = sum(not fine and record != NO_CHECKSUM for fine, record in zip(good, recorded, strict=True))
        if damaged:
            logger.warning(
                f"feature cache {self.folder}: {damaged} of {len(good)} shards are damaged and are encoded again"
            )
        return [shard for shard, fine in enumerate(good) if not fine]

    def fill(self, missing: list[int], encode: Callable[[Rows, Any], Features], bar: Any) -> None:
        """Encode and keep the missing shards, but for those that another process encodes meanwhile.

        Args:
            missing: numbers of shards.
            encode: from the rows of a shard and the bar to their features, shape (len(rows), width).
            bar: a progress bar, told of rows done.
        """
        features = np.asarray(self.open())
        # In random order, so that the speed so far says how long the rest will take.
        left = np.random.default_rng(0).permutation(missing).tolist()
        with (
            (self.folder / FEATURES).open("r+b", buffering=0) as data,
            (self.folder / CHECKSUMS).open("r+b", buffering=0) as checksums,
        ):
            for wait in (False, True):
                busy = []
                for shard in left:
                    if not _lock(checksums, shard * CHECKSUM_BYTES, CHECKSUM_BYTES, wait):
                        busy.append(shard)
                        continue
                    if self._is_good(features, shard, self._checksum(checksums, shard)):
                        bar.update(len(self.shards[shard]))
                    else:
                        self._write(data, checksums, shard, encode(self.shards[shard], bar))
                    _unlock(checksums, shard * CHECKSUM_BYTES, CHECKSUM_BYTES)
                left = busy
            # Some file systems tell only now that the disk is full.
            os.fsync(data.fileno())

    def _make_room(self) -> None:
        """Make or mend the files at their full size, so that a full disk is known before the work, not after it."""
        path = self.folder / FEATURES
        is_new = not path.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in (CHECKSUMS, FEATURES):
                (self.folder / name).touch()
            write_text(self.folder / ABOUT, json.dumps(self.about))
            with path.open("r+b", buffering=0) as handle:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle.fileno(), 0, self.size)
                else:
                    handle.truncate(self.size)
                _write_at(handle, 0, self.header)
        except OSError:
            if is_new:
                _remove(self.folder)
            raise

    def _write(self, data: io.FileIO, checksums: io.FileIO, shard: int, features: Features) -> None:
        for row, values in zip(self.shards[shard], features, strict=True):
            _write_at(data, len(self.header) + int(row) * self.row_bytes, values.tobytes())
        _write_at(checksums, shard * CHECKSUM_BYTES, hashlib.sha256(features.data).digest())

    def _is_good(self, features: Features, shard: int, recorded: bytes) -> bool:
        if recorded == NO_CHECKSUM:
            return False
        digest = hashlib.sha256()
        for row in self.shards[shard]:
            digest.update(features[row])
        return digest.digest() == recorded

    def _checksum(self, checksums: Any, shard: int) -> bytes:
        checksums.seek(shard * CHECKSUM_BYTES)
        return checksums.read(CHECKSUM_BYTES).ljust(CHECKSUM_BYTES, b"\0")


def _write_at(handle: io.FileIO, offset: int, data: bytes) -> None:
    """Write all of it: a disk that fills up takes a part first, and tells why only when asked again."""
    handle.seek(offset)
    while data:
        data = data[handle.write(data) :]


def _lock(handle: io.FileIO, start: int, length: int, wait: bool) -> bool:
    """Lock a range of a file against other processes. `False` if one of them holds it and we do not wait."""
    if sys.platform == "win32":  # No such locks: processes repeat each other's work, and do no worse.
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(handle: io.FileIO, start: int, length: int) -> None:
    if sys.platform != "win32":
        fcntl.lockf(handle, fcntl.LOCK_UN, length, start)


def _remove(folder: Path) -> None:
    """Remove our own files, and the folder if nothing else is in it."""
    parts = [path.name for path in folder.iterdir() if ABOUT_PART.fullmatch(path.name)]
    for name in (FEATURES, CHECKSUMS, *parts, ABOUT):  # the last one says that the folder is ours
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system says of a folder of the cache into one `FeatureCacheError`."""
    try:
        yield
    except OSError as error:
        raise FeatureCacheError(
            f"feature cache {folder}: {error.strerror or error}: free some space, or set cache_dir or HF_HOME to a "
            "folder that can be written"
        ) from error


# ---- what is in the cache ----


@dataclass(frozen=True)
class CacheEntry:
    """One entry of the feature cache.

    Args:
        folder: where it is.
        description: what was encoded, by which kind of backbone.
        texts: number of rows.
        size: in bytes, on disk.
        complete: all shards are there; whether they are sound is checked when they are used.
        age: seconds since it was last written.
    """

    folder: Path
    description: str
    texts: int
    size: int
    complete: bool
    age: float


def list_caches(cache_dir: str | Path | None = None) -> list[CacheEntry]:
    """The entries of the feature cache, the youngest first; `cache_dir` as in `encode_texts`."""
    root = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folders = [path for path in root.iterdir() if ENTRY_NAME.fullmatch(path.name)] if root.is_dir() else []
    entries = [entry for folder in folders if not folder.is_symlink() and (entry := _read_entry(folder))]
    return sorted(entries, key=lambda entry: entry.age)


def _read_entry(folder: Path) -> CacheEntry | None:
    """`None` if the folder is not ours, or is just being removed."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        checksums = (folder / CHECKSUMS).read_bytes()
        files = [path.stat() for path in folder.iterdir()]
        description = f"{about['description']}, {about['backbone']}, {about['features']} features"
        starts = range(0, len(checksums), CHECKSUM_BYTES)
        complete = sum(any(checksums[start : start + CHECKSUM_BYTES]) for start in starts) == about["shards"]
        texts = about["texts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    age = time.time() - max(file.st_mtime for file in files)
    return CacheEntry(folder, description, texts, sum(file.st_size for file in files), complete, age)


def clear_caches(cache_dir: str | Path | None = None) -> list[CacheEntry]:
    """Remove the entries of the feature cache and nothing else; one that is just being written stays.

    Returns:
        What was removed.

    Raises:
        FeatureCacheError: if a file cannot be removed.
    """
    removed = []
    for entry in list_caches(cache_dir):
        with one_line_errors(entry.folder), (entry.folder / CHECKSUMS).open("r+b", buffering=0) as checksums:
            if _lock(checksums, 0, 0, wait=False):
                _remove(entry.folder)
                removed.append(entry)
    return removed
