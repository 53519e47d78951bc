"""A study as text: Markdown tables, CSV, what may be claimed, and which head to use."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .comparisons import LEVEL

# What a cell has one number a seed of, and how tables call it.
MEASURES = {
    "test_accuracies": "test accuracy",
    "gradient_tail_ratios": "gradient tail ratio",
    "peak_gradients": "peak gradient",
    "non_linearities": "non-linearity",
    "expected_calibration_errors": "expected calibration error",
}


def per_seed(cell: dict[str, Any], measure: str) -> NDArray[np.float64]:
    """A measure of a cell, seed by seed; NaN where a head diverged."""
    return np.array(cell[measure], dtype=np.float64)


def heads_of(study: dict[str, Any]) -> list[str]:
    """The heads, in the order they were given."""
    return list(next(iter(study["fractions"].values()))["heads"])


def accuracy_table(study: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds of the test accuracy, in percent: heads by fractions."""
    return _heads_by_fractions(study, "head", lambda cell: _spread(100 * per_seed(cell, "test_accuracies"), 1))


def tail_ratio_table(study: dict[str, Any]) -> str:
    """Gradient tail ratio and, in brackets, non-linearity, means over seeds: heads by fractions."""
    return _heads_by_fractions(
        study,
        "gradient tail ratio (non-linearity)",
        lambda cell: (
            f"{per_seed(cell, 'gradient_tail_ratios').mean():.2f} ({per_seed(cell, 'non_linearities').mean():.2f})"
        ),
    )


