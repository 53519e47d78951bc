"""Measure peers in turn (A B A B ...) in one process, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cr_hf.data import DataConfig, load_rows
from cr_hf.files import write_json
from cr_hf.runs.results import describe_machine

RESULTS = Path(__file__).resolve().parent / "results"


def options(doc: str | None, data: str | None = None) -> argparse.Namespace:
    """The options of a benchmark; `data` is the default of `--data`, `None` where numbers are drawn."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("--data", type=Path, default=Path(data), metavar="FOLDER", help="by default %(default)s")
    return parser.parse_args()


def texts_of(folder: Path, count: int) -> list[str]:
    """Training texts of SST-5, or the embedded reviews where its folder is not there."""
    data = DataConfig(dir=str(folder)) if folder.is_dir() else DataConfig(name="embedded")
    return load_rows(data, splits=["train"])["train"]["text"][:count]


def in_turn(work: dict[str, Callable[[], object]], rounds: int, repeat: int = 1, warm_up: int = 2) -> dict[str, list]:
    """Seconds of each round of each peer, all measured in turn.

    A measurement is the mean of `repeat` calls; `warm_up` calls of each peer come before the first one.
    """
    for _ in range(warm_up):
        for call in work.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            seconds[name].append((time.perf_counter() - start) / repeat)
    return seconds


def ratio(name: str, ours: list[float], peer: list[float], target: float | None = None) -> dict[str, Any]:
    """Ours over peer, seconds of the same rounds: the median and the quartiles of the ratios.

    `target` is the ratio aimed at, at most; `None` (default) where it is only shown.
    """
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    quartiles = [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]]
    row = {"name": name, "ratio": median(ratios), "quartiles": quartiles, "rounds": len(ratios), "target": target}
    return {**row, "milliseconds_ours": 1000 * median(ours), "milliseconds_peer": 1000 * median(peer)}


def by_threads(measure: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What `measure` gives with one thread and then with all; every row says with how many."""
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        torch.compiler.reset()  # a compiled program holds the number of threads
        rows += [{**row, "threads": threads} for row in measure()]
    return rows


def publish(file_name: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows as one JSON line and as a table, and write benchmarks/results/FILE_NAME.json."""
    result = {"environment": describe_machine(), "rows": rows}
    print(json.dumps(result))
    table = Table("work", "ratio", "quartiles", "target")
    for row in rows:
        low, high = row["quartiles"]
        goal = "shown" if row["target"] is None else f"<= {row['target']}"
        table.add_row(row["name"], f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}", goal)
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{file_name}.json", result)
