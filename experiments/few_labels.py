"""4 to 128 labels a class: CR and DREG against tuned baselines, on SST-5, Yelp and MNIST (pixels).

Every subset of the training rows is a user with so few labels: a setting is chosen by stratified cross-validation
inside the subset (`cr_hf.study.shots`), no dev split is looked at, and test rows once, with what was chosen.
Texts are the last two hidden states of the frozen encoder, mean pooled: on dev rows as good as all seven with 8 labels
a class, and three times as fast; with 32, networks on Yelp are 1 to 2 points better on all seven.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cr_hf.study.arms import HEADS, NO_DREG, Arm, Setting

SUBSETS = 30
STATES, WIDTH = 2, 384


@dataclass(frozen=True)
class DataSet:
    """A recipe, its data below ../shared/data, and what is compared on it."""

    recipe: str
    folder: str
    overrides: tuple[str, ...]
    shots: tuple[int, ...]
    is_ordered: bool


SETS = {
    "sst5": DataSet("sst5_frozen", "sst5", ("backbone=offline",), (4, 8, 16, 32, 128), True),
    "yelp": DataSet(
        "yelp_minilm", "yelp5", ("backbone=offline", "objective=cross_entropy"), (4, 8, 16, 32, 128), True
    ),
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
    {"dreg_lambda": 0.05, "coefficient_init": "identity"},
    {"dreg_lambda": 0.01, "coefficient_init": "hermite"},
    {"dreg_lambda": 0.001, "coefficient_init": "hermite"},
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
COMPARISONS = sum(len(data.shots) for data in SETS.values()) + len(SETS["sst5"].shots)
RULE = (
    "Claimed where the interval of the paired difference, by crossed bootstrap over subsets and test rows, corrected "
    f"by Bonferroni for {COMPARISONS} comparisons, excludes 0. Advice: of all heads, the simplest (in the order of "
    "the table) that is not certainly below the one with the best mean accuracy over the sets of its kind: the "
    "interval of that difference, corrected for the number of heads, reaches 0."
)
