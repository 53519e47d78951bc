"""4 to 128 labels a class: CR and DREG against tuned baselines, on SST-5, Yelp and MNIST (pixels).

Every subset of the training rows is a user with so few labels: a setting is chosen by stratified cross-validation
inside the subset (`cr_hf.study.shots`), no dev split is looked at, and test rows once, with what was chosen.
Texts are the last two hidden states of the frozen encoder, mean pooled: on dev rows as good as all seven with 8 labels
a class, and three times as fast; with 32, networks on Yelp are 1 to 2 points better on all seven.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import Ridge

from cr_hf.evaluation import LEVEL, RESAMPLES, crossed_bootstrap
from cr_hf.evaluation.statistics import crossed_means, percentiles
from cr_hf.modeling import CRConfig
from cr_hf.study.arms import HEADS, NO_DREG, Arm, Setting
from cr_hf.study.cells import StudyData, predict_classes
from cr_hf.study.classical import ESTIMATORS
from cr_hf.study.results import pack_hits, unpack_hits
from cr_hf.study.shots import draw_shots, train_few

from .runner import Hits, part, read_regime, start, write_result

SUBSETS = 30
STATES, WIDTH = 2, 384
TEXT_SHOTS = (4, 8, 16, 32, 128)


@dataclass(frozen=True)
class DataSet:
    """A recipe, its data below ../shared/data, and what is compared on it."""

    recipe: str
    folder: str
    overrides: tuple[str, ...]
    shots: tuple[int, ...]
    is_ordered: bool


Cells = dict[str, dict[str, Any]]
SETS = {
    "sst5": DataSet("sst5_frozen", "sst5", ("backbone=offline",), TEXT_SHOTS, True),
    "yelp": DataSet("yelp_minilm", "yelp5", ("backbone=offline", "objective=cross_entropy"), TEXT_SHOTS, True),
    "mnist": DataSet("mnist", "mnist", (), (4, 8, 16, 32), False),
}

NETWORK: dict[str, Any] = {"hidden_sizes": [64, 64], "dropout": 0.3}
# The strongest first: of settings that are equally good in cross-validation the first is taken.
GAMMAS: tuple[Setting, ...] = tuple({"soft_labels": value} for value in (0.25, 0.5, 1.0))
DROPOUTS: tuple[Setting, ...] = tuple({"dropout": value} for value in (0.5, 0.3, 0.1))
LAMBDAS: tuple[dict[str, Any], ...] = (
    {"dreg_lambda": 0.1, "coefficient_init": "identity"},
    {"dreg_lambda": 0.05, "coefficient_init": "hermite"},
    {"dreg_lambda": 0.02, "coefficient_init": "hermite"},
)
WEAK_LAMBDAS: tuple[dict[str, Any], ...] = (
    {"dreg_lambda": 0.01, "coefficient_init": "identity"},
    {"dreg_lambda": 0.001, "coefficient_init": "hermite"},
    {"dreg_lambda": 0.0001, "coefficient_init": "hermite"},
)
SOFT: dict[str, Any] = {"soft_labels": 0.5}
GELU: dict[str, Any] = {**NETWORK, "activation": "gelu", **NO_DREG}
CR: dict[str, Any] = {**NETWORK, "activation": "polynomial"}


def arms_of(data: DataSet) -> dict[str, Arm]:
    """The heads, the simplest first. Networks try three settings, all others the six of a study."""
    arms = {name: HEADS[name] for name in ("nearest-centroid", "logistic-regression", "ridge", "svm-linear", "svm")}
    arms["mlp-gelu"] = Arm("", GELU, DROPOUTS)
    arms["cr+dreg"] = Arm("", CR, LAMBDAS if data.is_ordered else WEAK_LAMBDAS)
    if not data.is_ordered:
        return arms
    linear = HEADS["linear"]
    soft = {
        "ridge+soft": Arm("", {}, tuple({**one, **SOFT} for one in HEADS["ridge"].settings), estimator="ridge+soft"),
        "linear+soft": replace(linear, overrides={**linear.overrides, **SOFT}),
        "mlp-gelu+soft": Arm("", GELU, GAMMAS),
        "cr+dreg+soft": Arm("", {**CR, **SOFT}, LAMBDAS),
    }
    order = [*list(arms)[:5], "ridge+soft", "linear+soft", "mlp-gelu", "mlp-gelu+soft", "cr+dreg", "cr+dreg+soft"]
    return {name: {**arms, **soft}[name] for name in order}


# What is compared, declared before any test row was looked at: in each subset the head of `OURS` that is best in its
# cross-validation, against the best of all others there (a linear head with DREG is one of them: it is a logistic
# regression), for each set and number of labels, and for SST-5 and Yelp together.
OURS = ("cr+dreg", "cr+dreg+soft")
POOLED = ("sst5", "yelp")
COMPARISONS = sum(len(data.shots) for data in SETS.values()) + len(TEXT_SHOTS)
RULE = (
    "Claimed where the interval of the paired difference, by crossed bootstrap over subsets and test rows, corrected "
    f"by Bonferroni for {COMPARISONS} comparisons, excludes 0. Advice: of all heads, the simplest (in the order of "
    "the table) that is not certainly below the one with the best mean accuracy over the sets of its kind: the "
    "interval of that difference, corrected for the number of heads, reaches 0."
)


class SoftRidge(ClassifierMixin, BaseEstimator):
    """Ridge regression onto the targets softmax(-g (class - label)**2); predicts the largest output.

    Args:
        alpha: of the ridge penalty.
        soft_labels: g.
    """

    def __init__(self, alpha: float = 1.0, soft_labels: float = 0.5) -> None:
        self.alpha, self.soft_labels = alpha, soft_labels

    def fit(self, features: NDArray[np.float64], labels: NDArray[np.int64]) -> SoftRidge:
        """Fit to features, shape (rows, columns), and classes, shape (rows,)."""
        self.classes_ = np.unique(labels)
        distances = np.square(self.classes_ - labels[:, None])
        self.ridge_ = Ridge(self.alpha).fit(features, scipy.special.softmax(-self.soft_labels * distances, axis=1))
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.int64]:
        """The classes, shape (rows,)."""
        return self.classes_[self.ridge_.predict(features).argmax(1)]


def read_set(data: DataSet) -> StudyData:
    """The splits of a data set; texts with the last hidden states alone."""
    options = argparse.Namespace(data=f"../shared/data/{data.folder}", overrides=[])
    found = read_regime(data.recipe, options, *data.overrides).data
    if not data.is_ordered:
        return found
    cut = {
        name: (np.ascontiguousarray(features[:, -STATES * WIDTH :]), labels)
        for name in ("train", "validation", "test")
        for features, labels in [getattr(found, name)]
    }
    return replace(found, config=CRConfig(in_features=STATES * WIDTH, num_labels=found.config.num_labels), **cut)


def measure(arm: Arm, data: StudyData, shots: int, subsets: int) -> dict[str, Any]:
    """One head at so many labels a class: what each subset chose, its accuracy in cross-validation, hits on test."""
    started = time.process_time()
    rows = [draw_shots(data.train[1], shots, seed) for seed in range(subsets)]
    heads, accuracies = train_few(arm, arm.settings, rows, data)
    features, labels = data.test
    return {
        "choices": accuracies.argmax(0).tolist(),
        "cross_validated": accuracies.max(0).tolist(),
        "hits": pack_hits(predict_classes(heads, features) == labels),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def best_of(names: Sequence[str], found: Cells, hits: dict[str, Hits]) -> tuple[Hits, dict[str, int]]:
    """In each subset the head that is best in its cross-validation, of equal ones the first: hits, and how often."""
    best = np.argmax([found[name]["cross_validated"] for name in names], axis=0)
    chosen = np.stack([hits[names[one]][subset] for subset, one in enumerate(best)])
    return chosen, Counter(names[one] for one in best)


def pooled_bootstrap(
    strata: Sequence[Hits], confidences: Sequence[float] = (0.95,), resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Intervals of the mean over test sets of the mean over seeds and rows of each, shape (len(confidences), 2).

    All sets, each of shape (seeds, rows), count alike; seeds and rows are resampled within each, as in
    `crossed_bootstrap`.
    """
    means = [crossed_means([one], resamples, number)[0] for number, one in enumerate(strata)]
    return percentiles(np.mean(means, axis=0, keepdims=True), confidences)[0]


