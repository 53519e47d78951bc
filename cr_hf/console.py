"""What the command line reads and shows: texts in, predictions to the terminal or a file, tables of metrics."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from .errors import DataError

if TYPE_CHECKING:
    from .evaluation import Task


def check_output(
    output: Path | None, overwrite: bool, inputs: Iterable[str] = (), *, option: str = "--output"
) -> None:
    """Refuse, before any work, a file that could not be written, one that is there, and one that is read."""
    if output is None:
        return
    if any(os.path.exists(name) and output.exists() and output.samefile(name) for name in inputs):
        raise DataError(f"{option} {output} is the input itself: name another file")
    if output.is_file() and not overwrite:
        raise DataError(f"{option} {output} is there already: give --overwrite, or name another file")
    if output.is_dir():
        raise DataError(f"{option} {output} is a folder: name a file in it")
    if not output.parent.is_dir():
        raise DataError(f"{option} {output}: there is no folder {output.parent}: make it, or choose another file")


def check_plot(plot: Path | None, overwrite: bool, kinds: list[str]) -> None:
    """Refuse, before any work, a picture of robustness that could not be drawn."""
    check_output(plot, overwrite, option="--plot")
    if plot is None:
        return
    if plot.suffix not in (".png", ".svg"):
        raise DataError(f"--plot {plot}: the name must end in .png or .svg")
    if not kinds:
        raise DataError(f"--plot {plot}: give --perturb, whose accuracies are drawn")
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError("--plot needs matplotlib: pip install 'cr-hf[report]'")


def texts_of(arguments: list[str]) -> Iterable[str]:
    """The texts of a command: given one by one, in a file, or on standard input, one a line."""
    from .data import DataConfig, read_inputs

    return (row.text for row in read_inputs(arguments or sys.stdin, DataConfig()))


class PredictionWriter:
    """Writes one row a text: to the terminal, or to a file that appears under its name once it is whole."""

    def __init__(self, output: Path | None, task: Task) -> None:
        self.output, self.task = output, task

    def __enter__(self) -> Any:
        if self.output is None:
            return lambda text, row: typer.echo(f"{self.task.label_of(row)}\t{max(row):.3f}\t{text}")
        self.part = self.output.with_name(f".{self.output.name}.part")
        self.handle: IO[str] = self.part.open("w", encoding="utf-8", newline="")
        if self.output.suffix == ".csv":
            rows = csv.writer(self.handle)
            rows.writerow(["text", "label", *self.task.label_names])
            return lambda text, row: rows.writerow([text, self.task.label_of(row), *row])
        return lambda text, row: self.handle.write(json.dumps(self._record(text, row), ensure_ascii=False) + "\n")

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.output is None:
            return
        self.handle.close()
        if error is None:
            self.part.replace(self.output)
        else:
            self.part.unlink()

    def _record(self, text: str, row: list[float]) -> dict[str, Any]:
        return {
            "text": text,
            "label": self.task.label_of(row),
            "probabilities": dict(zip(self.task.label_names, row, strict=True)),
        }


def print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    """A table of metrics, one column a split."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="95 % interval of the accuracy over rows, by bootstrap")
    table.add_column("metric", no_wrap=True)
    for split, values in metrics.items():
        table.add_column(f"{split} ({values['rows']} rows)", justify="right")
    first = next(iter(metrics.values()))
    for name in first:
        if name not in ("rows", "accuracy_interval", "robustness"):
            table.add_row(name, *[_cell(values, name) for values in metrics.values()])
    Console().print(table)


def print_robustness(found: dict[str, Any]) -> None:
    """A table of accuracies on damaged texts, one row a kind of damage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"accuracy in % on damaged texts ({found['rows']} rows, seed {found['seed']})")
    for name in ("damage", "none", *"12345", "mean - none [95 %]"):
        table.add_column(name, no_wrap=True)
    for kind, curve in found["kinds"].items():
        accuracies = [100 * accuracy for accuracy in (found["clean_accuracy"], *curve["accuracies"])]
        change, low, high = (100 * value for value in (curve["change"], *curve["change_interval"]))
        shown = f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"
        table.add_row(kind, *[f"{accuracy:.1f}" for accuracy in accuracies], shown)
    Console().print(table)


def print_diagnostics(columns: dict[str, dict[str, Any]], output: str) -> None:
    """A table of diagnostics, one column a split."""
    from rich.console import Console
    from rich.table import Table

    from .runs import diagnostic_rows

    table = Table(title="\\[low, high]: 95 % intervals by bootstrap over rows. Gradients by normalised features.")
    table.add_column("diagnostic")
    for name in columns:
        table.add_column(name, justify="right")
    for name, cells in diagnostic_rows(columns, output):
        table.add_row(name, *[cell.replace("[", "\\[") for cell in cells])
    Console().print(table)


def _cell(values: dict[str, Any], name: str) -> str:
    if name != "accuracy":
        return f"{values[name]:.4f}"
    low, high = values["accuracy_interval"]
    return f"{values[name]:.4f} [{low:.3f}, {high:.3f}]"
