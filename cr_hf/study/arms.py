"""The heads of a study: what each of them is, and the settings that are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import RecipeError, nearest
from .classical import LINEAR_ESTIMATORS, make_estimator

Setting: TypeAlias = dict[str, float]

# DREG of one linear map is the squared norm of its weights: with it, it is a logistic regression.
LINEAR_SETTINGS = tuple({"dreg_lambda": value} for value in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0))
DROPOUT_SETTINGS = tuple({"dropout": value} for value in (0.0, 0.1, 0.3, 0.5, 0.7, 0.8))
DREG_SETTINGS = tuple({"dreg_lambda": value, "dropout": 0.3} for value in (0.005, 0.01, 0.02, 0.04, 0.08, 0.16))
SCHEDULE_SETTINGS = tuple({**setting, "dreg_lambda_end": setting["dreg_lambda"] / 16} for setting in DREG_SETTINGS)
DECAY_SETTINGS = tuple({"weight_decay": value, "dropout": 0.3} for value in (0.1, 1.0, 3.0, 10.0, 30.0, 100.0))
PENALTY_SETTINGS = tuple({"penalty_weight": value, "dropout": 0.3} for value in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0))
C_SETTINGS: tuple[Setting, ...] = tuple({"C": value} for value in (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1))
MARGIN_SETTINGS: tuple[Setting, ...] = tuple({"C": value} for value in (0.01, 0.1, 1, 3, 10, 100))
ALPHA_SETTINGS: tuple[Setting, ...] = tuple({"alpha": value} for value in (1, 10, 100, 1e3, 1e4, 1e5))
SHRINK_SETTINGS: tuple[Setting, ...] = tuple({"shrink_threshold": value} for value in (0.01, 0.03, 0.1, 0.3, 1, 3))
TREE_SETTINGS: tuple[Setting, ...] = tuple(
    {"max_depth": depth, "n_estimators": trees} for depth in (1, 2, 3) for trees in (50, 150)
)
# A head without DREG does not inherit the recipe's.
NO_DREG = {"dreg_lambda": 0, "dreg_schedule": "constant", "dreg_lambda_end": None}


@dataclass(frozen=True)
class Arm:
    """A head of a study: the recipe with some keys replaced. What it does not replace is the recipe's.

    Args:
        description: what it is and which settings are tried, for the report.
        overrides: keys of the recipe and their values, the same for every setting.
        settings: further overrides, one of which is chosen on dev; every head of a study tries equally many. They may
            hold `penalty_weight`; those of an estimator are its arguments.
        penalty: one of `penalties.PENALTIES` beside DREG; `None` (default) for no other.
        estimator: one of `classical.ESTIMATORS` in place of a network.
    """

    description: str
    overrides: dict[str, Any]
    settings: tuple[Setting, ...]
    penalty: str | None = None
    estimator: str | None = None

    @property
    def is_recipe(self) -> bool:
        """Whether `cr-hf train` can train it."""
        return self.penalty is None and self.estimator is None

    @property
    def is_linear(self) -> bool:
        """Whether it draws straight lines between classes: the simplest heads there are."""
        return self.estimator in LINEAR_ESTIMATORS or self.overrides.get("hidden_sizes") == []


CONSTANT = {name: NO_DREG[name] for name in ("dreg_schedule", "dreg_lambda_end")}
# Its lambda alone keeps it from learning by heart: the last epoch is better than the one that a small dev split likes.
LAST_EPOCH = {"load_best_model_at_end": False, "early_stopping_patience": None}
LINEAR = {"hidden_sizes": [], "learning_rate": 3e-3, "head_learning_rate": None, **CONSTANT, **LAST_EPOCH}
GELU = {"activation": "gelu", **NO_DREG}
CR = {"activation": "polynomial"}
HEADS = {
    "linear": Arm("one linear map, no hidden layer, with DREG; lambdas are tried", LINEAR, LINEAR_SETTINGS),
    "mlp-relu": Arm("an MLP with ReLU; dropouts are tried", {"activation": "relu", **NO_DREG}, DROPOUT_SETTINGS),
    "mlp-gelu": Arm("an MLP with GELU; dropouts are tried", GELU, DROPOUT_SETTINGS),
    "cr": Arm(
        "ChainzRule: an MLP with a learnable cubic polynomial for each unit; dropouts are tried",
        {**CR, **NO_DREG},
        DROPOUT_SETTINGS,
    ),
    **{
        f"{name}+dreg{suffix}": Arm(
            f"{words} and DREG{what}; lambdas are tried", {"activation": activation, **mode}, DREG_SETTINGS
        )
        for name, words, activation in (
            ("cr", "ChainzRule with polynomials", "polynomial"),
            ("relu", "an MLP with ReLU", "relu"),
            ("gelu", "an MLP with GELU", "gelu"),
        )
        for suffix, what, mode in (  # without a mode it is the recipe's
            ("", ", the penalty on the Jacobian of every layer", {}),
            ("-layer", " at the batch's examples", {"dreg_mode": "layer"}),
            ("-worst", " of the steepest input there could be", {"dreg_mode": "worst"}),
        )
    },
    **{
        f"cr+dreg-{schedule}": Arm(
            f"cr+dreg, lambda falling {how} to a sixteenth; where it starts is tried",
            {**CR, "dreg_schedule": schedule},
            SCHEDULE_SETTINGS,
        )
        for schedule, how in (("linear", "in a line"), ("cosine", "like a cosine"), ("exponential", "exponentially"))
    },
    "gelu+weight-decay": Arm("an MLP with GELU; weight decays are tried", GELU, DECAY_SETTINGS),
    "gelu+gradient-penalty": Arm(
        "an MLP with GELU and a penalty on the input gradient of the loss; lambdas are tried",
        GELU,
        PENALTY_SETTINGS,
        "input_gradient",
    ),
    "gelu+jacobian": Arm(
        "an MLP with GELU and a penalty on a random projection of its Jacobian; lambdas are tried",
        GELU,
        PENALTY_SETTINGS,
        "jacobian",
    ),
    "gelu+spectral-norm": Arm(
        "an MLP with GELU, its weights divided by their spectral norm; dropouts are tried",
        GELU,
        DROPOUT_SETTINGS,
        "spectral_norm",
    ),
    **{
        name: Arm(f"{words} is tried", {}, settings, estimator=name)
        for name, words, settings in (
            ("logistic-regression", "logistic regression of scikit-learn; its C", C_SETTINGS),
            ("svm-linear", "a support vector machine of scikit-learn with linear kernel; its C", C_SETTINGS),
            ("svm", "a support vector machine of scikit-learn with Gaussian kernel; its C", MARGIN_SETTINGS),
            ("ridge", "least squares on the classes of scikit-learn, with ridge penalty; its alpha", ALPHA_SETTINGS),
            ("nearest-centroid", "the nearest class mean, of scikit-learn; its shrinkage", SHRINK_SETTINGS),
            ("gradient-boosting", "gradient boosting of scikit-learn; its depth and number of trees", TREE_SETTINGS),
            ("xgboost", "XGBoost; its depth and number of trees", TREE_SETTINGS),
        )
    },
}


def check_heads(heads: Sequence[str]) -> None:
    """Refuse unknown heads.

    Raises:
        RecipeError: naming the head that is unknown or given twice, or the package that a head lacks.
    """
    for head in heads:
        if head not in HEADS:
            raise RecipeError(f"--heads: {head!r} is unknown{nearest(head, HEADS)}: use {', '.join(HEADS)}")
        if heads.count(head) > 1:
            raise RecipeError(f"--heads: {head!r} is given twice")
        if (estimator := HEADS[head].estimator) is not None:
            make_estimator(estimator)
