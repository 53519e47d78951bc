"""The usual classifiers on features, for studies: logistic regression, ridge, centroids, SVMs and boosting."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError


def linear_kernel(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of all rows with all others, by one matrix product: many times faster than libsvm's own kernel."""
    return rows @ others.T


def gaussian_kernel(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(-gamma |x - y|^2) with gamma 1 / columns: scikit-learn's `gamma="scale"` on standardised columns."""
    squares = np.square(rows).sum(1)[:, None] + np.square(others).sum(1) - 2 * linear_kernel(rows, others)
    return np.exp(-np.maximum(squares, 0) / rows.shape[1])


ESTIMATORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "logistic-regression": ("sklearn.linear_model", "LogisticRegression", {"max_iter": 1000, "tol": 1e-3}),
    "svm-linear": ("sklearn.svm", "SVC", {"kernel": linear_kernel, "cache_size": 1000}),
    "svm": ("sklearn.svm", "SVC", {"kernel": gaussian_kernel, "cache_size": 1000}),
    "ridge": ("sklearn.linear_model", "RidgeClassifier", {}),
    "nearest-centroid": ("sklearn.neighbors", "NearestCentroid", {}),
    "gradient-boosting": ("sklearn.ensemble", "GradientBoostingClassifier", {"random_state": 0}),
    "xgboost": ("xgboost", "XGBClassifier", {"n_jobs": 1, "learning_rate": 0.1, "random_state": 0}),
}

LINEAR_ESTIMATORS = {"logistic-regression", "svm-linear", "ridge", "nearest-centroid"}


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

    Features are standardised by the same rows; `train` and `validation` are features and labels. Seeds with the same
    rows share one estimator, for none draws at random.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = np.asarray(train[0]), train[1]
    fitted, known = [], dict[tuple[int, bytes], FittedEstimator]()
    for (number, setting), seed in product(enumerate(settings), seeds):
        key = number, subsets[seed].tobytes()
        if key not in known:
            pipeline = make_pipeline(StandardScaler(), make_estimator(name, **setting))
            with warnings.catch_warnings():
                # Of columns that are constant, and of a setting that has not converged and will hardly be chosen.
                warnings.simplefilter("ignore", UserWarning)
                pipeline.fit(features[subsets[seed]], labels[subsets[seed]])
            known[key] = FittedEstimator(pipeline, float(pipeline.score(np.asarray(validation[0]), validation[1])))
        fitted.append(known[key])
    return fitted


def log_probabilities(fitted: FittedEstimator, features: Any) -> NDArray[np.float64] | None:
    """Of each class, shape (rows, num_labels); `None` of an estimator that has none, such as an SVM."""
    if not hasattr(fitted.pipeline, "predict_proba"):
        return None
    classes = fitted.pipeline.classes_
    found = np.zeros((len(features), classes.max() + 1))
    found[:, classes] = fitted.pipeline.predict_proba(np.asarray(features))
    return np.log(np.maximum(found, np.finfo(np.float64).tiny))
