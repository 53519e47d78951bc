"""What the command line reads and shows: texts in, predictions to the terminal or a file, tables of metrics."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import typer

from .errors import DataError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from .evaluation import Task
    from .files import Json
    from .runs import Prediction, Run

Number = TypeVar("Number", int, float)
LINE_ENDS = {ord(char): char.encode("unicode_escape").decode() for char in "\u2028\u2029"} | {0x85: "\\u0085"}
"""Ends of lines for some readers that JSON does not escape."""

WORST = 3
"""Errors that the terminal shows; the run's file has ten."""
WIDE = 200
"""Columns of a table that is not written to a terminal, which has no width to keep to."""


def check_output(
    output: Path | None, overwrite: bool, inputs: Iterable[str] = (), *, option: str = "--output"
) -> None:
    """Refuse, before any work, an output file that cannot be written, that exists, or that is also an input."""
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


def check_page(page: Path | None, overwrite: bool, texts: list[str]) -> None:
    """Refuse, before any work, a page of token sensitivities that could not be written."""
    check_output(page, overwrite, texts, option="--html")
    if page is None:
        return
    if not texts:
        raise DataError(f"--html {page}: give the texts whose tokens are to be shown")
    if importlib.util.find_spec("jinja2") is None:
        raise DataError("--html needs jinja2: pip install 'cr-hf[report]'")


def numbers(option: str, given: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """The value of an option that is numbers with commas between."""
    try:
        return [kind(part) for part in given.split(",")]
    except ValueError:
        raise RecipeError(f"{option} {given!r}: use numbers with commas between, such as {example}") from None


def split_overrides(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """What is to be read, and overrides of how: words of the form `data.key=value`, as fields of `DataConfig`."""
    from .runs import data_overrides

    overrides = [word for word in words if re.match(r"data\.\w+=", word)]
    return [word for word in words if word not in overrides], data_overrides(overrides)


def standard_input() -> IO[str]:
    """Standard input as UTF-8, whatever the locale says; bytes that are not are seen when they are read."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return sys.stdin


def visible(text: str) -> str:
    """Text for the terminal, on one line: control characters, which could act on it, are spelled out."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char
        for char in text
    )


def write_predictions(
    predictions: Iterable[Prediction],
    task: Task,
    output: Path | None,
    csv_safe: bool = False,
    as_json: bool = False,
    separator: str = ",",
) -> None:
    """Show predictions on the terminal, or write them to a file.

    Args:
        predictions: in the order of the rows.
        task: of the model.
        output: a .csv or .jsonl file, which keeps the rows' own columns before the new ones; `None`: the terminal.
        csv_safe: put an apostrophe before cells of a .csv file that a spreadsheet would take for a formula.
        as_json: write to the terminal what a .jsonl file holds.
        separator: between the columns of a .csv file.

    Raises:
        DataError: if a row has columns that the first one lacks, which a .csv file cannot hold.
    """
    if output is None:
        for found in predictions:
            if as_json:
                typer.echo(_json_line({**found.record, **_new_columns(found, task, flat=False)}))
                continue
            label = visible(task.label_of(found.scores))
            radius = "" if found.radius is None else f"\t{found.radius:.3f}"
            typer.echo(f"{label}\t{max(found.scores):.3f}{radius}\t{visible(found.shown)}")
        return
    from transformers.utils import logging as bars

    from .files import open_whole

    count = 0
    with open_whole(output) as handle, bars.tqdm(desc="predict", unit=" rows") as phase:
        table: csv.DictWriter[str] | None = None
        for count, found in enumerate(predictions, 1):
            phase.update(1)
            added = _new_columns(found, task, flat=output.suffix == ".csv")
            row = {**found.record, **added}
            if output.suffix == ".jsonl":
                handle.write(_json_line(row) + "\n")
                continue
            if table is None:
                table = csv.DictWriter(handle, row, delimiter=separator)
                table.writerow({name: _cell_of(name, csv_safe) for name in row})
            if set(row) - set(table.fieldnames):
                extra = sorted(set(row) - set(table.fieldnames))[0]
                raise DataError(f"row {count} has a column {extra!r} that the first one lacks: write to a .jsonl file")
            table.writerow({name: _cell_of(value, csv_safe) for name, value in row.items()})
    columns = f", {separator!r} between its columns" if output.suffix == ".csv" and separator != "," else ""
    typer.echo(f"{count:,} rows written to {output}{columns}")


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str).translate(LINE_ENDS)


