"""Pictures of studies, choices of lambda and robustness: matplotlib figures that a phone shows legibly.

Okabe and Ito's palette is told apart by colour-blind readers too, and markers tell the heads apart without colour.
"""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..files import Json
from ..modeling import hermite_coefficients
from ..runs import LambdaChoice
from .results import Cell, Study

TEXT, GRID = "#1b1b1b", "#b4b4b4"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", TEXT)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
STYLE: Any = {
    "font.size": 12,
    "svg.fonttype": "none",
    "svg.hashsalt": "cr_hf",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.0,
    "axes.titlesize": "medium",
    "figure.labelsize": "medium",
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
}
WIDTH = 4.8
SHOWN_UNITS = 6
LEAST_BIN_ROWS = 10
"""Of a bin of the reliability diagram: the accuracy of fewer says nothing."""
COEFFICIENTS = ("dreg_lambda", "penalty_weight", "penalty")  # the last in studies of version 0.1.0


# ---- of a study ----


@matplotlib.rc_context(STYLE)
def draw_differences(study: Study) -> Figure:
    """Forest plot of the declared comparisons on test, one line each and a mark a fraction, with 95 % intervals."""
    figure, (axes,) = _figure()
    names = [f"{one.head}\nminus {one.reference}" for one in study.comparisons]
    for number, (fraction, entry) in enumerate(study.fractions.items()):
        look, amount = _look(number), study.amount(fraction)
        places = np.arange(len(names)) + 0.6 * ((number + 0.5) / len(study.fractions) - 0.5)
        for place, one in zip(places, entry.comparisons, strict=True):
            mean, (low, high) = 100 * one.difference, (100 * end for end in one.interval)
            fill = look["color"] if one.claimed else "none"
            bars = [[mean - low], [high - mean]]
            axes.errorbar(mean, place, xerr=bars, capsize=2, markerfacecolor=fill, label=amount, **look)
    axes.axvline(0, color=TEXT, linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="difference in test accuracy, points", ylim=(len(names) - 0.4, -0.6))
    figure.set_figheight(1 + len(names) * max(0.45, 0.2 * len(study.fractions)))
    return _with_legend(figure, axes)


@matplotlib.rc_context(STYLE)
def draw_tail_ratio(study: Study) -> Figure:
    """Gradient tail ratio against the share of the labels, one line a head, with 95 % t intervals over seeds."""

    def mean_and_ends(cell: Cell) -> tuple[float, float, float]:
        values = cell.per_seed("gradient_tail_ratios")
        half = _t_half_width(float(values.std(ddof=1)), len(values))
        return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half

    figure, (axes,) = _figure()
    fractions = np.array([float(name) for name in study.fractions])
    heads = list(study.largest)
    # The heads stand side by side, or their bars would hide each other; never as far as the next fraction.
    ordered = np.sort(fractions)
    nearest = (ordered[1:] / ordered[:-1]).min() if len(ordered) > 1 else 2.0
    step = min(1.04, nearest ** (0.7 / len(heads)))
    for head in heads_with(study, "gradient_tail_ratios"):
        number = heads.index(head)
        found = [mean_and_ends(entry.heads[head]) for entry in study.fractions.values()]
        means, lows, highs = np.array(found).T
        places = fractions * step ** (number - (len(heads) - 1) / 2)
        axes.errorbar(places, means, yerr=[means - lows, highs - means], capsize=2, label=head, **_look(number))
    axes.set_xscale("log")
    axes.set_xticks(fractions, [study.amount(name).split()[0] for name in study.fractions])
    axes.minorticks_off()
    margin = step ** (0.5 * len(heads) + 1)
    axes.set_xlim(ordered[0] / margin, ordered[-1] * margin)
    share = "labels a class" if study.is_few else "share of the training labels"
    axes.set(xlabel=share, ylabel="gradient tail ratio")
    return _with_legend(figure, axes)


def heads_with_coefficient(study: Study) -> dict[str, str]:
    """Heads that tried several coefficients of a penalty, and what their settings call it."""
    return {
        head: name for head, cell in study.largest.items() for name in COEFFICIENTS if name in cell.tried[0].setting
    }