def difference(strata: Sequence[Hits]) -> dict[str, Any]:
    """Mean over sets of a paired difference, its interval, that corrected for `COMPARISONS`, and what is claimed."""
    plain, wide = pooled_bootstrap(strata, (1 - LEVEL, 1 - LEVEL / COMPARISONS)).tolist()
    value, claimed = float(np.mean([one.mean() for one in strata])), not wide[0] <= 0 <= wide[1]
    return {"difference": value, "interval": plain, "corrected_interval": wide, "claimed": claimed}


def advise(shots: int, kind: str, strata: Sequence[dict[str, Hits]]) -> dict[str, Any]:
    """The head to use, by `RULE`, in a sentence, with the mean accuracy of every head over the sets."""
    means = {name: float(np.mean([hits[name].mean() for hits in strata])) for name in strata[0]}
    use = best = max(means, key=lambda name: means[name])
    for name in list(means)[: list(means).index(best)]:
        lead = [hits[best] - hits[name] for hits in strata]
        if pooled_bootstrap(lead, (1 - LEVEL / (len(means) - 1),))[0, 0] <= 0:
            use = name
            break
    text = f"With {shots} labels a class of {kind}, use {use}: {means[use]:.1%} of the test rows are right"
    end = "more than of any simpler head" if use == best else f"{best}, {means[best]:.1%}, is not certainly better"
    return {"shots": shots, "use": use, "best": best, "sentence": f"{text}; {end}.", "mean_accuracies": means}


