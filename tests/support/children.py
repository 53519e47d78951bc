"""Actions in forked processes: with limits, to be killed, and with what they printed."""

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import sklearn.linear_model  # noqa: F401
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

# What commands import late: once here, and not in every child.
import cr_hf.cli
import cr_hf.hub.publish
import cr_hf.progress
import cr_hf.runs.train
import cr_hf.runs.use
import cr_hf.study.pictures
import cr_hf.study.study

PERMISSIONS = (1, 2, 3)
"""Of Linux: to write, to read and to own what permissions forbid, as root may."""


@dataclass
class Ended:
    """How a child ended.

    Args:
        code: its exit code; minus the signal that ended it.
        output: what it printed.
        errors: what it printed to standard error.
        peak: most memory that it held in bytes, what it shared with its parent included.
    """

    code: int
    output: str
    errors: str
    peak: int


class Child:
    """A forked process: it shares all that was imported before, so that hundreds of them cost little.

    Args:
        action: what it does; a `SystemExit` is its exit code, any other exception code 1 and a traceback.
        memory: bytes of address space above those that it starts with.
        file_size: bytes of the largest file that it may write, as on a full disk.
        standard_input: what stands there.
        obeys: root, too, keeps to the permissions of files.
    """

    def __init__(
        self,
        action: Callable[[], object],
        memory: int | None = None,
        file_size: int | None = None,
        standard_input: bytes = b"",
        obeys: bool = False,
    ) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        self._files[0].write(standard_input)
        self._files[0].seek(0)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(action, memory, file_size, obeys)

    def _run(self, action: Callable[[], object], memory: int | None, file_size: int | None, obeys: bool) -> None:
        code = 1
        gc.freeze()  # looking through all that the parent holds would copy its pages
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background
        try:
            for number, file in enumerate(self._files):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory,) * 2)
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size,) * 2)
            if obeys:
                _give_up_permissions()
            action()
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Until it has ended."""
        _, status, usage = os.wait4(self.pid, 0)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return Ended(os.waitstatus_to_exitcode(status), texts[1], texts[2], usage.ru_maxrss * 1024)

    def kill(self) -> Ended:
        """At this very moment."""
        os.kill(self.pid, 9)
        return self.wait()


def _give_up_permissions() -> None:
    """As far as the system is Linux and this is root; anybody else obeys anyway."""
    if os.geteuid():
        return
    header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    effective, *others = struct.unpack("6I", sets.raw)
    for number in PERMISSIONS:
        effective &= ~(1 << number)
    if libc.capset(header, struct.pack("6I", effective, *others)):
        raise OSError(ctypes.get_errno(), "capset")


def start_command(command: list[str], folder: Path, **limits: Any) -> Child:
    """`cr-hf` in this folder.

    Args:
        command: its words.
        folder: where it runs; temporary files go there too.
        **limits: of `Child`.
    """

    def run() -> None:
        os.chdir(folder)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
        sys.argv = ["cr-hf", *command]
        cr_hf.cli.main()

    return Child(run, **limits)


def run_command(command: list[str], folder: Path, **limits: Any) -> Ended:
    """The same, until it has ended."""
    return start_command(command, folder, **limits).wait()


class Forked(multiprocessing.get_context("fork").Process):
    """A worker of `accelerate launch` with as much of the interface of `subprocess.Popen` as torch needs."""

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended."""
        self.join(timeout)


def fork_workers() -> None:
    """In a child: let `accelerate launch` fork the workers of `cr-hf`, which need not import everything anew."""

    def start(handler: SubprocessHandler, words: tuple[str, ...], environment: dict[str, str]) -> Forked:
        def work() -> None:
            os.setsid()
            os.environ.update(environment)
            forget_processes()
            sys.argv = ["cr-hf", *words[words.index("cr_hf.cli") + 1 :]]
            cr_hf.cli.main()

        worker = Forked(target=work)
        worker.start()
        return worker

    SubprocessHandler._popen = start  # type: ignore[method-assign]


def forget_processes() -> None:
    """In a child: what accelerate knows of the processes that the parent worked with."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def start_together(action: Callable[[], object], processes: int = 2) -> list[Child]:
    """The same action in processes that work together: what `torchrun` tells its own, without starting Python anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def join(rank: int) -> None:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({name: str(value) for name, value in {**numbers, "MASTER_PORT": port}.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        forget_processes()
        action()

    return [Child(partial(join, rank)) for rank in range(processes)]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """What is below a folder: size and time of change by name; of links, those of the links themselves."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def one_line(ended: Ended) -> str:
    """The line of an error, or what was wrong with how it was told, in brackets."""
    lines = ended.errors.splitlines()
    found = [line for line in lines if line.startswith("error: ")]
    if ended.code != 2 or "Traceback" in ended.errors or len(found) != 1 or lines[-1] != found[0]:
        return f"[exit code {ended.code}] {ended.errors[-1500:]}"
    return found[0].removeprefix("error: ")
