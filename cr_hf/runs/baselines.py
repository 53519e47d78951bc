"""A tuned logistic regression beside a head: on the features that the head reads, and on TF-IDF of the texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import bootstrap_interval
from ..features import FeatureDataset, text_columns

ON_FEATURES, ON_WORDS = "logistic regression on the same features", "logistic regression on TF-IDF"
FEATURE_STRENGTHS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)  # of standardised columns
WORD_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
MOST_WORDS = 50_000
SECONDS = 30
# Seconds a number of the training rows and class, for all values of C, on one core; the upper end of those measured.
SECONDS_A_NUMBER, SECONDS_A_CHARACTER = 2e-7, 1e-6


@dataclass(frozen=True)
class Beside:
    """A simpler classifier, measured on the rows that the head was measured on.

    Args:
        name: `ON_FEATURES` or `ON_WORDS`.
        accuracy: share of rows.
        difference: accuracy of the head minus this one.
        interval: of the difference, 95 %, by paired bootstrap over rows.
        C: inverse strength of the L2 penalty, chosen on validation.
        parameters: weights and biases.
    """

    name: str
    accuracy: float
    difference: float
    interval: tuple[float, float]
    C: float
    parameters: int


def beside_head(
    right: NDArray[np.bool_],
    measured: str,
    dataset: Mapping[str, Any],
    splits: Mapping[str, Any],
    seconds: float,
) -> tuple[list[Beside], list[str]]:
    """Both logistic regressions beside a head, those that the data allow.

    Args:
        right: whether the head was right on each row of the measured split.
        measured: that split.
        dataset: by split the rows, texts and labels; nothing is fitted to a training split that is streamed.
        splits: by split what the head was trained on; `FeatureDataset`s of a frozen backbone or a table.
        seconds: that the run took: what would take longer than a tenth of it, and than 30 s, is left out.

    Returns:
        What was fitted, and sentences on what was left out.
    """
    if not hasattr(dataset["train"], "__len__"):
        return [], ["No logistic regression stands beside it: the training rows are streamed."]
    labels = {name: np.asarray(rows["label"][:]) for name, rows in dataset.items()}
    rows, classes = len(labels["train"]), labels["train"].max() + 1
    found, left_out, limit = list[Beside](), list[str](), max(SECONDS, seconds / 10)

    def add(name: str, cost: float, inputs: Any, strengths: Sequence[float]) -> None:
        if cost > limit:
            left_out.append(f"No {name} stands beside it: it could take {cost:,.0f} s.")
            return
        try:
            found.append(_tuned(name, inputs(), labels, strengths, right, measured))
        except ValueError as error:  # texts without a word
            left_out.append(f"No {name} stands beside it: {str(error).split(';')[0]}.")

    train = splits["train"]
    if isinstance(train, FeatureDataset):
        cost = SECONDS_A_NUMBER * rows * train.features.shape[1] * classes
        add(ON_FEATURES, cost, lambda: _standardized(splits), FEATURE_STRENGTHS)
    if "text" in dataset["train"].column_names:
        texts = {name: _texts(part) for name, part in dataset.items()}
        cost = SECONDS_A_CHARACTER * sum(map(len, texts["train"])) * classes
        add(ON_WORDS, cost, lambda: _counted_words(texts), WORD_STRENGTHS)
    return found, left_out


def _texts(rows: Any) -> list[str]:
    """Texts, a pair as one."""
    return [" ".join(texts) for texts in zip(*text_columns(rows), strict=True)]


def _standardized(splits: Mapping[str, FeatureDataset]) -> dict[str, Any]:
    from sklearn.preprocessing import StandardScaler

    raw = {name: np.asarray(split.features[split.indices]) for name, split in splits.items()}
    scaler = StandardScaler().fit(raw["train"])
    return {name: scaler.transform(features) for name, features in raw.items()}


def _counted_words(texts: Mapping[str, list[str]]) -> dict[str, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_WORDS, dtype=np.float32)
    vectorizer.fit(texts["train"])
    return {name: vectorizer.transform(part) for name, part in texts.items()}


def _tuned(
    name: str,
    inputs: Mapping[str, Any],
    labels: Mapping[str, NDArray[np.int64]],
    strengths: Sequence[float],
    right: NDArray[np.bool_],
    measured: str,
) -> Beside:
    """The strongest penalty first, each from the weights of the last, until two in a row are no better."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True)
    best, chosen, hits, worse = -1.0, 0.0, right, 0
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a setting that has not converged will hardly be chosen
            model.set_params(C=strength).fit(inputs["train"], labels["train"])
        accuracy = float(model.score(inputs["validation"], labels["validation"]))
        if accuracy > best:
            best, chosen, worse = accuracy, strength, 0
            hits = model.predict(inputs[measured]) == labels[measured]
        elif (worse := worse + 1) == 2:
            break
    differences = right.astype(np.float64) - hits
    low, high = bootstrap_interval(differences) if len(right) > 1 else (-1.0, 1.0)
    parameters = model.coef_.size + model.intercept_.size
    return Beside(name, float(hits.mean()), float(differences.mean()), (low, high), chosen, parameters)
