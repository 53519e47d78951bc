"""`cr-hf --help` in a fresh process, against one that imports only typer and rich, which every such command needs."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from harness import in_turn, options, publish, ratio

HELP = [str(Path(sys.executable).with_name("cr-hf")), "--help"]
BARE = [sys.executable, "-c", "import typer, rich"]


def main() -> None:
    """Measure, and write benchmarks/results/start.json."""
    options(__doc__)
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    seconds = in_turn({"help": lambda: run(HELP), "bare": lambda: run(BARE)}, rounds=15)
    publish("start", [ratio("cr-hf --help / python importing typer and rich", seconds["help"], seconds["bare"], 1.5)])


if __name__ == "__main__":
    main()
