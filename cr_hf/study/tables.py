"""A study as text: Markdown tables, CSV, what may be claimed, and which head to use."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..evaluation import LEVEL
from .arms import HEADS

# What a cell has one number a seed of, and how tables call it.
MEASURES = {
    "test_accuracies": "test accuracy",
    "gradient_tail_ratios": "gradient tail ratio",
    "peak_gradients": "peak gradient",
    "non_linearities": "non-linearity",
    "expected_calibration_errors": "expected calibration error",
}
NO_SUCH_MEASURE = "none"
TAIL_RATIO_NOTE = (
    "The gradient tail ratio is the 99th percentile over the mean, over test rows, of the norm of the gradient of the "
    "margin by the features: 1 where the head is as sensitive everywhere, more where some rows are far more "
    "sensitive than most. It depends on how non-linear a head is (in brackets: 0 for a linear one), and that of a "
    "linear head is near 1 by construction."
)


def per_seed(cell: dict[str, Any], measure: str) -> NDArray[np.float64]:
    """A measure of a cell, seed by seed; NaN where a head diverged, or is no network and has no such measure."""
    return np.array(cell[measure] or [np.nan] * len(cell["test_accuracies"]), dtype=np.float64)


def chosen_setting(cell: dict[str, Any]) -> dict[str, float]:
    """The setting of a cell that was chosen on dev."""
    return {name: value for name, value in cell["tried"][cell["chosen"]].items() if not name.startswith("dev_")}


def setting_text(setting: dict[str, float]) -> str:
    """A setting as tables have it."""
    return ", ".join(f"{name}={value:g}" for name, value in setting.items())


def largest_fraction(study: dict[str, Any]) -> str:
    """The name of the largest fraction of the labels."""
    return max(study["fractions"], key=float)


def heads_of(study: dict[str, Any]) -> list[str]:
    """The heads, in the order they were given."""
    return list(next(iter(study["fractions"].values()))["heads"])


def accuracy_rows(study: dict[str, Any]) -> list[list[str]]:
    """Mean and standard deviation over seeds of the test accuracy, in percent: a header, then heads by fractions."""
    return _heads_by_fractions(study, "head", lambda cell: spread(100 * per_seed(cell, "test_accuracies")))


def tail_ratio_rows(study: dict[str, Any]) -> list[list[str]]:
    """Gradient tail ratio and, in brackets, non-linearity, means over seeds: a header, then heads by fractions."""
    return _heads_by_fractions(
        study,
        "gradient tail ratio (non-linearity)",
        lambda cell: (
            f"{_mean(cell, 'gradient_tail_ratios', 2)} ({_mean(cell, 'non_linearities', 2)})"
            if cell["gradient_tail_ratios"]
            else NO_SUCH_MEASURE
        ),
    )


def setting_rows(study: dict[str, Any]) -> list[list[str]]:
    """The settings chosen on dev: a header, then heads by fractions."""
    return _heads_by_fractions(study, "chosen on dev", lambda cell: setting_text(chosen_setting(cell)))


def measure_rows(study: dict[str, Any]) -> list[list[str]]:
    """Everything measured at the largest fraction, means over seeds: a header, then a row a head."""
    fraction = largest_fraction(study)
    rows = [[
        f"at {share(fraction)} of the labels", "dev accuracy", "test accuracy [95 %]", "calibration error",
        "peak gradient", "parameters",
    ]]  # fmt: skip
    for head, cell in study["fractions"][fraction]["heads"].items():
        low, high = (100 * value for value in cell["accuracy_interval"])
        rows.append([
            head, f"{100 * per_seed(cell, 'dev_accuracies').mean():.1f}",
            f"{100 * per_seed(cell, 'test_accuracies').mean():.1f} [{low:.1f}, {high:.1f}]",
            _mean(cell, "expected_calibration_errors", 3), _mean(cell, "peak_gradients", 2),
            f"{cell['parameters']:,}" if cell["parameters"] else NO_SUCH_MEASURE,
        ])  # fmt: skip
    return rows


def comparison_rows(study: dict[str, Any]) -> list[list[str]]:
    """The declared comparisons by fractions: difference in points, 95 % interval and corrected p; claims are bold."""
    rows = [_header("difference in points", study)]
    for number, declared in enumerate(study["comparisons"]):
        cells = []
        for entry in study["fractions"].values():
            found = entry["comparisons"][number]
            text = f"{difference_text(found)}, p {p_text(found['t_p_holm'])}"
            cells.append(f"**{text}**" if found["claimed"] else text)
        rows.append([f"{declared['head']} minus {declared['reference']}", *cells])
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A header and rows as Markdown."""
    first, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([first, "|---" * len(rows[0]) + "|", *others])