def print_json(found: Any) -> None:
    """Write a result for programs."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))


def save_json(found: Any, output: Path | None) -> None:
    """Write a result to the file of --output, if there is one."""
    from .files import write_json

    if output is not None:
        write_json(output, found)


def print_keys(groups: dict[str, dict[str, tuple[str, str]]], words: list[str]) -> None:
    """Keys of a recipe, as many as have one of the words in their name; without words, of transformers' the names."""
    from .runs import TRANSFORMERS

    width = shutil.get_terminal_size().columns - 1
    for title, keys in groups.items():
        found = {name: about for name, about in keys.items() if not words or any(word in name for word in words)}
        if not found:
            continue
        typer.secho(title, bold=True)
        if title == TRANSFORMERS and not words:
            typer.echo(textwrap.fill(", ".join(found), width, initial_indent="  ", subsequent_indent="  "))
            continue
        for name, (default, meaning) in found.items():
            typer.echo(f"  {name}{f'={default}' if default else ''}")
            typer.echo(
                textwrap.fill(meaning.replace("`", ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )


def _new_columns(found: Prediction, task: Task, flat: bool) -> dict[str, Any]:
    """What is added to a row; a name that is taken gets `predicted_` before it."""
    scores = dict(zip(task.label_names, found.scores, strict=True))
    added: dict[str, Any] = {}
    for name, value in [
        ("label", task.label_of(found.scores)),
        *([] if found.radius is None else [("radius", found.radius)]),
        *(scores if flat else {"probabilities": scores}).items(),
    ]:
        while name in found.record or name in added:
            name = f"predicted_{name}"
        added[name] = value
    return added


def _cell_of(value: Any, safe: bool) -> Any:
    cell = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
    return f"'{cell}" if safe and isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def print_metrics(metrics: dict[str, Json]) -> None:
    """A table of metrics, one column a split."""
    from .runs import metric_table

    has_interval = any("accuracy_interval" in values for values in metrics.values())
    _print_table(
        metric_table(metrics), "95 % interval of the accuracy over rows, by bootstrap" if has_interval else ""
    )


def print_run(run: Run) -> None:
    """What a training came to, where it is, and what to do next."""
    results = run.results
    print_metrics(results["metrics"])
    print_answer(run.path, results)
    if "lambda_choice" in results:
        typer.echo(f"DREG lambda {results['lambda_choice']['chosen']:.3g}, chosen on the validation rows.")
    if "search" in results:
        print_search(results["search"])
    if results["data"]["synthetic"]:
        typer.echo("The demo reviews are synthetic: these figures say that it runs, not how good it is.")
    needs_file = run.kind == "table" or run.recipe.data.text_pair_column is not None
    rows = "images.npz" if run.recipe.reads_images else "rows.csv"
    example = rows if needs_file else '"a text of your own"'
    typer.echo(f"Saved in {run.path}, with its card README.md. Try: cr-hf predict {run.path} {example}")


def print_search(found: Json) -> None:
    """The settings that were tried, the best first."""
    rows = []
    for trial in found["trials"][:10]:
        values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial["values"].values())
        rows.append(["-" if trial["score"] is None else f"{trial['score']:.4f}", *values])
    header = [f"validation {found['metric']}", *found["trials"][0]["values"]]
    _print_table([header, *rows], f"{len(found['trials'])} settings; the first is trained, and recipe.yaml has it.")


def print_answer(run_dir: Path, results: Json) -> None:
    """Scores by class, what is confused, the worst errors, simpler classifiers, and what was noted of the data."""
    from .runs import ERRORS, Answer, beside_sentence, class_rows, confusion_rows, worst_lines

    if (found := Answer.of(results)) is None:
        return
    _print_table(class_rows(found))
    if confused := confusion_rows(found):
        _print_table(confused)
    noted = (results["data"].get("understood") or {}).get("notes", [])
    worst = worst_lines(run_dir)
    if worst:
        where = run_dir / ERRORS
        typer.echo(f"The worst errors on {found.split}, by the probability p of the label; more in {where}:")
    for line in [*worst[:WORST], beside_sentence(found), *(f"Noted in the data: {note}." for note in noted)]:
        if line:
            typer.echo(visible(line))


def print_robustness(found: Json) -> None:
    """A table of accuracies on damaged texts, one row a kind of damage."""
    rows = [["damage", "none", *"12345", "mean - none [95 %]"]]
    for kind, curve in found["kinds"].items():
        accuracies = [100 * accuracy for accuracy in (found["clean_accuracy"], *curve["accuracies"])]
        change, low, high = (100 * value for value in (curve["change"], *curve["change_interval"]))
        rows.append(
            [kind, *(f"{accuracy:.1f}" for accuracy in accuracies), f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"]
        )
    _print_table(rows, f"accuracy in % on damaged texts ({found['rows']} rows, seed {found['seed']})")


def print_diagnostics(columns: dict[str, Json], output: str) -> None:
    """A table of diagnostics, one column a split."""
    from .runs import diagnostic_rows

    title = "[low, high]: 95 % intervals by bootstrap over rows. Gradients by normalised features."
    _print_table([["diagnostic", *columns], *diagnostic_rows(columns, output)], title)


def print_markdown(text: str) -> None:
    """Markdown as it is, or laid out where it goes to a terminal."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.markdown import Markdown

    _console().print(Markdown(text))


def _console() -> Console:
    from rich.console import Console

    width, height = shutil.get_terminal_size()
    # Given a width alone, rich takes 80 columns for a terminal that says it is dumb.
    return Console(width=width if sys.stdout.isatty() else WIDE, height=height)


def _print_table(rows: list[list[str]], note: str = "") -> None:
    """Print a table whose first row is its header, and a line that explains it."""
    from rich.markup import escape
    from rich.table import Table

    console = _console()
    if sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True)) > console.width:
        # What stands in brackets goes below, and long names are folded.
        fold = {" [": "\n[", " (": "\n(", ", ": ","}
        rows = [[name.replace("_", " "), *(_replaced(cell, fold) for cell in cells)] for name, *cells in rows]
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(escape(name), justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)
    if note:
        typer.echo(note)


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
