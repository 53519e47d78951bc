"""Files that are whole or absent, JSON that may be damaged, locks, and what a disk says."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import IO, Any, TypeAlias

from .errors import CheckpointError

if sys.platform != "win32":
    import fcntl

Json: TypeAlias = dict[str, Any]
"""An object of JSON: what a file of a run or of a study holds, or a part of it."""
PART = re.compile(r"\..+\.\d+\.part")
"""Names of files that are not whole yet: a process that was killed leaves them."""
OF_THE_DISK = (
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR),
)
# What safetensors and torch say instead of raising an `OSError`.
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
TORN_ARCHIVE = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos|iostream error")


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[IO[str]]:
    """A UTF-8 file to write that appears under its name once it is whole; after an error nothing of it is left."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as handle:
            yield handle
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


LARGEST_TEXT = 64 << 20
"""Bytes of the largest file that is read whole: twice the largest vocabularies of today."""


def read_text(path: Path) -> str:
    """Read a UTF-8 file that may come from anywhere.

    Raises:
        OSError: if it is missing, a pipe or a device, which may never end, or holds more than `LARGEST_TEXT` bytes.
        ValueError: if it is not UTF-8.
    """
    check_ordinary(path)
    if path.stat().st_size > LARGEST_TEXT:
        raise OSError(f"{path.name} holds {path.stat().st_size:,} bytes, more than {LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")


def check_ordinary(path: Path) -> None:
    """Refuse what is there and is neither a file nor a folder.

    Raises:
        OSError: if it is a pipe, a socket or a device, or a link to one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path.name} is no ordinary file, but a pipe or a device")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old one or the whole new one."""
    with open_whole(path) as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` writes; numbers that are not finite become null, since JSON has none."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, mend: str) -> Json:
    """Read a JSON object that may be missing or damaged.

    Args:
        path: the file.
        mend: how the error message ends, such as "train the run again".

    Raises:
        CheckpointError: if the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        found = json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {mend}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): {mend}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object: {mend}")
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder against other processes. The lock leaves no file, and the system drops it when the process dies.

    Yields:
        Whether it is ours; also where the file system has no such locks.
    """
    if sys.platform == "win32":
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a network file system
        yield True
    finally:
        os.close(handle)


def disk_error(error: Exception) -> str | None:
    """What an error says of the disk; `None` if it is about something else."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return str(error.strerror)
    number = SYSTEM_ERROR.search(str(error))
    if number and int(number[1]) in OF_THE_DISK:
        return os.strerror(int(number[1]))
    return "the disk is full" if isinstance(error, RuntimeError) and TORN_ARCHIVE.search(str(error)) else None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a disk that is full or forbids writing makes of whatever writes there into one `CheckpointError`."""
    try:
        yield
    except Exception as error:
        cause = disk_error(error)
        if cause is None:
            raise
        raise CheckpointError(
            f"{folder} cannot be written ({cause}): free some space, or let it be written to, and go on from there "
            "(cr-hf train --resume)"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A header and rows as Markdown."""
    first, *others = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([first, "|---" * len(rows[0]) + "|", *others])


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A header and rows as HTML, for notebooks."""
    first, *others = [[escape(cell) for cell in cells] for cells in rows]
    body = "".join(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>" for cells in others)
    return f"<table><thead><tr><th>{'</th><th>'.join(first)}</th></tr></thead><tbody>{body}</tbody></table>"
