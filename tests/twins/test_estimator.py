"""An estimator trains and answers as `cr-hf train` and `cr-hf predict` do with the same rows, settings and seed."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification

from cr_hf import CRClassifier, CRRegressor
from cr_hf.data import DataConfig
from cr_hf.runs import Recipe, Run, override_recipe, predict_run, train_recipe

X, Y = make_classification(160, 6, n_informative=4, n_classes=3, random_state=0)
X = X.astype(np.float32)
TEXTS = [f"a {word} film number {number}" for number in range(20) for word in ("good", "bad", "dull")]
LABELS = ["yes", "no", "perhaps"] * 20
QUICK: dict[str, Any] = {"hidden_sizes": [8], "dropout": 0.2, "learning_rate": 1e-2, "num_train_epochs": 3}
QUICK |= {"per_device_train_batch_size": 32, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "seed": 3}
QUICK |= {"use_cpu": True, "disable_tqdm": True, "metric_for_best_model": "loss"}
OWN = {"hidden_sizes": (8,), "dropout": 0.2, "learning_rate": 1e-2, "num_train_epochs": 3, "random_state": 3}
TOLERANCE = 1e-5

TinyBackbone = Callable[..., Path]


def written(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return path


def trained(path: Path, backbone: str, **keys: Any) -> Path:
    """The run that a recipe trains, with validation rows taken off the file by the seed of the estimator."""
    data = DataConfig(train_file=str(path), test_file=str(path), seed=3)
    recipe = override_recipe(Recipe(backbone, data, str(path.parent / "run")), {**QUICK, **keys})
    return train_recipe(recipe)


@pytest.mark.parametrize(
    ("dreg_lambda", "settings"),
    [
        (0.02, {}),
        ("auto", {"class_weights": "balanced"}),
        (0.1, {"objective": "ordinal", "early_stopping_patience": 1}),
    ],
)
def test_numbers(dreg_lambda: float | str, settings: dict[str, Any], tmp_path: Path) -> None:
    columns = {name: X[:, index].tolist() for index, name in enumerate("abcdef")}
    path = written(tmp_path / "rows.csv", {**columns, "label": Y})
    run = trained(path, "none", dreg_lambda=dreg_lambda, **settings)
    model = CRClassifier(dreg_lambda=dreg_lambda, settings=settings, **OWN).fit(X, Y)
    expected = np.array([row.scores for row in predict_run(Run(run), [str(path)])])
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=TOLERANCE)
    assert model.dreg_lambda_ == pytest.approx(Run(run).model.config.dreg_lambda)
    loaded = CRClassifier.from_pretrained(run)
    np.testing.assert_allclose(loaded.predict_proba(X), expected, atol=1e-6)
    assert loaded.predict(X).tolist() == [str(label) for label in expected.argmax(1)]


def test_texts(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    backbone, of_texts = str(tiny_backbone("bert")), {"freeze_backbone": True, "feature_layers": "all"}
    path = written(tmp_path / "rows.csv", {"text": TEXTS, "label": LABELS})
    run = trained(path, backbone, dreg_lambda=0.02, **of_texts)
    model = CRClassifier(backbone, dreg_lambda=0.02, **OWN).fit(TEXTS, LABELS)
    expected = np.array([row.scores for row in predict_run(Run(run), TEXTS)])
    np.testing.assert_allclose(model.predict_proba(TEXTS), expected, atol=TOLERANCE)
    loaded = CRClassifier.from_pretrained(run)
    assert loaded.predict(TEXTS).tolist() == [Run(run).task.label_of(row) for row in expected.tolist()]
    # The settings of the run come along: fitted again, it is the same head.
    np.testing.assert_allclose(loaded.fit(TEXTS, LABELS).predict_proba(TEXTS), expected, atol=TOLERANCE)


def test_numbers_of_texts(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    backbone, of_texts = str(tiny_backbone("bert")), {"freeze_backbone": True, "feature_layers": "all"}
    targets = np.array([1.0, -1.0] * 30)  # of mean 0 and deviation 1, by which an estimator standardises them
    path = written(tmp_path / "rows.csv", {"text": TEXTS, "label": targets})
    run = trained(path, backbone, dreg_lambda=0.02, problem_type="regression", **of_texts)
    model = CRRegressor(backbone, dreg_lambda=0.02, **OWN).fit(TEXTS, targets)
    expected = np.array([row.scores for row in predict_run(Run(run), TEXTS)])
    np.testing.assert_allclose(model.predict(TEXTS), expected[:, 0], atol=TOLERANCE)