@matplotlib.rc_context(STYLE)
def draw_lambda(study: Study) -> Figure:
    """Dev accuracy against lambda at the largest fraction, 95 % t intervals over seeds; rings mark what was chosen."""
    figure, (axes,) = _figure()
    cells, heads = study.largest, list(study.largest)
    named = heads_with_coefficient(study)
    for place, (head, name) in enumerate(named.items()):
        tried, chosen, look = cells[head].tried, cells[head].chosen, _look(heads.index(head))
        places = [one.setting[name] * 1.04 ** (place - (len(named) - 1) / 2) for one in tried]
        means = [100 * one.dev_accuracy for one in tried]
        halves = [_t_half_width(100 * one.dev_deviation, study.search_seeds) for one in tried]
        axes.errorbar(places, means, yerr=halves, capsize=2, label=head, **look)
        axes.plot(places[chosen], means[chosen], "o", markersize=13, fillstyle="none", color=look["color"])
    axes.set_xscale("log")
    ticks = sorted({one.setting[name] for head, name in named.items() for one in cells[head].tried})
    ticks = ticks[:: -(-len(ticks) // 6)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="lambda, the coefficient of the penalty", ylabel=f"{study.chosen_by} accuracy in %")
    return _with_legend(figure, axes)


def heads_with(study: Study, measure: str) -> list[str]:
    """Heads that have a measure at the largest fraction: what is no network has no gradient, an SVM no confidence."""
    return [head for head, cell in study.largest.items() if getattr(cell, measure)]


@matplotlib.rc_context(STYLE)
def draw_polynomials(study: Study) -> Figure:
    """Learned polynomials of some units of the first layer, one panel a head, beside GELU's cubic and the identity."""
    heads, cells = heads_with(study, "coefficients"), study.largest
    figure, panels = _figure(len(heads))
    z = np.linspace(-3, 3, 121)
    for head, axes in zip(heads, panels, strict=False):
        coefficients = np.array(cells[head].coefficients)
        # From the flattest at 0 to the steepest, so that the spread is seen.
        order = coefficients[1].argsort()
        shown = order[np.linspace(0, len(order) - 1, min(SHOWN_UNITS, len(order))).round().astype(int)]
        for number, unit in enumerate(shown):
            axes.plot(z, np.polynomial.polynomial.polyval(z, coefficients[:, unit]), color=COLOURS[number])
        start = np.polynomial.polynomial.polyval(z, hermite_coefficients(len(coefficients) - 1))
        axes.plot(z, start, color=TEXT, linestyle="--", label="polynomial nearest to GELU")
        axes.plot(z, z, color=TEXT, linestyle=":", label="identity")
        axes.set(title=head, xlabel="pre-activation z")
    panels[0].set_ylabel("p(z)")
    return _with_legend(figure, panels[0], lines=True)


@matplotlib.rc_context(STYLE)
def draw_reliability(study: Study) -> Figure:
    """Accuracy against confidence on test at the largest fraction, one panel a head, with 95 % Wilson intervals."""
    cells, rows = study.largest, study.data["rows"]["test"]
    heads, known = list(study.largest), heads_with(study, "reliability")
    figure, panels = _figure(len(known))
    for head, axes in zip(known, panels, strict=False):
        number, cell = heads.index(head), cells[head]
        # As many rows as there are, not rows times seeds: the seeds predict the same ones.
        bins = [one for one in cell.reliability or [] if round(rows * one.share) >= LEAST_BIN_ROWS]
        confidences = np.array([one.confidence for one in bins])
        accuracies = np.array([one.accuracy for one in bins])
        counts = np.array([round(rows * one.share) for one in bins])
        axes.plot([0, 1], [0, 1], color=GRID, linestyle="--", zorder=0)
        if bins:
            bars = _wilson(accuracies, counts)
            axes.errorbar(confidences, accuracies, yerr=bars, capsize=2, clip_on=False, **_look(number))
        error = cell.per_seed("expected_calibration_errors").mean()
        axes.set_title(head, fontsize=12 if len(head) <= 16 else 10, pad=8)
        axes.text(0.98, 0.04, f"{error:.3f}", ha="right")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.supxlabel("confidence")
    figure.supylabel("accuracy on test")
    return figure


# ---- of a run ----


@matplotlib.rc_context(STYLE)
def plot_lambda(choice: LambdaChoice, path: Path) -> None:
    """Validation accuracy against lambda with one standard error over rows, and the lambda that was chosen."""
    figure, (axes,) = _figure()
    accuracies, errors = 100 * np.array(choice.accuracies), 100 * np.array(choice.standard_errors)
    best = choice.grid.index(choice.best)
    axes.errorbar(choice.grid, accuracies, yerr=errors, capsize=2, **_look(0))
    floor = f"best ({choice.best:.3g}) less one standard error"
    axes.axhline(accuracies[best] - errors[best], color=COLOURS[1], linestyle="--", label=floor)
    axes.axvline(choice.chosen, color=COLOURS[2], linestyle=":", label=f"chosen: {choice.chosen:.3g}")
    accuracy = f"validation accuracy in %\n(mean of {len(choice.seeds)} seeds)"
    axes.set(xscale="log", xlabel="DREG lambda", ylabel=accuracy)
    save_picture(_with_legend(figure, axes, lines=True), path)


@matplotlib.rc_context(STYLE)
def plot_robustness(found: Json, path: Path) -> None:
    """Accuracy against the severity of each kind of damage, with 95 % Wilson intervals over rows.

    `found` is what `evaluation.text_robustness` returns.
    """
    figure, (axes,) = _figure()
    kinds = found["kinds"]
    for number, (kind, curve) in enumerate(kinds.items()):
        accuracies = np.array([found["clean_accuracy"], *curve["accuracies"]])
        places = np.arange(len(accuracies)) + 0.08 * (number - (len(kinds) - 1) / 2)
        errors = 100 * np.array(_wilson(accuracies, np.full(len(accuracies), found["rows"])))
        axes.errorbar(places, 100 * accuracies, yerr=errors, capsize=2, label=kind, **_look(number))
    axes.set(xlabel="severity of the damage (0: none)", ylabel="accuracy in %")
    save_picture(_with_legend(figure, axes), path)


# ---- files ----


@matplotlib.rc_context(STYLE)
def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, or as what the path's suffix says."""
    figure.savefig(path, dpi=200)


@matplotlib.rc_context(STYLE)
def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as an SVG element for a page, in the page's own text and grid colours.

    The name is put before every id, so that no two pictures share one; the description is read out for the picture.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r' (xmlns(:\w+)?|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(TEXT, "var(--text)", svg, flags=re.IGNORECASE)
    svg = re.sub(GRID, "var(--line)", svg, flags=re.IGNORECASE)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


# ---- parts ----


def _figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels, two a row."""
    columns = min(2, panels)
    lines = -(-panels // columns)
    height = 3.5 if panels == 1 else 0.4 + 2.1 * lines
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=panels > 1, sharey=panels > 1)
    axes = list(grid.ravel())
    for unused in axes[panels:]:
        unused.remove()
    for one in axes[:panels]:
        one.grid(axis="y", color=GRID, linewidth=0.5, alpha=0.6)
        one.set_axisbelow(True)
    return figure, axes[:panels]


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _with_legend(figure: Figure, axes: Axes, lines: bool = False) -> Figure:
    """The legend below the picture, where it hides nothing: one entry a line, or as many side by side as fit."""
    found, names = axes.get_legend_handles_labels()
    labels, handles = zip(*dict(zip(names, found, strict=True)).items(), strict=True)  # each once
    longest = max(len(label) for label in labels)
    columns = 1 if lines else 3 if longest <= 11 and len(labels) != 4 else 2
    size = 11 if longest <= 16 or lines else 10
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size)
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(labels) // columns))
    return figure


def _t_half_width(deviation: float, number: int) -> float:
    """Half the 95 % t interval of a mean."""
    return float(scipy.stats.t.ppf(0.975, number - 1)) * deviation / np.sqrt(number)


def _wilson(shares: NDArray[np.float64], counts: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Lengths below and above of 95 % Wilson intervals of shares, for error bars."""
    ends = [
        scipy.stats.binomtest(round(share * count), int(count)).proportion_ci(method="wilson")
        for share, count in zip(shares, counts, strict=True)
    ]
    low, high = np.array([(end.low, end.high) for end in ends]).T
    return [np.maximum(0, shares - low), np.maximum(0, high - shares)]
