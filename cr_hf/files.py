"""Files that are whole or absent, JSON that may be damaged, and checksums."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj

from .errors import CheckpointError


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` writes; numbers that are not finite become null, since JSON has none."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object that may be missing or damaged.

    Args:
        path: the file.
        mend: how the error message ends, such as "train the run again".

    Raises:
        CheckpointError: if the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}): {mend}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object: {mend}")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in parts."""
    with path.open("rb") as handle:
        return sha_fileobj(handle).hex()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
