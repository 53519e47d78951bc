"""Many random small tables, read and trained on: read as they were written, or refused in one line."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence

from cr_hf.files import write_json

from .runner import RESULTS, ROOT

COUNTS = re.compile(r"tried (\d+) / trained (\d+) / refused (\d+) / wrong 0 / traceback 0")


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/fuzz.json; a table that is read otherwise ends it with the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fuzz", description=__doc__)
    parser.add_argument("--tables", type=int, default=20_000, help="by default %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="by default %(default)s")
    parser.add_argument("--train-every", type=int, default=1, help="train on one in so many, by default each")
    options = parser.parse_args(argv)
    environment = {**os.environ, "FUZZ_EXAMPLES": str(-(-options.tables // options.processes)), "OMP_NUM_THREADS": "1"}
    environment["FUZZ_TRAIN_EVERY"] = str(options.train_every)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cases/test_fuzz.py"]
    command += ["-k", "as_written or most_tables"]
    running = [
        subprocess.Popen(
            [*command, f"--hypothesis-seed={seed}"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for seed in range(options.processes)
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit("\n".join(printed))
    counts = [[int(number) for number in COUNTS.findall(text)[0]] for text in printed]
    tried, trained, refused = (sum(numbers) for numbers in zip(*counts, strict=True))
    write_json(
        RESULTS / "fuzz.json", {"tried": tried, "trained": trained, "refused": refused, "wrong": 0, "traceback": 0}
    )


if __name__ == "__main__":
    main()
