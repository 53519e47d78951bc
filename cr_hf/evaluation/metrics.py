"""Offline `evaluate` metrics; `METRICS` are those of a task with one class a row.

`evaluate.load` fetches a script from the Hub, so the classes stand here. They keep their rows in memory and write no
file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import scipy.special
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

from .statistics import calibration_bins


class _OfflineMetric(evaluate.Metric):
    """A metric that needs neither network nor cache folder. Its docstring is its description, its `key` its result."""

    key: str
    more_is_better = True
    needs_order = False
    reads = "top class"
    """What `score` takes as predictions: class indices of shape (rows,), or log-probabilities (rows, num_labels)."""
    prediction_feature: Any = datasets.Value("int64")
    score: Callable[[NDArray[Any], NDArray[Any]], float]

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        """Create nothing: the parent makes a folder here even for a metric kept in memory (evaluate 0.4.6)."""
        return ""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": self.prediction_feature, "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__ or self.key,
            citation="",
            inputs_description=f"Returns a dict with the key {self.key!r}.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {self.key: float(self.score(np.asarray(predictions), np.asarray(references)))}


class _ProbabilityMetric(_OfflineMetric):
    more_is_better = False
    reads = "log-probabilities"
    prediction_feature = datasets.List(datasets.Value("float64"))


class Accuracy(_OfflineMetric):
    """Share of rows whose predicted class is the reference."""

    key = "accuracy"

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        return float(np.mean(predictions == references))


class MacroF1(_OfflineMetric):
    """Mean F1 over the classes that occur among predictions or references, as scikit-learn averages them."""

    key = "macro_f1"

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        return float(sklearn.metrics.f1_score(references, predictions, average="macro"))


class MeanAbsoluteError(_OfflineMetric):
    """Mean distance between predicted and reference class, in classes."""

    key = "mean_absolute_error"
    more_is_better = False
    needs_order = True
    reads = "median class"

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        return float(np.mean(np.abs(predictions - references)))


class QuadraticWeightedKappa(_OfflineMetric):
    """Cohen's kappa with squared distances as weights: 1 is agreement, 0 is chance.

    Where everything is one class, kappa is 0/0; it is reported as 0, no better than chance.
    """

    key = "quadratic_weighted_kappa"
    needs_order = True

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        if len({*references, *predictions}) == 1:
            return 0.0
        return float(sklearn.metrics.cohen_kappa_score(references, predictions, weights="quadratic"))


class ExpectedCalibrationError(_ProbabilityMetric):
    """Mean gap between confidence and accuracy of the top class, over 15 equal-width bins, weighted by their rows."""

    key = "expected_calibration_error"

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        confidence = np.exp(predictions.max(-1))
        correct = predictions.argmax(-1) == references
        return sum(own.share * abs(own.confidence - own.accuracy) for own in calibration_bins(confidence, correct))


class NegativeLogLikelihood(_ProbabilityMetric):
    """Mean negative log-probability of the reference class, in nats."""

    key = "negative_log_likelihood"

    @staticmethod
    def score(predictions: NDArray[Any], references: NDArray[Any]) -> float:
        return float(-np.take_along_axis(predictions, references[:, None], axis=-1).mean())


METRICS = (
    *(Accuracy, MacroF1, MeanAbsoluteError, QuadraticWeightedKappa),
    *(ExpectedCalibrationError, NegativeLogLikelihood),
)
"""In the order in which a table shows them."""


def classification_metrics(ordered: bool) -> list[type[_OfflineMetric]]:
    """Those of `METRICS` that a task has whose classes are ordered, or are not."""
    return [metric for metric in METRICS if ordered or not metric.needs_order]


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores, references = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or references.shape != scores.shape[:1] or not len(references):
        raise ValueError(
            f"logits of shape {scores.shape} and labels of shape {references.shape}: "
            "(rows, num_labels) and (rows,) with at least one row are needed"
        )
    if not np.isfinite(scores).all():
        raise ValueError("logits hold NaN or infinite values: no metric of them means anything")
    if references.min() < 0 or references.max() >= scores.shape[1]:
        raise ValueError(f"labels run from {references.min()} to {references.max()}, logits have {scores.shape[1]}")
    return scores, references.astype(np.int64)


def compute_classification_metrics(logits: ArrayLike, labels: ArrayLike, ordered: bool) -> dict[str, float]:
    """Every metric of a classifier on one split.

    The prediction is the top class, except for the absolute error, which takes the median class: the first whose
    cumulative probability reaches one half.

    Args:
        logits: shape (rows, num_labels), finite; softmax gives the probabilities.
        labels: class indices, shape (rows,).
        ordered: the classes are ordered; adds the two metrics that need an order.

    Returns:
        `accuracy, macro_f1, expected_calibration_error, negative_log_likelihood`, and with `ordered` also
        `mean_absolute_error, quadratic_weighted_kappa`.

    Raises:
        ValueError: if shapes disagree, there is no row, a logit is not finite, or a label has no logit.
    """
    scores, references = _checked(logits, labels)
    log_probabilities = scipy.special.log_softmax(scores, axis=-1)
    predictions: dict[str, NDArray[Any]] = {
        "top class": scores.argmax(-1),
        "median class": median_class(np.exp(log_probabilities)),
        "log-probabilities": log_probabilities,
    }
    # By `score` and not by `compute`, which would copy every row into Arrow and back.
    chosen = classification_metrics(ordered)
    return {metric.key: metric.score(predictions[metric.reads], references) for metric in chosen}


def median_class(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class that minimises the expected absolute error, shape (rows,), of probabilities (rows, num_labels)."""
    return (probabilities.cumsum(-1)[:, :-1] < 0.5).sum(-1)


def compute_regression_metrics(predictions: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Metrics of a regression; `r_squared` is NaN where the targets do not vary.

    Args:
        predictions: shape (rows, num_labels) or (rows,).
        targets: the same number of values.
    """
    found = np.asarray(predictions, dtype=np.float64)
    wanted = np.asarray(targets, dtype=np.float64).reshape(found.shape)
    squares = np.square(found - wanted)
    spread = np.square(wanted - wanted.mean(0)).sum()
    return {
        "mean_squared_error": float(squares.mean()),
        "mean_absolute_error": float(np.abs(found - wanted).mean()),
        "r_squared": float(1 - squares.sum() / spread) if spread > 0 else float("nan"),
    }


def compute_multi_label_metrics(logits: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Metrics of a multi-label classification; a class is predicted where its logit is above 0.

    `accuracy` is the share of rows with every class right; in `macro_f1` a class that is neither predicted nor there
    counts 0.

    Args:
        logits: shape (rows, num_labels).
        targets: zeros and ones of the same shape.
    """
    predicted, wanted = np.asarray(logits) > 0, np.asarray(targets) > 0.5
    return {
        "accuracy": float((predicted == wanted).all(-1).mean()),
        "micro_f1": float(sklearn.metrics.f1_score(wanted, predicted, average="micro", zero_division=0)),
        "macro_f1": float(sklearn.metrics.f1_score(wanted, predicted, average="macro", zero_division=0)),
    }
