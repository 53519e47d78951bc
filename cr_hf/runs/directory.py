"""The directory of a run: what its files are called, whether it may be written to, and how it starts."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RecipeError
from .recipe import Recipe, load_recipe

if sys.platform != "win32":
    import fcntl

RESULTS, RECIPE, PROBE, CHECKPOINTS = "results.json", "recipe.yaml", "probe.json", "checkpoints"
TABLE = "table.json"
"""How the run of a table reads its rows: columns, and medians of training rows for missing values."""


OF_THE_DISK = (
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR),
)
# What safetensors and torch say instead of raising an `OSError`.
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
TORN_ARCHIVE = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos|iostream error")


def check_directory(recipe: Recipe, overwrite: bool, resume: bool) -> None:
    """Refuse to touch what is not ours, or what is finished. Nothing is written: every process may look.

    Args:
        recipe: of the run to start.
        overwrite: a run that stands there may go.
        resume: it is to be continued.

    Raises:
        RecipeError: naming the directory, what it holds and the mend.
    """
    run_dir = Path(recipe.output_dir)
    if overwrite and resume:
        raise RecipeError("--overwrite and --resume contradict each other: give one of them")
    if run_dir.exists() and not run_dir.is_dir():
        raise RecipeError(f"output_dir={run_dir} is a file: choose another output_dir")
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if not (run_dir / RECIPE).is_file():
        raise RecipeError(f"output_dir={run_dir} holds other files and no run: choose another output_dir")
    finished = (run_dir / RESULTS).is_file()
    if resume and finished:
        raise RecipeError(
            f"the run in {run_dir} is finished, there is nothing to resume: use --overwrite to train anew"
        )
    if not overwrite and not resume:
        kind = "a finished run: use --overwrite" if finished else "an unfinished run: use --resume or --overwrite"
        raise RecipeError(f"output_dir={run_dir} holds {kind}, or choose another output_dir")
    if resume:
        before = load_recipe(run_dir / RECIPE).to_dict()
        changed = sorted(key for key in before | recipe.to_dict() if before.get(key) != recipe.to_dict().get(key))
        if changed:
            raise RecipeError(
                f"{run_dir} was started with another {changed[0]}: resume with the same recipe, or use --overwrite"
            )


def check_finished(run_dir: Path) -> None:
    """Refuse a directory that holds no finished run.

    Raises:
        CheckpointError: saying what it holds and the mend.
    """
    if not (run_dir / RESULTS).is_file():
        state = "is not finished: continue it with --resume" if (run_dir / RECIPE).is_file() else "is no run directory"
        raise CheckpointError(f"{run_dir} {state} (a finished run holds {RESULTS})")


def read_results(run_dir: Path) -> dict[str, Any]:
    """What `results.json` of a finished run holds.

    Raises:
        CheckpointError: if the run is not finished, or the file is damaged.
    """
    check_finished(run_dir)
    try:
        return dict(json.loads((run_dir / RESULTS).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{run_dir / RESULTS} is damaged ({error}): train the run again") from error


@contextlib.contextmanager
def open_directory(recipe: Recipe, overwrite: bool, resume: bool) -> Iterator[None]:
    """Start the run, or go on with it, and hold its directory against other processes until it is left.

    The recipe is written first, so that an interrupted run is known for what it is. What was checked before is checked
    again: another process may have been faster.

    Raises:
        RecipeError: if the directory cannot be made or written, or another process trains there.
    """
    run_dir = Path(recipe.output_dir)
    with contextlib.ExitStack() as stack:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(run_dir))
            check_directory(recipe, overwrite, resume)
            if not (resume and (run_dir / RECIPE).is_file()):
                for path in run_dir.iterdir():
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                recipe.save(run_dir / RECIPE)
        except OSError as error:
            raise RecipeError(
                f"output_dir={run_dir} cannot be written ({error.strerror}): choose another output_dir"
            ) from error
        yield


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock on a folder, which the system takes away when the process dies; none where there are no such locks."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"another process works in {folder}: wait until it has ended, or choose another folder"
            ) from None
        except OSError:
            pass  # a network file system
        yield
    finally:
        os.close(handle)


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


def disk_error(error: Exception) -> str | None:
    """What an error says of the disk; `None` if it is about something else."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return str(error.strerror)
    number = SYSTEM_ERROR.search(str(error))
    if number and int(number[1]) in OF_THE_DISK:
        return os.strerror(int(number[1]))
    return "the disk is full" if isinstance(error, RuntimeError) and TORN_ARCHIVE.search(str(error)) else None
