"""The offline metrics, against scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn import metrics as reference
from transformers import EvalPrediction

from cr_hf.evaluation.metrics import (
    Accuracy,
    ExpectedCalibrationError,
    MacroF1,
    MeanAbsoluteError,
    NegativeLogLikelihood,
    QuadraticWeightedKappa,
    compute_classification_metrics,
    median_class,
)
from cr_hf.evaluation.statistics import bootstrap_interval
from cr_hf.evaluation.tasks import Task


def sample(rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    labels = stream.integers(0, classes, rows)
    return stream.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels], labels


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 5), (500, 2), (2210, 5), (60, 30)])
def test_metrics_equal_scikit_learn(rows: int, classes: int) -> None:
    logits, labels = sample(rows, classes)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    top = logits.argmax(-1)
    median = np.array([next(k for k in range(classes) if row[: k + 1].sum() >= 0.5) for row in probabilities])
    found = compute_classification_metrics(logits, labels, ordered=True)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, top))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, top, average="macro"))
    assert found["mean_absolute_error"] == pytest.approx(reference.mean_absolute_error(labels, median))
    assert found["negative_log_likelihood"] == pytest.approx(
        reference.log_loss(labels, probabilities, labels=range(classes))
    )
    if rows > 1:
        kappa = reference.cohen_kappa_score(labels, top, weights="quadratic", labels=range(classes))
        assert found["quadratic_weighted_kappa"] == pytest.approx(kappa)


def test_calibration_error_equals_its_definition() -> None:
    logits, labels = sample(1000, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    confidence, correct = probabilities.max(-1), logits.argmax(-1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    found = compute_classification_metrics(logits, labels, ordered=False)
    assert found["expected_calibration_error"] == pytest.approx(expected)


def test_extremes() -> None:
    labels = np.array([0, 1, 2, 1])
    sure = 1000.0 * np.eye(3)[labels]
    right = compute_classification_metrics(sure, labels, ordered=True)
    assert right == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "mean_absolute_error": 0.0,
        "quadratic_weighted_kappa": 1.0,
        "expected_calibration_error": 0.0,
        "negative_log_likelihood": 0.0,
    }
    wrong = compute_classification_metrics(np.roll(sure, 1, axis=-1), labels, ordered=False)
    assert wrong["accuracy"] == wrong["macro_f1"] == 0.0
    assert wrong["expected_calibration_error"] == 1.0
    assert wrong["negative_log_likelihood"] == pytest.approx(1000.0)
    one_class = compute_classification_metrics(sure[[0, 0]], labels[[0, 0]], ordered=True)
    assert one_class["quadratic_weighted_kappa"] == 0.0
    assert one_class["macro_f1"] == 1.0


def test_order_changes_nothing_but_the_two_ordinal_metrics() -> None:
    logits, labels = sample(50, 3)
    plain, ordinal = (compute_classification_metrics(logits, labels, ordered=flag) for flag in (False, True))
    assert set(ordinal) - set(plain) == {"mean_absolute_error", "quadratic_weighted_kappa"}
    assert {key: ordinal[key] for key in plain} == plain
    assert all(type(value) is float for value in ordinal.values())


@pytest.mark.parametrize(
    ("metric", "predictions"),
    [
        (Accuracy, [0, 1, 1]),
        (MacroF1, [0, 1, 1]),
        (MeanAbsoluteError, [0, 1, 1]),
        (QuadraticWeightedKappa, [0, 1, 1]),
        (ExpectedCalibrationError, np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])),
        (NegativeLogLikelihood, np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])),
    ],
)
def test_each_is_an_evaluate_metric_that_takes_batches(metric: type, predictions: list[int]) -> None:
    whole, parts = metric(), metric()
    assert isinstance(whole, evaluate.Metric)
    assert whole.info.description == metric.__doc__
    for row, label in zip(predictions, [0, 1, 0], strict=True):
        parts.add_batch(predictions=[row], references=[label])
    assert whole.compute(predictions=predictions, references=[0, 1, 0]) == pytest.approx(parts.compute())


def test_metrics_leave_no_file_and_no_random_state_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    np.random.seed(3)
    expected = np.random.RandomState(3).random()
    compute_classification_metrics(*sample(50, 5), ordered=True)
    MacroF1().compute(predictions=[0, 1], references=[1, 1])
    assert np.random.random() == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, float("nan")]], [0], "NaN or infinite"),
        ([[0.0, float("inf")]], [0], "NaN or infinite"),
        ([[0.0, 1.0]], [2], "labels run from 2 to 2, logits have 2"),
        ([[0.0, 1.0]], [-100], "labels run from -100"),
        ([[0.0, 1.0]], [0, 1], r"shape \(1, 2\) and labels of shape \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), "at least one row"),
    ],
)
def test_input_that_means_nothing_is_refused(logits: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_classification_metrics(logits, labels, ordered=False)  # type: ignore[arg-type]


def test_the_function_for_trainer() -> None:
    logits, labels = sample(20, 3)
    ordinal = Task(is_ordered=True).trainer_metrics()(EvalPrediction(predictions=logits, label_ids=labels))
    assert ordinal == compute_classification_metrics(logits, labels, ordered=True)
    plain = Task().trainer_metrics()(EvalPrediction(predictions=(logits, "more"), label_ids=labels))
    assert plain == compute_classification_metrics(logits, labels, ordered=False)


def test_bootstrap_interval_covers_what_the_normal_theory_says() -> None:
    hits = np.random.default_rng(0).random(2210) < 0.47
    low, high = bootstrap_interval(hits)
    error = hits.std() / np.sqrt(len(hits))
    assert (low, high) == pytest.approx((hits.mean() - 1.96 * error, hits.mean() + 1.96 * error), abs=0.002)
    assert bootstrap_interval(hits) == (low, high) != bootstrap_interval(hits, seed=1)
    narrow = bootstrap_interval(hits, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_of_equal_values_is_a_point_and_of_too_few_an_error() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    for values in ([1.0], [1.0, float("nan")], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="at least two finite numbers"):
            bootstrap_interval(values)  # type: ignore[arg-type]


class TestMedianClass:
    @pytest.mark.parametrize("num_labels", [2, 3, 5, 9])
    def test_minimises_expected_absolute_error(self, num_labels: int) -> None:
        probabilities = np.random.default_rng(0).dirichlet(np.ones(num_labels) / 2, 200)
        classes = np.arange(num_labels)
        error = np.abs(classes[None] - classes[:, None])  # (predicted, true)
        assert (median_class(probabilities) == (probabilities @ error.T).argmin(-1)).all()

    @pytest.mark.parametrize("true_class", range(4))
    def test_certain_rows(self, true_class: int) -> None:
        assert median_class(np.eye(4)[[true_class]]).tolist() == [true_class]

    def test_differs_from_the_most_probable_class(self) -> None:
        probabilities = np.array([[0.4, 0.25, 0.35]])
        assert (median_class(probabilities).item(), probabilities.argmax()) == (1, 0)
