"""A finished study as files (tables and CSV always, pictures with the `report` extra) and the curve of lambda."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from .study_tables import heads_of, study_csv, study_tables

# Okabe and Ito's palette: told apart by colour-blind readers too. Markers tell the heads apart without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def write_report(study: dict[str, Any], folder: Path) -> bool:
    """Write `study.md` and `study.csv` and, where matplotlib is installed, `study.png`.

    Args:
        study: as `run_study` returns it.
        folder: of the study.

    Returns:
        Whether there are pictures.
    """
    (folder / "study.md").write_text(study_tables(study) + "\n", encoding="utf-8")
    (folder / "study.csv").write_text(study_csv(study), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        return False
    plot_study(study, folder / "study.png")
    return True


def plot_study(study: dict[str, Any], path: Path) -> None:
    """Test accuracy against the share of the labels, one line a head, bars of 95 % intervals.

    Args:
        study: as `run_study` returns it.
        path: of the PNG file.
    """
    from matplotlib.figure import Figure

    fractions = [float(name) for name in study["fractions"]]
    entries = list(study["fractions"].values())
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    heads = heads_of(study)
    for number, head in enumerate(heads):
        means = 100 * np.array([np.mean(entry["heads"][head]["test_accuracies"]) for entry in entries])
        intervals = 100 * np.array([entry["heads"][head]["accuracy_interval"] for entry in entries])
        # The heads stand side by side, or their bars would hide each other.
        shifted = np.array(fractions) * 1.04 ** (number - (len(heads) - 1) / 2)
        axes.errorbar(
            shifted,
            means,
            yerr=np.abs(intervals.T - means),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
            label=head,
        )
    axes.set_xscale("log")
    axes.set_xticks(fractions, [f"{fraction:.0%}" for fraction in fractions])
    axes.minorticks_off()
    axes.set_xlabel("share of the training labels")
    axes.set_ylabel("test accuracy in % (95 % intervals over seeds and rows)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def plot_lambda(choice: dict[str, Any], path: Path) -> None:
    """Validation accuracy against lambda with one standard error over rows, and the lambda that was chosen.

    Args:
        choice: `lambda_choice` of a run's `results.json`.
        path: of the PNG file.
    """
    from matplotlib.figure import Figure

    accuracies, errors = 100 * np.array(choice["accuracies"]), 100 * np.array(choice["standard_errors"])
    best = choice["grid"].index(choice["best"])
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(choice["grid"], accuracies, yerr=errors, color=COLOURS[0], marker=MARKERS[0], capsize=3)
    floor = f"best ({choice['best']:.3g}) less one standard error"
    axes.axhline(accuracies[best] - errors[best], color=COLOURS[1], linestyle="--", label=floor)
    axes.axvline(choice["chosen"], color=COLOURS[2], linestyle=":", label=f"chosen: {choice['chosen']:.3g}")
    axes.set_xscale("log")
    axes.set_xlabel("DREG lambda")
    axes.set_ylabel(f"validation accuracy in % (mean of {len(choice['seeds'])} seeds)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)