def accuracy_table(study: dict[str, Any]) -> str:
    """`accuracy_rows` as Markdown."""
    return markdown_table(accuracy_rows(study))


def tail_ratio_table(study: dict[str, Any]) -> str:
    """`tail_ratio_rows` as Markdown."""
    return markdown_table(tail_ratio_rows(study))


def comparison_table(study: dict[str, Any]) -> str:
    """`comparison_rows` as Markdown."""
    return markdown_table(comparison_rows(study))


def study_tables(study: dict[str, Any]) -> str:
    """A study as Markdown: accuracies, tail ratios, the declared comparisons, what may be claimed, and the advice."""
    parts = [accuracy_table(study), tail_ratio_table(study), TAIL_RATIO_NOTE]
    parts += [comparison_table(study)] if study["comparisons"] else []
    return "\n\n".join([*parts, *claims(study), recommendation(study)["text"]])


def search_note(study: dict[str, Any]) -> str:
    """How the settings were chosen, in a sentence or two."""
    settings = len(next(iter(next(iter(study["fractions"].values()))["heads"].values()))["tried"])
    note = (
        f"{settings} settings per head and fraction, chosen on dev by the mean over the first "
        f"{study['search_seeds']} of {study['seeds']} seeds; the test rows were only seen with the chosen one."
    )
    if any(HEADS[head].estimator is not None for head in heads_of(study)):
        note += " Networks also choose their epoch on dev, which flatters their dev accuracy beside the other heads'."
    return note


def claims(study: dict[str, Any]) -> list[str]:
    """What may be claimed, each with its interval, corrected p and size of effect; and what the p values cannot do.

    Returns:
        Paragraphs of Markdown; the claims themselves are one of them, a list.
    """
    tests, fractions = study["tests"], study["fractions"]
    if not tests:
        return [search_note(study) + " No comparison was declared, so nothing is claimed."]
    claimed = [
        f"- {_in_words(one)} {one['reference']} at {share(name)} of the labels: {difference_text(one)}, "
        f"p {p_text(one['t_p_holm'])} (Wilcoxon {p_text(one['wilcoxon_p_holm'])}, "
        f"Bonferroni {p_text(one['t_p_bonferroni'])}), effect size d_z {one['cohens_d_z'] or float('inf'):.2f}, in "
        f"{one['seeds_won' if one['difference'] > 0 else 'seeds_lost']} of {study['seeds']} seeds"
        for name, entry in fractions.items()
        for one in entry["comparisons"]
        if one["claimed"]
    ]
    rule = (
        f"p is that of the paired t test over seeds after Holm's correction for {tests} tests, intervals (95 %) are "
        f"of the crossed bootstrap over seeds and test rows. A difference is claimed (bold) where p is below {LEVEL} "
        "and the interval corrected for the number of tests excludes 0."
    )
    lines = [search_note(study) + " " + rule]
    if claimed:
        lines += [
            "Claimed, with the difference in points and its interval; the effect size is the mean difference over "
            "its standard deviation over seeds:",
            "\n".join(claimed),
        ]
    else:
        lines.append("Nothing is claimed: this many seeds and test rows cannot tell these heads apart with certainty.")
    if study["least_wilcoxon_p"] * tests > LEVEL:
        lines.append(
            f"With {study['seeds']} seeds a Wilcoxon p cannot fall below {study['least_wilcoxon_p']:.2g}, or "
            f"{min(1.0, study['least_wilcoxon_p'] * tests):.2g} after correction: it decides nothing here."
        )
    return lines