def compared(name: str, shots: int, found: Cells, hits: dict[str, Hits]) -> tuple[dict[str, Any], Hits]:
    """A row of the table of results, and the hits of the best of `OURS` minus those of the best other."""
    ours, own = best_of([head for head in OURS if head in found], found, hits)
    best, other = best_of([head for head in found if head not in OURS], found, hits)
    intervals = crossed_bootstrap(list(hits.values()))[:, 0].tolist()
    heads = {
        head: {
            "test_accuracy": float(hits[head].mean()),
            "interval": interval,
            "choices": found[head]["choices"],
            "cross_validated": found[head]["cross_validated"],
        }
        for head, interval in zip(hits, intervals, strict=True)
    }
    row: dict[str, Any] = {"set": name, "shots": shots, "heads": heads}
    row["ours"] = {"chosen": own, "test_accuracy": float(ours.mean())}
    row["others"] = {"chosen": other, "test_accuracy": float(best.mean())}
    row["ours_minus_best_other"] = difference([ours - best])
    strongest, second = (
        max((head for head in heads if (head in OURS) is is_ours), key=lambda head: heads[head]["test_accuracy"])
        for is_ours in (True, False)
    )
    row["strongest"] = {"ours": strongest, "other": second, **difference([hits[strongest] - hits[second]])}
    return row, ours - best


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/few_labels.json."""
    options = start(argv, "few_labels", __doc__, seeds=SUBSETS)
    ESTIMATORS["ridge+soft"] = ("experiments.few_labels", "SoftRidge", {})
    table, leads, hits = [], {}, {}
    for name, data in SETS.items():
        splits = read_set(data)
        for shots in data.shots:
            cells: Cells = {}
            for head, arm in arms_of(data).items():
                made = partial(measure, arm, splits, shots, options.seeds)
                cells[head] = part(options, f"{name}-{shots}-{head}-{options.seeds}", made)
                right = unpack_hits(cells[head]["hits"]).mean()
                print(f"{name}, {shots} a class, {head}: {right:.1%} ({cells[head]['cpu_seconds']} s)", flush=True)
            own = {head: unpack_hits(one["hits"]).astype(np.float64) for head, one in cells.items()}
            row, leads[name, shots] = compared(name, shots, cells, own)
            table.append(row)
            hits[name, shots] = own
    pooled = {shots: difference([leads[name, shots] for name in POOLED]) for shots in TEXT_SHOTS}
    advice = [
        advise(shots, kind, [hits[name, shots] for name in names])
        for kind, names in (("ordered classes", POOLED), ("classes without order", ("mnist",)))
        for shots in SETS[names[0]].shots
    ]
    write_result(options, rule=RULE, cells=table, pooled=pooled, advice=advice)
    print("\n".join(one["sentence"] for one in advice))


if __name__ == "__main__":
    main()
