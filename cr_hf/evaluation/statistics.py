"""Intervals, tests and calibration: bootstrap, permutation, paired comparisons of heads, and what may be claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its `stats` takes a tenth of the start of a prediction, and is imported when it is asked for
from numpy.typing import ArrayLike, NDArray

from ..errors import RecipeError, nearest

MAX_COMPARISONS = 5
DEFAULT_REFERENCE = "mlp-gelu"
RESAMPLES = 10_000
LEVEL = 0.05
CHUNK = 500
BATCH_NUMBERS = 2_000_000  # resampled at a time
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Comparison:
    """A head against a reference, declared before any result is seen."""

    head: str
    reference: str


@dataclass(frozen=True)
class PairedDifference:
    """A head's accuracy minus that of its reference, on the same seeds and test rows.

    Args:
        difference: mean, as a share (0.01 is a point).
        interval: 95 %, by the crossed bootstrap over seeds and test rows.
        corrected_interval: 95 % for all comparisons together, by Bonferroni.
        t_p: of the paired t test over seeds; NaN where all seeds differ by the same amount.
        wilcoxon_p: of the signed-rank test over seeds.
        cohens_d_z: mean over standard deviation over seeds; 0 where nothing differs, NaN where t_p is.
        seeds_won: seeds with a higher accuracy; `seeds_lost` those with a lower one.
        t_p_holm: `t_p` corrected for the number of comparisons; likewise the next three.
        claimed: whether `t_p_holm` is below 0.05 and the corrected interval, which test rows widen too, excludes 0.
    """

    difference: float
    interval: list[float]
    corrected_interval: list[float]
    t_p: float
    wilcoxon_p: float
    cohens_d_z: float
    seeds_won: int
    seeds_lost: int
    t_p_holm: float
    t_p_bonferroni: float
    wilcoxon_p_holm: float
    wilcoxon_p_bonferroni: float
    claimed: bool


def declare(text: str | None, heads: Sequence[str]) -> tuple[Comparison, ...]:
    """The comparisons of a study.

    Args:
        text: `HEAD:REFERENCE` pairs with commas between; `None` for the first five heads of the study against
            `mlp-gelu`, or against the first head where that one is not in the study.
        heads: of the study.

    Raises:
        RecipeError: if there are more than five, a pair is not one, or a head is not in the study.
    """
    if text is None:
        reference = DEFAULT_REFERENCE if DEFAULT_REFERENCE in heads else heads[0]
        others = [head for head in heads if head != reference][:MAX_COMPARISONS]
        return tuple(Comparison(head, reference) for head in others)
    pairs = [tuple(pair.strip().split(":")) for pair in text.split(",")]
    if len(pairs) > MAX_COMPARISONS:
        raise RecipeError(f"--comparisons: {len(pairs)} are given: declare at most {MAX_COMPARISONS}")
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise RecipeError(f"--comparisons: {':'.join(pair)!r} is not HEAD:REFERENCE with two different heads")
        for head in pair:
            if head not in heads:
                raise RecipeError(
                    f"--comparisons: {head!r} is not in the study{nearest(head, heads)}: use {', '.join(heads)}"
                )
    if len(set(pairs)) < len(pairs):
        raise RecipeError("--comparisons: one of them is given twice")
    return tuple(Comparison(*pair) for pair in pairs)


# ---- resampling ----


def bootstrap_interval(
    per_row_values: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    statistic: Callable[..., Any] = np.mean,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a mean, or of another statistic, over rows.

    Args:
        per_row_values: one value a row (a hit, a loss, a paired difference), shape (rows,), at least two.
        seed: of the resampling, 0 by default.
        resamples: number of bootstrap samples.
        confidence: coverage, between 0 and 1.
        statistic: takes `axis`; the mean by default.

    Raises:
        ValueError: if there are fewer than two values, or one is not finite.
    """
    values = np.asarray(per_row_values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"per_row_values of shape {values.shape} must be at least two finite numbers, one a row")
    if np.ptp(values) == 0:
        return (float(statistic(values, axis=-1)),) * 2
    found = scipy.stats.bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, BATCH_NUMBERS // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def permutation_interval(
    values: NDArray[np.float64], reference: NDArray[np.float64], statistic: Callable[..., Any], resamples: int
) -> tuple[float, float]:
    """95 % interval of a statistic of two samples, one number a row, when all their rows are dealt out anew."""
    found = scipy.stats.permutation_test(
        (values, reference),
        statistic,
        n_resamples=resamples,
        vectorized=True,
        batch=max(1, BATCH_NUMBERS // (len(values) + len(reference))),
        rng=np.random.default_rng(0),
    )
    low, high = np.quantile(found.null_distribution, [0.025, 0.975])
    return float(low), float(high)


def crossed_bootstrap(
    values: Sequence[NDArray[np.float64]], confidences: Sequence[float] = (0.95,), resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Percentile intervals of the mean over seeds and test rows, both resampled with replacement.

    Args:
        values: each of one shape (seeds, rows): hits, or paired differences of hits. All see the same resamples.
        confidences: coverage of the intervals.
        resamples: bootstrap samples.

    Returns:
        Low and high ends, shape (len(values), len(confidences), 2).

    Source: Owen (2007), The pigeonhole bootstrap.
    """
    return percentiles(crossed_means(values, resamples, 0), confidences)


def sample_rows(rows: int, limit: int) -> NDArray[np.int64]:
    """Numbers of some rows at random, in their order: the first ones of a file are often of one class."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:limit])


def crossed_means(values: Sequence[NDArray[np.float64]], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of the resamples of seeds and rows, shape (len(values), resamples)."""
    seeds, rows = values[0].shape
    generator = np.random.default_rng(seed)
    means = np.empty((len(values), resamples))
    for start in range(0, resamples, CHUNK):
        some = slice(start, min(start + CHUNK, resamples))
        size = some.stop - some.start
        seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=size).astype(np.float64)
        row_counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
        for number, one in enumerate(values):
            means[number, some] = ((seed_counts @ one) * row_counts).sum(1) / (seeds * rows)
    return means


def percentiles(means: NDArray[np.float64], confidences: Sequence[float]) -> NDArray[np.float64]:
    """Intervals of such means, low and high ends, shape (len(values), len(confidences), 2)."""
    tails = np.array([[(1 - confidence) / 2, (1 + confidence) / 2] for confidence in confidences])
    return np.moveaxis(np.quantile(means, tails, axis=1), -1, 0)


def paired_tests(differences: NDArray[np.float64]) -> dict[str, Any]:
    """Two-sided paired tests over seeds, and the size of the effect.

    Args:
        differences: one a seed, shape (seeds,), at least two.

    Returns:
        Fields of `PairedDifference`.
    """
    counts = {"seeds_won": int((differences > 0).sum()), "seeds_lost": int((differences < 0).sum())}
    if not differences.any():
        return {"t_p": 1.0, "wilcoxon_p": 1.0, "cohens_d_z": 0.0, **counts}
    # Where all seeds differ alike, as those of two estimators without chance do, they say nothing about chance.
    is_constant = bool(np.ptp(differences) == 0)
    return {
        "t_p": np.nan if is_constant else float(scipy.stats.ttest_1samp(differences, 0).pvalue),
        "wilcoxon_p": float(scipy.stats.wilcoxon(differences).pvalue),
        "cohens_d_z": np.nan if is_constant else float(differences.mean() / differences.std(ddof=1)),
        **counts,
    }


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """P values times their number, at most 1; NaN stays NaN."""
    return np.minimum(1.0, len(p_values) * np.asarray(p_values, dtype=np.float64)).tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected by Holm's step-down procedure: as strict as Bonferroni, never weaker in power; NaN stays NaN.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = values.argsort(kind="stable")
    corrected = np.empty_like(values)
    # NaN is sorted last.
    corrected[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return corrected.tolist()


def least_wilcoxon_p(seeds: int) -> float:
    """The lowest p that a two-sided Wilcoxon signed-rank test of so many seeds can give: 0.0625 with five."""
    return 2.0 ** (1 - seeds)


def compare_all(differences: Sequence[NDArray[np.float64]], resamples: int = RESAMPLES) -> list[PairedDifference]:
    """Every declared comparison of a study, with corrections over all of them.

    Args:
        differences: of hits, head minus reference, one array of shape (seeds, rows) a comparison and fraction.
        resamples: bootstrap samples.
    """
    if not differences:
        return []
    intervals = crossed_bootstrap(differences, (1 - LEVEL, 1 - LEVEL / len(differences)), resamples).tolist()
    tests = [paired_tests(one.mean(1)) for one in differences]
    corrected = {
        f"{test}_{name}": correct([one[test] for one in tests])
        for test in ("t_p", "wilcoxon_p")
        for name, correct in (("holm", holm), ("bonferroni", bonferroni))
    }
    found = []
    for number, (one, (plain, wide)) in enumerate(zip(differences, intervals, strict=True)):
        own: dict[str, Any] = {name: values[number] for name, values in corrected.items()}
        claimed = own["t_p_holm"] < LEVEL and not wide[0] <= 0 <= wide[1]
        found.append(PairedDifference(float(one.mean()), plain, wide, **tests[number], **own, claimed=claimed))
    return found


# ---- calibration ----


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions whose confidence is alike: their share, mean confidence and accuracy."""

    share: float
    confidence: float
    accuracy: float


def calibration_bins(confidence: NDArray[np.float64], hits: NDArray[np.bool_]) -> list[CalibrationBin]:
    """Confidence against accuracy, a prediction each, in bins of equal width; empty bins are left out."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    members = [bins == number for number in np.unique(bins)]
    return [CalibrationBin(*(float(x.mean()) for x in (own, confidence[own], hits[own]))) for own in members]
