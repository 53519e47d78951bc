"""How a command works: what it shows meanwhile, how it is stopped, and in how many processes."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any

from .console import visible
from .errors import RecipeError

PHASES = ("encode", "choose", "tokenize", "train", "measure", "predict", "study")
"""First words of the names of bars that are shown; those of reading and writing weights, say, are not."""
LONG = 10.0
"""Seconds after which a phase is worth a line where there is no terminal."""
LINE_EVERY = 60.0


class Phase:
    """A phase of the work, with as much of the interface of tqdm as its users here need.

    On a terminal it is one live line with rate and time left, which goes when the phase ends. Elsewhere it is a plain
    line a minute, and one at the end of what took over ten seconds; a training, which writes a row an epoch, has none.
    Both go to standard error: what a command answers stands alone on standard output.
    """

    def __init__(
        self, desc: str, total: int | None = None, initial: int = 0, unit: str = "", disable: bool = False, **_: Any
    ) -> None:
        self.name, self.total, self.unit, self.start, self.done = desc, total, unit, initial, initial
        self.begun = self.told = time.monotonic()
        self._live: Any = _live_line(desc, total, initial) if is_live(sys.stderr) and not disable else None

    @property
    def _rate(self) -> float:
        return (self.done - self.start) / max(time.monotonic() - self.begun, 1e-9)

    def update(self, amount: int = 1) -> None:
        """So much more is done."""
        self.done += amount
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self.done, rate=f"{self._rate:,.0f}/s")
        elif time.monotonic() - self.told > LINE_EVERY and self.name != "train":
            self.told = time.monotonic()
            left = "" if not self.total else f" of {self.total:,}, {(self.total - self.done) / self._rate:,.0f} s left"
            self.write(f"{self.name}: {self.done:,}{self.unit}{left}")

    def write(self, line: str) -> None:
        """Write a line above the live one."""
        say(line)

    def close(self) -> None:
        """The phase has ended, or was stopped."""
        seconds = time.monotonic() - self.begun
        if self._live is not None:
            self._live.stop()
        elif seconds > LONG and self.name != "train":
            amount = f"{self.done:,}{self.unit} in " if self.done else ""
            self.write(f"{self.name}: {amount}{seconds:.0f} s")

    def __enter__(self) -> Phase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def say(line: str) -> None:
    """Write a line to standard error, above a live line; `typer.echo` would write into it."""
    print(line, file=sys.stderr)


def is_live(stream: IO[str]) -> bool:
    """Whether a line on this stream can be written over."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _live_line(name: str, total: int | None, done: int) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    amount = [] if total is None else [MofNCompleteColumn()]
    clock = TimeElapsedColumn() if total is None else TimeRemainingColumn(compact=True)
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(20), *amount, TextColumn("{task.fields[rate]}"), clock]
    live = Progress(*columns, console=console, transient=True, redirect_stdout=False, refresh_per_second=4)
    live.add_task(name, total=total, completed=done, rate="")
    live.start()
    return live


class _Notes(logging.Handler):
    """Warnings of this package, each of them once, by the first process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = visible(record.getMessage())
        if line not in self.told and os.environ.get("RANK", "0") == "0":
            self.told.add(line)
            say(f"note: {line}")


_notes = _Notes()


def set_verbosity(quiet: bool = False, verbose: bool = False) -> None:
    """Say how much is shown while a command works.

    Args:
        quiet: warnings and what the command answers alone.
        verbose: all that transformers and other libraries say, too.
    """
    if verbose:
        os.environ["TRANSFORMERS_VERBOSITY"] = "info"
    else:
        for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
            os.environ.setdefault(name, "error")
        if not is_live(sys.stderr):
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # those of downloads
        warnings.filterwarnings("ignore", append=True)
    import datasets
    from transformers.utils import logging as bars

    (datasets.enable_progress_bars if verbose else datasets.disable_progress_bars)()

    def phase(factory: Callable[..., Any], arguments: Any, options: dict[str, Any]) -> Any:
        name, is_hidden = str(options.get("desc")).split()[0], options.get("disable")
        if name in PHASES and bars.is_progress_bar_enabled() and (name == "train" or not is_hidden):
            return Phase(*arguments, **options)
        return factory(*arguments, **options) if verbose else bars.EmptyTqdm(*arguments, **options)

    bars.set_tqdm_hook(phase)
    if quiet:
        bars.disable_progress_bar()
    elif not bars.is_progress_bar_enabled():
        bars.enable_progress_bar()
    _notes.told.clear()
    logging.getLogger("cr_hf").addHandler(_notes)


@contextlib.contextmanager
def stoppable(advice: str) -> Iterator[None]:
    """Work that Ctrl-C ends with a line that says where it stopped and how to go on.

    Args:
        advice: how; in it "{command}" stands for the command as it was typed, without --overwrite.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        say(f"stopped {stop}".rstrip() + "; " + advice.format(command=shlex.join(["cr-hf", *words])))
        sys.exit(130)


def launch(processes: int, command: list[str]) -> int:
    """Run a command of this command line in several processes, and return their exit code."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes and not any(word.replace(" ", "") == "use_cpu=true" for word in command):
        raise RecipeError(f"--num-processes {processes}: this machine has {gpus} GPUs; give at most {gpus}")
    options = ["--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, f"--num_processes={processes}"]
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
    done = subprocess.run(
        [*launcher, "--main_process_port=0", "-m", "cr_hf.cli", *command], env=environment, check=False
    )
    return done.returncode
