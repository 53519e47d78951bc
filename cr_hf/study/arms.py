"""The heads of a study: what each of them is, and the settings that are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, nearest
from .classical import make_estimator

LINEAR_SETTINGS = tuple({"learning_rate": value} for value in (1e-4, 3e-4, 1e-3, 3e-3))
DROPOUT_SETTINGS = tuple({"dropout": value} for value in (0.1, 0.3, 0.5, 0.7))
DREG_SETTINGS = tuple({"dreg_lambda": value, "dropout": 0.3} for value in (0.01, 0.02, 0.04, 0.08))
DECAY_SETTINGS = tuple({"weight_decay": value, "dropout": 0.3} for value in (0.1, 1.0, 10.0, 30.0))
GRADIENT_SETTINGS = tuple({"penalty": value, "dropout": 0.3} for value in (0.1, 1.0, 10.0, 100.0))
SCHEDULE_SETTINGS = tuple({**setting, "dreg_lambda_end": setting["dreg_lambda"] / 16} for setting in DREG_SETTINGS)
JACOBIAN_SETTINGS = tuple({"penalty": value, "dropout": 0.3} for value in (0.01, 0.1, 1.0, 10.0))

C_SETTINGS = tuple({"C": value} for value in (0.01, 0.1, 1, 10))
TREE_SETTINGS = tuple({"max_depth": depth, "n_estimators": trees} for depth in (2, 3) for trees in (50, 150))


@dataclass(frozen=True)
class Head:
    """A head of a study.

    Args:
        fields: of `CRConfig`, the same for every setting.
        settings: fields of `HeadSpec`, and `penalty` for the coefficient of another penalty than DREG, or arguments of
            the estimator; every head of a study tries equally many.
        penalty: one of `penalties.PENALTIES` in place of DREG.
        schedule: one of `DREG_SCHEDULES`.
        estimator: one of `classical_heads.ESTIMATORS` in place of a network.
    """

    fields: dict[str, Any]
    settings: tuple[dict[str, Any], ...]
    penalty: str | None = None
    schedule: str = "constant"
    estimator: str | None = None


HEADS = {
    "linear": Head({"hidden_sizes": []}, LINEAR_SETTINGS),
    "mlp-relu": Head({"activation": "relu"}, DROPOUT_SETTINGS),
    "mlp-gelu": Head({"activation": "gelu"}, DROPOUT_SETTINGS),
    "cr": Head({"activation": "polynomial"}, DROPOUT_SETTINGS),
    "cr+dreg": Head({"activation": "polynomial"}, DREG_SETTINGS),
    "cr+dreg-linear": Head({"activation": "polynomial"}, SCHEDULE_SETTINGS, schedule="linear"),
    "cr+dreg-cosine": Head({"activation": "polynomial"}, SCHEDULE_SETTINGS, schedule="cosine"),
    "cr+dreg-exponential": Head({"activation": "polynomial"}, SCHEDULE_SETTINGS, schedule="exponential"),
    "gelu+dreg": Head({"activation": "gelu"}, DREG_SETTINGS),
    "gelu+weight-decay": Head({"activation": "gelu"}, DECAY_SETTINGS),
    "gelu+gradient-penalty": Head({"activation": "gelu"}, GRADIENT_SETTINGS, "input_gradient"),
    "gelu+jacobian": Head({"activation": "gelu"}, JACOBIAN_SETTINGS, "jacobian"),
    "gelu+spectral-norm": Head({"activation": "gelu"}, DROPOUT_SETTINGS, "spectral_norm"),
    "logistic-regression": Head({}, C_SETTINGS, estimator="logistic regression"),
    "svm": Head({}, tuple({"C": value} for value in (0.1, 1, 10, 100)), estimator="SVM"),
    "gradient-boosting": Head({}, TREE_SETTINGS, estimator="gradient boosting"),
    "xgboost": Head({}, TREE_SETTINGS, estimator="XGBoost"),
}

DESCRIPTIONS = {
    "linear": "one linear map, no hidden layer; learning rates are tried",
    "mlp-relu": "an MLP with ReLU; dropouts are tried",
    "mlp-gelu": "an MLP with GELU; dropouts are tried",
    "cr": "ChainzRule: an MLP with a learnable cubic polynomial for each unit; dropouts are tried",
    "cr+dreg": "ChainzRule with DREG, the penalty on the Jacobian of every layer; lambdas are tried",
    "cr+dreg-linear": "cr+dreg, lambda falling in a line to a sixteenth; where it starts is tried",
    "cr+dreg-cosine": "cr+dreg, lambda falling like a cosine to a sixteenth; where it starts is tried",
    "cr+dreg-exponential": "cr+dreg, lambda falling exponentially to a sixteenth; where it starts is tried",
    "gelu+dreg": "an MLP with GELU and DREG; lambdas are tried",
    "gelu+weight-decay": "an MLP with GELU; weight decays are tried",
    "gelu+gradient-penalty": "an MLP with GELU and a penalty on the input gradient of the loss; lambdas are tried",
    "gelu+jacobian": "an MLP with GELU and a penalty on a random projection of its Jacobian; lambdas are tried",
    "gelu+spectral-norm": "an MLP with GELU, its weights divided by their spectral norm; dropouts are tried",
    "logistic-regression": "logistic regression of scikit-learn; its C is tried",
    "svm": "a support vector machine of scikit-learn with Gaussian kernel; its C is tried",
    "gradient-boosting": "gradient boosting of scikit-learn; depths and numbers of trees are tried",
    "xgboost": "XGBoost; depths and numbers of trees are tried",
}


def check_heads(heads: Sequence[str]) -> None:
    """Refuse names out of no study.

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
