"""The command line on a pseudo-terminal, in a forked process."""

import fcntl
import os
import pty
import struct
import sys
import termios


def on_terminal(command: list[str], columns: int, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code, and all that was written to the terminal, control characters included.

    Args:
        command: words of `cr-hf`.
        columns: of the terminal.
        environment: variables to set; `COLUMNS`, which would replace the width, is taken away.
    """
    import cr_hf.cli

    pid, terminal = pty.fork()
    if pid == 0:
        code = 1
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
            os.environ.pop("COLUMNS", None)
            os.environ.update(environment)
            sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
            sys.argv = ["cr-hf", *command]
            cr_hf.cli.main()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    seen = b""
    while chunk := _read(terminal):
        seen += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says that all writers have left with an error
        return b""
