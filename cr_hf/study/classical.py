"""What tables are usually classified with, for studies: logistic regression, SVM and boosting."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError

ESTIMATORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "logistic regression": ("sklearn.linear_model", "LogisticRegression", {"max_iter": 1000}),
    "SVM": ("sklearn.svm", "SVC", {}),
    "gradient boosting": ("sklearn.ensemble", "GradientBoostingClassifier", {}),
    "XGBoost": ("xgboost", "XGBClassifier", {"n_jobs": 1, "learning_rate": 0.1}),
}


@dataclass
class FittedEstimator:
    """A pipeline of standardisation and classifier, with its accuracy on dev."""

    pipeline: Any
    accuracy: float


def make_estimator(name: str, **arguments: Any) -> Any:
    """One of `ESTIMATORS`, not fitted.

    Raises:
        RecipeError: if its package is not installed.
    """
    module, class_name, always = ESTIMATORS[name]
    try:
        importlib.import_module("sklearn")  # which XGBoost's classifier needs as well
        found = getattr(importlib.import_module(module), class_name)
    except ImportError as error:
        raise RecipeError(f"a study with {name} needs {error.name}: pip install 'cr-hf[tables]'") from None
    return found(**always, **arguments)


def fit_settings(
    name: str,
    settings: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    subsets: Sequence[NDArray[np.int64]],
    train: tuple[Any, NDArray[np.int64]],
    validation: tuple[Any, NDArray[np.int64]],
) -> list[FittedEstimator]:
    """Every setting of one of `ESTIMATORS` with every seed, setting by setting, on the rows of the seed's subset.

    Features are standardised by the same rows; `train` and `validation` are features and labels.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = np.asarray(train[0]), train[1]
    fitted = []
    for setting, seed in product(settings, seeds):
        pipeline = make_pipeline(StandardScaler(), make_estimator(name, **setting, random_state=seed))
        pipeline.fit(features[subsets[seed]], labels[subsets[seed]])
        fitted.append(FittedEstimator(pipeline, float(pipeline.score(np.asarray(validation[0]), validation[1]))))
    return fitted


def log_probabilities(fitted: FittedEstimator, features: Any) -> NDArray[np.float64] | None:
    """Of each class, shape (rows, num_labels); `None` of an estimator that has none, such as an SVM."""
    if not hasattr(fitted.pipeline, "predict_proba"):
        return None
    classes = fitted.pipeline.classes_
    found = np.zeros((len(features), classes.max() + 1))
    found[:, classes] = fitted.pipeline.predict_proba(np.asarray(features))
    return np.log(np.maximum(found, np.finfo(np.float64).tiny))