def recommendation(study: dict[str, Any]) -> dict[str, Any]:
    """The head to use and its setting, by a rule that looks at dev rows alone.

    At the largest fraction: among the heads whose mean dev accuracy (of the chosen setting) is within one standard
    error, over seeds, of the best, the one with the lowest gradient tail ratio, which needs no labels. A linear head
    has a tail ratio near 1 by construction, and is taken where it is among them. What is no network has none, and is
    taken where no network is among them.

    Returns:
        `head`, `setting`, `fraction`, `candidates`, and in words `headline`, `reasons` and, of both, `text`.
    """
    fraction = largest_fraction(study)
    cells = study["fractions"][fraction]["heads"]
    dev = {head: per_seed(cell, "dev_accuracies") for head, cell in cells.items()}
    best = max(dev, key=lambda head: dev[head].mean())
    error = dev[best].std(ddof=1) / np.sqrt(len(dev[best]))
    candidates = [head for head, values in dev.items() if values.mean() >= dev[best].mean() - error]
    tau = {head: per_seed(cells[head], "gradient_tail_ratios").mean() for head in candidates}
    measured = [head for head in candidates if np.isfinite(tau[head])]
    head = min(measured, key=lambda name: tau[name]) if measured else best
    setting = chosen_setting(cells[head])
    mean = {name: f"{100 * dev[name].mean():.1f} %" for name in candidates}
    within = f"one standard error over {study['seeds']} seeds ({100 * error:.2f} points)"
    if len(candidates) == 1:
        why = f"its mean dev accuracy, {mean[head]}, is the best, and that of no other head is within {within} of it."
    else:
        why = (
            f"{len(candidates)} heads have a mean dev accuracy within {within} of the best: "
            f"{listed(f'{name} {mean[name]}' for name in candidates)}."
        )
        others = [f"{tau[name]:.2f} for {name}" for name in measured if name != head]
        others += [f"none for {name}" for name in candidates if name not in measured]
        if measured:
            why += f" Of these, {head} has the lowest gradient tail ratio: {tau[head]:.2f}, against {listed(others)}."
        else:
            why += f" None of these has a gradient tail ratio, and {head} is the best on dev."
        if head == "linear":
            why += " That of a linear head is near 1 by construction: it is taken because no other was better on dev."
    headline = f"Use {head}, with {setting_text(setting)}."
    reasons = [f"At {share(fraction)} of the labels {why}", _evidence(study, fraction, head), *_edges(cells[head])]
    if words := overrides(head, setting):
        reasons.append(f"As overrides of the recipe: {words}")
    return {
        "head": head,
        "setting": setting,
        "fraction": fraction,
        "candidates": candidates,
        "headline": headline,
        "reasons": reasons,
        "text": " ".join([headline, *reasons]),
    }


def _evidence(study: dict[str, Any], fraction: str, head: str) -> str:
    """What the test rows say about the recommended head, in words."""
    cell = study["fractions"][fraction]["heads"][head]
    low, high = (100 * value for value in cell["accuracy_interval"])
    accuracy = 100 * per_seed(cell, "test_accuracies").mean()
    start = f"On test its accuracy is {accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f})."
    own = [one for one in study["fractions"][fraction]["comparisons"] if head in (one["head"], one["reference"])]
    if not own:
        return f"{start} No comparison with it was declared, so nothing is claimed about it."
    claimed = [
        f"{_in_words(one)} {one['reference']} by {100 * abs(one['difference']):.2f} points"
        for one in own
        if one["claimed"]
    ]
    others = [one["reference"] if one["head"] == head else one["head"] for one in own if not one["claimed"]]
    if claimed:
        start += f" Claimed there: {'; '.join(claimed)}."
    if not others:
        return start
    return (
        f"{start} No difference from {listed(others)} is claimed there: they cannot be told apart on test, and {head} "
        "is named by the rule above, not because it was shown to be better."
    )