def comparison_table(study: dict[str, Any]) -> str:
    """The declared comparisons by fractions: difference in points, 95 % interval and corrected p; claims are bold."""
    lines = _header("difference in points", study)
    for number, declared in enumerate(study["comparisons"]):
        cells = []
        for entry in study["fractions"].values():
            found = entry["comparisons"][number]
            text = f"{_difference(found)}, p {p_text(found['t_p_holm'])}"
            cells.append(f"**{text}**" if found["claimed"] else text)
        lines.append(f"| {declared['head']} minus {declared['reference']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def study_tables(study: dict[str, Any]) -> str:
    """A study as Markdown: accuracies, tail ratios, the declared comparisons, what may be claimed, and the advice."""
    parts = [accuracy_table(study), tail_ratio_table(study), comparison_table(study), *claims(study)]
    return "\n\n".join([*parts, recommendation(study)["text"]])


def search_note(study: dict[str, Any]) -> str:
    """How the settings were chosen, in one sentence."""
    settings = len(next(iter(next(iter(study["fractions"].values()))["heads"].values()))["tried"])
    return (
        f"{settings} settings per head and fraction, chosen on dev by the mean over the first "
        f"{study['search_seeds']} of {study['seeds']} seeds; the test rows were only seen with the chosen one."
    )


def claims(study: dict[str, Any]) -> list[str]:
    """What may be claimed, each with its interval, corrected p and size of effect; and what the p values cannot do."""
    tests, fractions = study["tests"], study["fractions"]
    found = [(name, one) for name, entry in fractions.items() for one in entry["comparisons"]]
    claimed = [
        f"{one['head']} {'above' if one['difference'] > 0 else 'below'} {one['reference']} at {share(name)} of the "
        f"labels: {_difference(one)}, p {p_text(one['t_p_holm'])} (Wilcoxon {p_text(one['wilcoxon_p_holm'])}, "
        f"Bonferroni {p_text(one['t_p_bonferroni'])}), d_z {one['cohens_d_z'] or float('inf'):.2f}, "
        f"{one['seeds_won']} of {study['seeds']} seeds"
        for name, one in found
        if one["claimed"]
    ]
    rule = (
        f"p is that of the paired t test over seeds after Holm's correction for {tests} tests, intervals (95 %) are "
        f"of the crossed bootstrap over seeds and test rows. A difference is claimed (bold) where p is below {LEVEL} "
        "and the interval corrected for the number of tests excludes 0."
    )
    lines = [search_note(study) + " " + rule]
    if claimed:
        lines.append("Claimed: " + "; ".join(claimed) + ".")
    elif tests:
        lines.append("Nothing is claimed: this many seeds and test rows cannot tell these heads apart with certainty.")
    if tests and study["least_wilcoxon_p"] * tests > LEVEL:
        lines.append(
            f"With {study['seeds']} seeds a Wilcoxon p cannot fall below {study['least_wilcoxon_p']:.2g}, or "
            f"{min(1.0, study['least_wilcoxon_p'] * tests):.2g} after correction: it decides nothing here."
        )
    return lines


def recommendation(study: dict[str, Any]) -> dict[str, Any]:
    """The head to use and its setting, by a rule that looks at dev rows alone.

    At the largest fraction: among the heads whose mean dev accuracy (of the chosen setting) is within one standard
    error, over seeds, of the best, the one with the lowest gradient tail ratio, which needs no labels. A linear head
    has a tail ratio near 1 by construction, and is taken where it is among them.

    Returns:
        `head`, `setting`, `fraction`, `candidates` and `text`.
    """
    fraction = max(study["fractions"], key=float)
    cells = study["fractions"][fraction]["heads"]
    dev = {head: per_seed(cell, "dev_accuracies") for head, cell in cells.items()}
    best = max(dev, key=lambda head: dev[head].mean())
    floor = dev[best].mean() - dev[best].std(ddof=1) / np.sqrt(len(dev[best]))
    candidates = [head for head, values in dev.items() if values.mean() >= floor]
    tau = {head: per_seed(cells[head], "gradient_tail_ratios").mean() for head in candidates}
    head = min(candidates, key=lambda name: np.nan_to_num(tau[name], nan=np.inf))
    cell = cells[head]
    setting = {name: value for name, value in cell["tried"][cell["chosen"]].items() if not name.startswith("dev_")}
    values = ", ".join(f"{name}={value:g}" for name, value in setting.items())
    others = [name for name in candidates if name != head]
    within = f"within one standard error of the best ({best})" if head != best else "the best"
    text = (
        f"Use {head}, with {values}: on dev its accuracy is {within} at {share(fraction)} of the labels"
        + (f", as is that of {', '.join(others)}, and its gradient tail ratio is the lowest of them" if others else "")
        + f" ({tau[head]:.2f})."
    )
    return {"head": head, "setting": setting, "fraction": fraction, "candidates": candidates, "text": text}


def study_csv(study: dict[str, Any]) -> str:
    """One line a fraction, head and seed, with every measure and the chosen setting."""
    settings = sorted({
        name
        for entry in study["fractions"].values()
        for cell in entry["heads"].values()
        for name in cell["tried"][0]
        if not name.startswith("dev_")
    })  # fmt: skip
    names = ["dev_accuracies", *MEASURES]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["fraction", "rows", "head", "seed", *settings, *names])
    for fraction, entry in study["fractions"].items():
        for head, cell in entry["heads"].items():
            chosen = [cell["tried"][cell["chosen"]].get(name, "") for name in settings]
            for seed in range(study["seeds"]):
                writer.writerow([fraction, cell["rows"], head, seed, *chosen, *[cell[name][seed] for name in names]])
    return out.getvalue()


def share(fraction: str | float) -> str:
    """A fraction as percent."""
    return f"{100 * float(fraction):g}%"


def p_text(p: float) -> str:
    """A p value as tables have it."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _difference(found: dict[str, Any]) -> str:
    low, high = (100 * value for value in found["interval"])
    return f"{100 * found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _spread(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _header(first: str, study: dict[str, Any]) -> list[str]:
    names = [f"{share(name)} of the labels" for name in study["fractions"]]
    return [f"| {first} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def _heads_by_fractions(study: dict[str, Any], first: str, text: Any) -> str:
    lines = _header(first, study)
    for head in heads_of(study):
        cells = [text(entry["heads"][head]) for entry in study["fractions"].values()]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
