"""A study as text: Markdown tables, CSV, what may be claimed, and which head to use."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation import LEVEL, PairedDifference
from ..files import markdown_table
from .arms import HEADS, Setting
from .results import Cell, Compared, Study, recipe_words

# What a cell has one number a seed of.
MEASURES = (
    *("dev_accuracies", "test_accuracies", "gradient_tail_ratios", "peak_gradients", "non_linearities"),
    "expected_calibration_errors",
)
NO_SUCH_MEASURE = "none"
LEAST_SEEDS = 5
"""For advice: with fewer a standard error over seeds is hardly known."""
TAIL_RATIO_NOTE = (
    "The gradient tail ratio is the 99th percentile over the mean, over test rows, of the norm of the gradient of the "
    "margin by the features: 1 where the head is as sensitive everywhere, more where some rows are far more "
    "sensitive than most. It depends on how non-linear a head is (in brackets: 0 for a linear one), and that of a "
    "linear head is near 1 by construction."
)


def setting_text(setting: Setting) -> str:
    """The text of a setting in tables."""
    return ", ".join(f"{name}={value:g}" for name, value in setting.items())


def accuracy_rows(study: Study) -> list[list[str]]:
    """Mean and standard deviation over seeds of the test accuracy, in percent: a header, then heads by fractions."""
    return _heads_by_fractions(study, "head", lambda cell: spread(100 * cell.per_seed("test_accuracies")))


def tail_ratio_rows(study: Study) -> list[list[str]]:
    """Gradient tail ratio and, in brackets, non-linearity, means over seeds: a header, then heads by fractions."""

    def text(cell: Cell) -> str:
        ratio = _mean(cell, "gradient_tail_ratios", 2)
        return f"{ratio} ({_mean(cell, 'non_linearities', 2)})" if cell.gradient_tail_ratios else ratio

    return _heads_by_fractions(study, "gradient tail ratio (non-linearity)", text)


def setting_rows(study: Study) -> list[list[str]]:
    """The settings chosen on dev: a header, then heads by fractions."""
    first = "chosen most often in cross-validation" if study.is_few else "chosen on dev"
    return _heads_by_fractions(study, first, lambda cell: setting_text(cell.setting))


def measure_rows(study: Study) -> list[list[str]]:
    """Everything measured at the largest fraction, means over seeds: a header, then a row a head."""
    own = f"{study.chosen_by} accuracy"
    rows = [[f"at {study.amount()}", own, "test accuracy [95 %]", "calibration error", "peak gradient", "parameters"]]
    for head, cell in study.largest.items():
        low, high = (100 * value for value in cell.accuracy_interval)
        rows.append([
            head,
            f"{100 * cell.per_seed('dev_accuracies').mean():.1f}",
            f"{100 * cell.per_seed('test_accuracies').mean():.1f} [{low:.1f}, {high:.1f}]",
            _mean(cell, "expected_calibration_errors", 3),
            _mean(cell, "peak_gradients", 2),
            f"{cell.parameters:,}" if cell.parameters else NO_SUCH_MEASURE,
        ])  # fmt: skip
    return rows


def certified_rows(study: Study) -> list[list[str]]:
    """Certified accuracy in percent and slope of the margin at the largest fraction: header, then a row a network."""
    cells = {head: cell for head, cell in study.largest.items() if cell.certified_accuracies}
    radii = next((list(cell.certified_accuracies or {}) for cell in cells.values()), [])
    rows = [["certified accuracy in percent within", *radii, "margin's slope at most"]]
    for head, cell in cells.items():
        shares = (cell.certified_accuracies or {}).values()
        slope = cell.per_seed("margin_slopes").mean()
        bound = f"{slope:.2f}" if np.isfinite(slope) else "no bound"
        rows.append([head, *(f"{100 * np.mean(share):.1f}" for share in shares), bound])
    return rows


def comparison_rows(study: Study) -> list[list[str]]:
    """The declared comparisons by fractions: difference in points, 95 % interval and corrected p; claims are bold."""
    rows = [_header("difference in points", study)]
    for number, declared in enumerate(study.comparisons):
        cells = []
        for entry in study.fractions.values():
            found = entry.comparisons[number]
            text = f"{difference_text(found)}, p {p_text(found.t_p_holm)}"
            cells.append(f"**{text}**" if found.claimed else text)
        rows.append([f"{declared.head} minus {declared.reference}", *cells])
    return rows


def study_tables(study: Study) -> str:
    """A study as Markdown: accuracies, tail ratios, the declared comparisons, what may be claimed, and the advice."""
    parts = [markdown_table(accuracy_rows(study)), markdown_table(tail_ratio_rows(study)), TAIL_RATIO_NOTE]
    parts += [markdown_table(rows)] if len(rows := certified_rows(study)) > 1 else []
    parts += [markdown_table(comparison_rows(study))] if study.comparisons else []
    return "\n\n".join([*parts, *study.data_notes, *claims(study), recommendation(study).text])


def search_note(study: Study) -> str:
    """How the settings were chosen, in a sentence or two."""
    settings = len(next(iter(study.largest.values())).tried)
    if study.is_few:
        return (
            f"{settings} settings per head. Every seed draws its own labels and chooses its own setting by stratified "
            "cross-validation among them (4 folds, or as many as a class has labels); networks train for a fixed "
            "number of steps and keep the last. No dev split was looked at, and test rows only with what was chosen."
        )
    note = (
        f"{settings} settings per head and fraction, chosen on dev by the mean over the first "
        f"{study.search_seeds} of {study.seeds} seeds; the test rows were only seen with the chosen one."
    )
    if any(HEADS[head].estimator is not None for head in study.largest):
        note += " Networks also choose their epoch on dev, which flatters their dev accuracy beside the other heads'."
    return note


def claims(study: Study) -> list[str]:
    """What may be claimed, with intervals, corrected p and effect sizes, and what the p values cannot do.

    Returns:
        Paragraphs of Markdown; the claims themselves are one of them, a list.
    """
    tests = study.tests
    if not tests:
        return [search_note(study) + " No comparison was declared, so nothing is claimed."]
    claimed = [
        f"- {_in_words(one)} {one.reference} at {study.amount(name)}: {difference_text(one)}, "
        f"p {p_text(one.t_p_holm)} (Wilcoxon {p_text(one.wilcoxon_p_holm)}, "
        f"Bonferroni {p_text(one.t_p_bonferroni)}), effect size d_z {_effect_text(one)}, in "
        f"{one.seeds_won if one.difference > 0 else one.seeds_lost} of {study.seeds} seeds"
        for name, entry in study.fractions.items()
        for one in entry.comparisons
        if one.claimed
    ]
    rule = (
        f"p is that of the paired t test over seeds after Holm's correction for {tests} tests, intervals (95 %) are "
        f"of the crossed bootstrap over seeds and test rows. A difference is claimed (bold) where p is below {LEVEL} "
        "and the interval corrected for the number of tests excludes 0."
    )
    lines = [search_note(study) + " " + rule]
    if claimed:
        lines.append(
            "Claimed, with the difference in points and its interval; the effect size is the mean difference over "
            "its standard deviation over seeds:"
        )
        lines.append("\n".join(claimed))
    else:
        lines.append("Nothing is claimed: this many seeds and test rows cannot tell these heads apart with certainty.")
    if study.least_wilcoxon_p * tests > LEVEL:
        lines.append(
            f"With {study.seeds} seeds a Wilcoxon p cannot fall below {study.least_wilcoxon_p:.2g}, or "
            f"{min(1.0, study.least_wilcoxon_p * tests):.2g} after correction: it decides nothing here."
        )
    return lines


@dataclass(frozen=True)
class Recommendation:
    """The head to use, its setting at the largest fraction, the heads as good on dev, and why, in sentences.

    The head is `None` where there are too few seeds.
    """

    head: str | None
    setting: Setting
    candidates: list[str]
    headline: str
    reasons: list[str]

    @property
    def text(self) -> str:
        """Headline and reasons as one paragraph."""
        return " ".join([self.headline, *self.reasons])


def recommendation(study: Study) -> Recommendation:
    """The head to use, by a rule that looks at dev rows alone; none below five seeds.

    At the largest fraction: among the heads whose mean dev accuracy (of the chosen setting) is within one standard
    error of the best, the one with the lowest gradient tail ratio, which needs no labels. The error is that of the
    difference from the best, over seeds and dev rows; over seeds alone where each has rows of its own, or a study has
    none kept. A linear head has a tail ratio near 1 by construction, and is taken where it is among them. What is no
    network has none, and is taken where no network is among them.
    """
    if study.seeds < LEAST_SEEDS:
        few = f"No head is recommended: {study.seeds} seeds are too few, {LEAST_SEEDS} are the least."
        return Recommendation(None, {}, [], few, [])
    cells = study.largest
    dev = {head: cell.per_seed("dev_accuracies") for head, cell in cells.items()}
    best = max(dev, key=lambda head: dev[head].mean())
    of_seeds = float(dev[best].std(ddof=1) / np.sqrt(len(dev[best])))
    errors = {head: of_seeds if cell.dev_error is None else cell.dev_error for head, cell in cells.items()}
    candidates = [head for head, values in dev.items() if values.mean() >= dev[best].mean() - errors[head]]
    tau = {head: cells[head].per_seed("gradient_tail_ratios").mean() for head in candidates}
    measured = [head for head in candidates if np.isfinite(tau[head])]
    head = min(measured, key=lambda name: tau[name]) if measured else best
    mean = {name: f"{100 * dev[name].mean():.1f} %" for name in candidates}
    within = f"one standard error over {study.seeds} seeds ({100 * of_seeds:.2f} points)"
    if cells[best].dev_error is not None:
        within = f"one standard error, over {study.seeds} seeds and {study.data['rows']['validation']:,} dev rows,"
    if len(candidates) == 1:
        found = f"its mean {study.chosen_by} accuracy, {mean[head]}"
        why = f"{found}, is the best, and that of no other head is within {within} of it."
    else:
        why = (
            f"{len(candidates)} heads have a mean {study.chosen_by} accuracy within {within} of the best: "
            f"{listed(f'{name} {mean[name]}' for name in candidates)}."
        )
        why += _steadiest(head, {name: tau[name] for name in measured}, candidates)
    setting = cells[head].setting
    reasons = [f"At {study.amount()} {why}", _evidence(study, head), *_edges(cells[head])]
    if words := recipe_words(head, setting):
        reasons.append(f"As overrides of the recipe: {words}")
    return Recommendation(head, setting, candidates, f"Use {head}, with {setting_text(setting)}.", reasons)


def _steadiest(head: str, tau: dict[str, float], candidates: list[str]) -> str:
    """Why this one of the candidates: the tail ratios of those that have one."""
    if not tau:
        return f" None of these has a gradient tail ratio, and {head} has the best of these."
    others = [f"{ratio:.2f} for {name}" for name, ratio in tau.items() if name != head]
    others += [f"none for {name}" for name in candidates if name not in tau]
    why = f" Of these, {head} has the lowest gradient tail ratio: {tau[head]:.2f}, against {listed(others)}."
    if head == "linear":
        why += " That of a linear head is near 1 by construction: it is taken because no other was better there."
    return why


def _evidence(study: Study, head: str) -> str:
    """What the test rows say about the recommended head, in words."""
    cell = study.largest[head]
    low, high = (100 * value for value in cell.accuracy_interval)
    accuracy = 100 * cell.per_seed("test_accuracies").mean()
    start = f"On test its accuracy is {accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f})."
    as_good = [
        f"{name} ({100 * mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] points)"
        for name, (mean, low, high) in study.simpler.items()
        if high >= 0
    ]
    if as_good:
        start += f" Simpler, without a hidden layer, and not shown to be worse there: {listed(as_good)}."
    compared = study.fractions[study.largest_fraction].comparisons
    own = [one for one in compared if head in (one.head, one.reference)]
    if not own:
        return f"{start} No comparison with it was declared, so nothing is claimed about it."
    claimed = [
        f"{_in_words(one)} {one.reference} by {100 * abs(one.difference):.2f} points" for one in own if one.claimed
    ]
    others = [one.reference if one.head == head else one.head for one in own if not one.claimed]
    if claimed:
        start += f" Claimed there: {'; '.join(claimed)}."
    if not others:
        return start
    return (
        f"{start} No difference from {listed(others)} is claimed there: they cannot be told apart on test, and {head} "
        "is named by the rule above, not because it was shown to be better."
    )


def _edges(cell: Cell) -> list[str]:
    """What of the chosen setting is the lowest or highest that was tried, so that a better one may lie beyond."""
    found = []
    for name, value in cell.setting.items():
        tried = [one.setting[name] for one in cell.tried]
        # `dreg_lambda_end` is a fixed share of where lambda starts.
        if name != "dreg_lambda_end" and min(tried) < max(tried) and value in (min(tried), max(tried)):
            edge = "lowest" if value == min(tried) else "highest"
            found.append(f"Its {name} is the {edge} that was tried: a better one may lie beyond.")
    return found


def study_csv(study: Study) -> str:
    """One line a fraction, head and seed, with every measure, the chosen setting."""
    every = [cell for entry in study.fractions.values() for cell in entry.heads.values()]
    settings = sorted({name for cell in every for name in cell.setting})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["fraction", "rows", "head", "seed", *settings, *MEASURES])
    for fraction, entry in study.fractions.items():
        for head, cell in entry.heads.items():
            chosen = [cell.setting.get(name, "") for name in settings]
            for seed in range(study.seeds):
                measures = [getattr(cell, name) for name in MEASURES]
                numbers = [values[seed] if values else "" for values in measures]
                writer.writerow([fraction, cell.rows, head, seed, *chosen, *numbers])
    return out.getvalue()


def listed(words: Iterable[str]) -> str:
    """Words as a sentence has them: with commas, and "and" before the last."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def p_text(p: float | None) -> str:
    """The text of a p value in tables."""
    if p is None or np.isnan(p):
        return "undefined"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def difference_text(found: PairedDifference) -> str:
    """A difference in points with its 95 % interval."""
    low, high = (100 * value for value in found.interval)
    return f"{100 * found.difference:+.2f} [{low:+.2f}, {high:+.2f}]"


def spread(values: ArrayLike, digits: int = 1) -> str:
    """Mean and standard deviation."""
    numbers = np.asarray(values, dtype=np.float64)
    return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}"


def _in_words(one: Compared) -> str:
    return f"{one.head} {'above' if one.difference > 0 else 'below'}"


def _effect_text(one: PairedDifference) -> str:
    return f"{np.inf if one.cohens_d_z is None else one.cohens_d_z:.2f}"  # version 0.1.0 wrote null for infinity


def _mean(cell: Cell, measure: str, digits: int) -> str:
    if getattr(cell, measure) is None:
        return NO_SUCH_MEASURE
    mean = cell.per_seed(measure).mean()
    return f"{mean:.{digits}f}" if np.isfinite(mean) else "diverged"


def _header(first: str, study: Study) -> list[str]:
    return [first, *map(study.amount, study.fractions)]


def _heads_by_fractions(study: Study, first: str, text: Callable[[Cell], str]) -> list[list[str]]:
    heads = ([head, *[text(entry.heads[head]) for entry in study.fractions.values()]] for head in study.largest)
    return [_header(first, study), *heads]
