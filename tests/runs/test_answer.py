"""What is said at the end of a training: the classes, the worst errors, and simpler classifiers beside the head."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import sklearn.metrics

from cr_hf.runs import Answer, Run, beside_sentence, class_rows, confusion_rows, load_recipe, train_recipe, worst_lines
from cr_hf.runs.baselines import ON_FEATURES, ON_WORDS, Beside, beside_head

RECIPES = Path(__file__).parents[2] / "recipes"
DEMO = ["max_seq_length=32", "num_train_epochs=2", "data.max_train_samples=200", "data.max_eval_samples=60"]


@pytest.fixture(scope="module")
def trained(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("answer") / "run"
    overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *DEMO]
    return Run(train_recipe(load_recipe(RECIPES / "demo.yaml", overrides)))


def found_in(run: Run) -> Answer:
    answer = Answer.of(run.results)
    assert answer is not None
    return answer


def test_scores_are_those_of_scikit_learn(trained: Run) -> None:
    answer = found_in(trained)
    counts = np.array(answer.confusion)
    truth, predicted = (np.repeat(places, counts.ravel()) for places in np.indices(counts.shape).reshape(2, -1))
    report = sklearn.metrics.classification_report(truth, predicted, output_dict=True, zero_division=0)
    for number, one in enumerate(answer.classes):
        theirs = report[str(number)]
        ours = [one.precision, one.recall, one.f1, one.support]
        assert ours == pytest.approx([theirs[name] for name in ("precision", "recall", "f1-score", "support")])
    metrics = trained.results["metrics"]["test"]
    assert (answer.split, answer.rows, answer.accuracy) == ("test", metrics["rows"], metrics["accuracy"])


def test_both_logistic_regressions_stand_beside_a_frozen_head(trained: Run) -> None:
    answer = found_in(trained)
    assert [one.name for one in answer.beside] == [ON_FEATURES, ON_WORDS]
    for one in answer.beside:
        assert one.difference == pytest.approx(answer.accuracy - one.accuracy)
        assert one.interval[0] <= one.difference <= one.interval[1]


def test_texts_stand_in_the_runs_local_file_alone(trained: Run) -> None:
    worst = [json.loads(line) for line in (trained.path / "worst_errors.jsonl").read_text().splitlines()]
    assert 0 < len(worst) <= 10
    assert [one["probability_of_label"] for one in worst] == sorted(one["probability_of_label"] for one in worst)
    assert all(one["label"] != one["predicted"] for one in worst)
    assert all(one["text"][:40] in line for one, line in zip(worst, worst_lines(trained.path), strict=True))
    for name in ("results.json", "README.md", "recipe.yaml", "probe.json"):
        content = (trained.path / name).read_text(encoding="utf-8")
        assert not any(one["text"] in content for one in worst)


def test_the_card_has_the_classes_and_the_sentence(trained: Run) -> None:
    card = (trained.path / "README.md").read_text(encoding="utf-8")
    assert "| class | precision | recall | F1 | rows of test | taken for" in card
    assert "Accuracy on test" in card
    assert "trained on `embedded`" in card


def answer_of(*beside: tuple[str, float, float], parameters: int = 500) -> Answer:
    simpler = [Beside(name, 0.8, (low + high) / 2, (low, high), 1.0, 100) for name, low, high in beside]
    return Answer("test", 100, 0.8, parameters, [], None, simpler)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (answer_of((ON_FEATURES, -0.1, 0.1), (ON_WORDS, 0.1, 0.2)), f"the smallest is {ON_FEATURES}"),
        (answer_of((ON_FEATURES, -0.1, 0.1), (ON_WORDS, -0.1, 0.2)), f"the smallest is {ON_WORDS}, which needs no"),
        (answer_of((ON_FEATURES, -0.1, 0.1), parameters=100), "the smallest is this head"),
        (answer_of((ON_FEATURES, -0.2, -0.1)), f"{ON_FEATURES} is better: use it"),
        (answer_of((ON_FEATURES, 0.1, 0.2)), f"this head is better than {ON_FEATURES}"),
        (answer_of((ON_FEATURES, 0.0, 0.0)), f"{ON_FEATURES} 80.0 % (right on the same rows): this head and"),
    ],
)
def test_the_verdict(answer: Answer, verdict: str) -> None:
    assert verdict in beside_sentence(answer)


def test_a_logistic_regression_that_would_take_long_is_left_out_with_a_word() -> None:
    rows = datasets.Dataset.from_dict({"text": ["a good film"] * 4 + ["a bad one"] * 4, "label": [1] * 4 + [0] * 4})
    split: dict[str, Any] = {"train": rows, "validation": rows, "test": rows}
    found, left_out = beside_head(np.ones(8, bool), "test", split, split, 1.0)
    assert ([one.name for one in found], left_out) == ([ON_WORDS], [])
    assert found[0].accuracy == 1
    marks = datasets.Dataset.from_dict({"text": ["!", "?"] * 4, "label": [1, 0] * 4})
    found, left_out = beside_head(np.ones(8, bool), "test", dict.fromkeys(split, marks), split, 1.0)
    assert not found
    assert ON_WORDS in left_out[0]
    long = datasets.Dataset.from_dict({"text": ["a" * 10**7] * 2, "label": [1, 0]})
    found, left_out = beside_head(np.ones(2, bool), "test", dict.fromkeys(split, long), split, 1.0)
    assert not found
    assert "it could take" in left_out[0]


def test_of_many_classes_the_worst_are_shown(trained: Run) -> None:
    answer = found_in(trained)
    classes = [dataclasses.replace(answer.classes[0], name=str(n), f1=n / 20) for n in range(20)]
    counts = np.eye(20, dtype=int) * 5
    counts[3, 4] = 2
    many = dataclasses.replace(answer, classes=classes, confusion=counts.tolist())
    assert [row[0] for row in class_rows(many)[1:]] == [str(n) for n in range(12)]
    assert confusion_rows(many)[1:] == [["3", "4", "2"]]
