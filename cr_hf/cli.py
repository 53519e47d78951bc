"""The command line. Every command imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from . import __version__
from .cache_commands import cache
from .console import (
    check_output,
    check_page,
    check_plot,
    numbers,
    print_diagnostics,
    print_json,
    print_keys,
    print_markdown,
    print_metrics,
    print_robustness,
    print_run,
    save_json,
    split_overrides,
    standard_input,
    visible,
    write_predictions,
)
from .errors import CRError, DataError, RecipeError
from .share_commands import demo, export, publish

if TYPE_CHECKING:
    from .runs import Recipe

Rows = Annotated[
    list[str] | None,
    typer.Argument(help="Texts, or .txt, .csv, .tsv, .jsonl, ... files; and how to read them: data.text_column=body."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as learning_rate=1e-3; `cr-hf keys` lists them.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the answer.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what transformers and other libraries say, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON in place of tables, for programs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that is there.")]
HEADS = "logistic-regression,linear,mlp-gelu,cr,cr+dreg,gelu+dreg"
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's Markdown takes longer to import than all else that help needs
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"cr-hf {__version__}")
        raise typer.Exit


app.add_typer(cache, name="cache")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """ChainzRule heads with DREG for Hugging Face models."""


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file, such as recipes/sst5_frozen.yaml; or your rows, such as my.csv.")
    ],
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in output_dir.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run in output_dir.")] = False,
    num_processes: Annotated[
        int | None, typer.Option(help="Processes on this machine, as `accelerate launch` starts them.", min=1)
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train what a recipe describes and write a run directory."""
    checked = _checked(recipe, overrides)
    from .progress import launch, set_verbosity, stoppable
    from .runs import check_directory

    if "RANK" not in os.environ:  # before the heavy imports, and in one line where several processes would say it
        check_directory(checked, overwrite, resume)
    with stoppable("go on with: {command} --resume"):
        if num_processes is not None and num_processes > 1:
            given = {"--overwrite": overwrite, "--resume": resume, "--quiet": quiet, "--verbose": verbose}
            flags = [flag for flag, is_given in given.items() if is_given]
            sys.exit(launch(num_processes, ["train", str(recipe), *(overrides or []), *flags]))
        set_verbosity(quiet, verbose)
        from .runs import Run, train_recipe

        run_dir = train_recipe(checked, overwrite=overwrite, resume=resume)
    if os.environ.get("RANK", "0") == "0":
        print_run(Run(run_dir))


