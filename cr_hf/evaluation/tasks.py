"""What a classifier is asked: one class, ordered classes, several classes, or numbers.

Everything that depends on it is decided here: which metrics there are and which of them chooses the best checkpoint,
when a row is right, what a user is shown of a row, and what its label is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data import NUMBERS, SEPARATOR, SINGLE
from ..files import Json
from ..modeling import CRConfig
from .statistics import bootstrap_interval

if TYPE_CHECKING:
    from transformers import EvalPrediction


@dataclass(frozen=True)
class Task:
    """The question that a model answers.

    Args:
        problem_type: one of transformers' three values of `config.problem_type`.
        is_ordered: the classes are ordered, lowest first; False by default. It adds the metrics of distance.
        label_names: names of the classes in order; empty for regression and where they are not known.
    """

    problem_type: str = SINGLE
    is_ordered: bool = False
    label_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: CRConfig) -> Task:
        """The task of a model's configuration."""
        names: dict[Any, str] = config.id2label or {}
        return cls(config.problem_type or SINGLE, config.is_ordered, tuple(names[index] for index in sorted(names)))

    @property
    def is_single(self) -> bool:
        """Whether a row has exactly one class."""
        return self.problem_type == SINGLE

    @property
    def is_regression(self) -> bool:
        """Whether a row has numbers in place of classes."""
        return self.problem_type == NUMBERS

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint unless a recipe names another."""
        return "accuracy" if self.is_single else "loss"

    @property
    def metrics(self) -> dict[str, bool]:
        """Metrics by which the best checkpoint can be chosen, and whether more of each is better."""
        if self.is_regression:
            return {"loss": False, "mean_squared_error": False, "mean_absolute_error": False, "r_squared": True}
        if not self.is_single:
            return {"loss": False, "accuracy": True, "micro_f1": True, "macro_f1": True}
        from .metrics import classification_metrics  # it imports evaluate, two seconds that a prediction need not wait

        return {"loss": False, **{one.key: one.more_is_better for one in classification_metrics(self.is_ordered)}}

    def compute_metrics(self, logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """Every metric of one split.

        Args:
            logits: shape (rows, num_labels).
            labels: class indices, shape (rows,), or targets, shape (rows, num_labels).
        """
        from . import metrics

        if self.is_regression:
            return metrics.compute_regression_metrics(logits, labels)
        if not self.is_single:
            return metrics.compute_multi_label_metrics(logits, labels)
        return metrics.compute_classification_metrics(logits, labels, ordered=self.is_ordered)

    def trainer_metrics(self) -> Callable[[EvalPrediction], dict[str, float]]:
        """What `Trainer(compute_metrics=...)` takes; where predictions are a tuple, its first item is the logits."""

        def compute(prediction: EvalPrediction) -> dict[str, float]:
            logits: Any = prediction.predictions
            return self.compute_metrics(
                logits[0] if isinstance(logits, tuple) else logits, np.asarray(prediction.label_ids)
            )

        return compute

    def measure(self, logits: NDArray[Any], labels: NDArray[Any]) -> Json:
        """`compute_metrics`, the number of `rows`, and for classes `accuracy_interval`, a 95 % bootstrap over rows."""
        metrics: Json = {**self.compute_metrics(logits, labels), "rows": len(labels)}
        if not self.is_regression:
            right = self.right_rows(logits, labels).astype(float)
            metrics["accuracy_interval"] = list(bootstrap_interval(right)) if len(labels) > 1 else [0.0, 1.0]
        return metrics

    def right_rows(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each row is classified right, in all of its classes if it may have several, shape (rows,)."""
        if self.is_single:
            return logits.argmax(-1) == labels
        return ((logits > 0) == (labels > 0.5)).all(-1)

    def scores(self, logits: Tensor) -> list[list[float]]:
        """What a user is shown of each row: one probability a class, or the predicted numbers."""
        if self.is_regression:
            return logits.tolist()
        return (logits.softmax(-1) if self.is_single else logits.sigmoid()).tolist()

    def label_of(self, scores: list[float]) -> str:
        """The predicted label of a row of `scores`: the top class, every class above one half, or the numbers."""
        if self.is_regression:
            return " ".join(f"{score:.4g}" for score in scores)
        if self.is_single:
            return self.label_names[scores.index(max(scores))]
        return SEPARATOR.join(name for name, score in zip(self.label_names, scores, strict=True) if score > 0.5)