def _edges(cell: dict[str, Any]) -> list[str]:
    """What of the chosen setting is the lowest or highest that was tried, so that a better one may lie beyond."""
    found = []
    for name, value in chosen_setting(cell).items():
        if name == "dreg_lambda_end":  # a fixed share of where lambda starts
            continue
        tried = [setting[name] for setting in cell["tried"]]
        if min(tried) < max(tried) and value in (min(tried), max(tried)):
            edge = "lowest" if value == min(tried) else "highest"
            found.append(f"Its {name} is the {edge} that was tried: a better one may lie beyond.")
    return found


def overrides(head: str, setting: dict[str, float]) -> str | None:
    """A head and its setting as overrides of a recipe; `None` where it is something that no recipe has."""
    found = HEADS[head]
    if found.penalty is not None or found.estimator is not None:
        return None
    schedule = {} if found.schedule == "constant" else {"dreg_schedule": found.schedule}
    values = {**found.fields, "dreg_lambda": 0, **schedule, **setting}
    return " ".join(f"{name}={value}" for name, value in values.items())


def study_csv(study: dict[str, Any]) -> str:
    """One line a fraction, head and seed, with every measure and the chosen setting."""
    settings = sorted({
        name
        for entry in study["fractions"].values()
        for cell in entry["heads"].values()
        for name in chosen_setting(cell)
    })  # fmt: skip
    names = ["dev_accuracies", *MEASURES]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["fraction", "rows", "head", "seed", *settings, *names])
    for fraction, entry in study["fractions"].items():
        for head, cell in entry["heads"].items():
            chosen = [chosen_setting(cell).get(name, "") for name in settings]
            for seed in range(study["seeds"]):
                numbers = [cell[name][seed] if cell[name] else "" for name in names]
                writer.writerow([fraction, cell["rows"], head, seed, *chosen, *numbers])
    return out.getvalue()


def share(fraction: str | float) -> str:
    """A fraction as percent."""
    return f"{100 * float(fraction):g}%"


def listed(words: Iterable[str]) -> str:
    """Words as a sentence has them: with commas, and "and" before the last."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def p_text(p: float) -> str:
    """A p value as tables have it."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def difference_text(found: dict[str, Any], interval: str = "interval") -> str:
    """A difference of `comparisons.py` in points, with one of its intervals."""
    low, high = (100 * value for value in found[interval])
    return f"{100 * found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _in_words(one: dict[str, Any]) -> str:
    return f"{one['head']} {'above' if one['difference'] > 0 else 'below'}"


def spread(values: ArrayLike, digits: int = 1) -> str:
    """Mean and standard deviation."""
    numbers = np.asarray(values, dtype=np.float64)
    return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}"


def _mean(cell: dict[str, Any], measure: str, digits: int) -> str:
    if cell[measure] is None:
        return NO_SUCH_MEASURE
    mean = per_seed(cell, measure).mean()
    return f"{mean:.{digits}f}" if np.isfinite(mean) else "diverged"


def _header(first: str, study: dict[str, Any]) -> list[str]:
    return [first, *[f"{share(name)} of the labels" for name in study["fractions"]]]


def _heads_by_fractions(study: dict[str, Any], first: str, text: Callable[[dict[str, Any]], str]) -> list[list[str]]:
    rows = [_header(first, study)]
    for head in heads_of(study):
        rows.append([head, *[text(entry["heads"][head]) for entry in study["fractions"].values()]])
    return rows