@app.command()
def new(
    rows: Annotated[Path, typer.Argument(help="Your labelled rows: .csv, .tsv, .jsonl, .parquet, ... or a folder.")],
    output: Annotated[Path | None, typer.Option(help="The recipe; NAME.yaml in this folder by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at your rows, say what was understood, and write a recipe for them."""
    target = output or Path(f"{rows.resolve().name.split('.')[0]}.yaml")
    check_output(target, overwrite, [str(rows)])
    _speak()
    from .runs import new_recipe

    for line in new_recipe(rows, target):
        typer.echo(visible(line))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Other data: data.test_file=x.csv, ...")] = None,
    split: Annotated[str, typer.Option(help="train, validation (or dev) or test.")] = "test",
    perturb: Annotated[
        str, typer.Option(help="Also on damaged texts: typos, drop, swap and case (of words), with commas between.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of --perturb.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the metrics to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy by severity of --perturb: .png or .svg.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a finished run on a split of its data, or of other data."""
    check_output(output, overwrite)
    kinds = [kind.strip() for kind in perturb.split(",") if kind.strip()]
    check_plot(plot, overwrite, kinds)
    from .data import split_named
    from .evaluation import check_kinds
    from .runs import Run, data_overrides

    split = split_named(split)
    check_kinds(kinds)

    data = data_overrides(overrides or [])
    Run(run).check_data(data)
    _speak(quiet, verbose)
    from .runs import evaluate_run

    metrics = evaluate_run(run, split, data, kinds, seed)
    if as_json:
        print_json(metrics)
    else:
        print_metrics({split: metrics})
        if kinds:
            print_robustness(metrics["robustness"])
    if plot is not None:
        from .study import plot_robustness

        plot_robustness(metrics["robustness"], plot)
    save_json(metrics, output)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    texts: Rows = None,
    output: Annotated[Path | None, typer.Option(help="A .jsonl or .csv to write, with the rows' own columns.")] = None,
    overwrite: Overwrite = False,
    csv_safe: Annotated[
        bool, typer.Option("--csv-safe", help="Put ' before cells that a spreadsheet would take for formulas.")
    ] = False,
    radius: Annotated[
        bool, typer.Option("--radius", help="Add how far the features can move, in L2, before the class can change.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row on the terminal.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Classify texts, files of texts, or standard input (-, one text a line); or the rows of a table."""
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise DataError(f"--output {output}: the name must end in .jsonl or .csv")
    if csv_safe and (output is None or output.suffix != ".csv"):
        raise DataError("--csv-safe is for a file: give --output with a name that ends in .csv")
    check_output(output, overwrite, texts or [])
    from .runs import Run

    source, overrides = split_overrides(texts or [])
    found = Run(run)
    found.check_inputs(source, overrides)
    _speak(quiet, verbose)
    from .runs import predict_run

    given = standard_input() if found.kind == "texts" and source in ([], ["-"]) else source
    predictions = predict_run(found, given, overrides, radius)
    write_predictions(predictions, found.task, output, csv_safe, as_json, found.separator(source, overrides))


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(help="A YAML file of a frozen regime.")],
    overrides: Overrides = None,
    heads: Annotated[str, typer.Option(help="Names with commas between.")] = HEADS,
    fractions: Annotated[str | None, typer.Option(help="Of the training rows; 0.05,1 by default.")] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Labels a class in place of fractions, such as 8,16,32; cross-validation chooses."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 10,
    search_seeds: Annotated[int, typer.Option(help="The first so many choose each head's setting on dev.")] = 5,
    comparisons: Annotated[
        str | None, typer.Option(help="At most five HEAD:REFERENCE; by default every head against mlp-gelu.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Its folder; a study that was stopped goes on.")] = Path("runs/study"),
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare heads on the same features and recommend one, in report.html, pictures and study.json, .csv and .md."""
    checked = _checked(recipe, overrides)
    shares = numbers("--fractions", fractions or "0.05,1", float, "0.05,1")
    labels_a_class = numbers("--shots", shots, int, "8,16") if shots is not None else []
    if shots is not None and fractions is not None:
        raise RecipeError("--shots and --fractions: give one of them")
    if output.exists() and not output.is_dir():
        raise RecipeError(f"--output {output} is a file: choose another folder")
    from .progress import say, set_verbosity, stoppable

    set_verbosity(quiet, verbose)
    with stoppable("the same command goes on with what is done"):
        from .files import writing
        from .study import run_study, study_tables, write_report

        found = run_study(
            checked,
            [name.strip() for name in heads.split(",")],
            shares,
            seeds,
            output,
            shots=labels_a_class,
            comparisons=comparisons,
            search_seeds=search_seeds,
            progress=(lambda line: None) if quiet else say,
        )
        with writing(output):
            has_page = write_report(found, output)
    if as_json:
        print_json(found.to_json())
        return
    print_markdown(study_tables(found))
    typer.echo(f"See {output / 'report.html'}" if has_page else "For report.html: pip install 'cr-hf[report]'")


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    texts: Rows = None,
    output: Annotated[Path | None, typer.Option(help="Write the diagnostics to this JSON file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Show how sensitive the first 50 texts are to each word.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show how sensitive and how calibrated a run is, and whether new texts, without labels, look usual to it."""
    check_output(output, overwrite, texts or [])
    check_page(html, overwrite, texts or [])
    from .runs import Run

    source, overrides = split_overrides(texts or [])
    found = Run(run)
    if texts:
        found.check_inputs(source, overrides)
        _speak(quiet, verbose)
    from .runs import comparison_lines, diagnose_run, sensitivity_verdict

    columns, kept = dict(found.reference["splits"]), dict(found.reference)
    lines = sensitivity_verdict(found.reference)
    if texts:
        what = "rows" if found.kind == "table" else "texts"
        new = diagnose_run(found, source, overrides, html)
        columns[f"new {what}"] = kept[f"new_{what}"] = new
        lines = comparison_lines(new, what)
    if as_json:
        print_json(kept)
    else:
        typer.echo("\n".join([*lines, ""]))
        print_diagnostics(columns, found.reference["output"])
    save_json(kept, output)


@app.command()
def keys(
    words: Annotated[list[str] | None, typer.Argument(help="Only keys whose name has one of these words.")] = None,
) -> None:
    """List the keys of a recipe with their defaults and meanings; each can be given as key=value, too."""
    from .runs import recipe_keys

    print_keys(recipe_keys(), words or [])


for command in (publish, export, demo):
    app.command()(command)


def _speak(quiet: bool = False, verbose: bool = False) -> None:
    from .progress import set_verbosity  # imports transformers: what can be refused has been

    set_verbosity(quiet, verbose)


def _checked(recipe: Path, overrides: list[str] | None) -> Recipe:
    """A recipe, checked with the files that it names as far as that goes before seconds of importing."""
    from .runs import load_recipe

    checked = load_recipe(recipe, overrides)
    checked.check_data()
    return checked


def main() -> None:
    """Run the command line: a mistake of the user's is one line and exit code 2."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # texts and names of files are UTF-8, whatever the locale says
        os.execv(sys.executable, sys.orig_argv)
    try:
        if sys.flags.optimize > 1:
            raise CRError("PYTHONOPTIMIZE=2 takes away the docstrings that transformers reads: unset it")
        app()
    except CRError as error:
        _stop(str(error))
    except ValueError as error:
        from .modeling import TokenizerError

        if not isinstance(error, TokenizerError):  # the one error of modeling/ that comes when texts do
            raise
        _stop(str(error))
    except OSError as error:
        from .files import disk_error

        cause = disk_error(error)
        if cause is None:
            raise
        _stop(f"{error.filename or 'the output'}: {cause}: free some space, or choose another place")


def _stop(message: str) -> NoReturn:
    typer.secho(f"error: {visible(message)}", fg=None if os.environ.get("NO_COLOR") else "red", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
