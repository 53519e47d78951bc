"""Few labels: nested draws, stratified folds, and settings chosen by nothing but the subset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cr_hf.errors import RecipeError
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.runs.recipe import load_recipe
from cr_hf.study import shots
from cr_hf.study.arms import HEADS
from cr_hf.study.cells import StudyData
from cr_hf.study.report import write_report
from cr_hf.study.shots import draw_shots, split_folds, train_few, train_few_cell
from cr_hf.study.study import run_study
from cr_hf.study.tables import study_tables

PIMA = Path(__file__).resolve().parents[2] / "recipes" / "pima.yaml"


def made_up(rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.integers(0, 3, rows)
    return (generator.standard_normal((rows, 6)) + np.eye(3, 6)[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def data() -> StudyData:
    generator = np.random.default_rng(0)
    recipe = load_recipe(PIMA, ["hidden_sizes=[4]"])
    splits = [made_up(rows, generator) for rows in (120, 30, 50)]
    return StudyData(recipe, CRConfig(in_features=6, num_labels=3, hidden_sizes=[4]), *splits)


def test_draws_have_so_many_of_each_class_and_are_nested(data: StudyData) -> None:
    labels = data.train[1]
    for seed in range(3):
        few, more = draw_shots(labels, 4, seed), draw_shots(labels, 9, seed)
        assert np.bincount(labels[few]).tolist() == [4] * 3
        assert np.bincount(labels[more]).tolist() == [9] * 3
        assert set(few) < set(more)
    assert set(draw_shots(labels, 4, 0)) != set(draw_shots(labels, 4, 1))


@pytest.mark.parametrize(("shots", "folds"), [(3, 3), (4, 4), (10, 4)])
def test_folds_are_stratified(shots: int, folds: int) -> None:
    labels = np.repeat([2, 0, 1], shots)
    found = split_folds(labels, 0)
    assert len(found) == folds
    assert np.sort(np.concatenate(found)).tolist() == list(range(3 * shots))
    for fold in found:
        assert set(np.bincount(labels[fold])) <= {shots // folds, -(-shots // folds)}


def test_the_choice_is_that_of_cross_validation_by_hand(data: StudyData) -> None:
    features, labels = data.train
    subsets = [draw_shots(labels, 6, seed) for seed in range(3)]
    arm = HEADS["ridge"]
    kept, accuracies = train_few(arm, arm.settings, subsets, data)
    for seed, rows in enumerate(subsets):
        mine = np.zeros(len(arm.settings))
        for fold in split_folds(labels[rows], seed):
            inside = np.setdiff1d(rows, rows[fold])
            for number, setting in enumerate(arm.settings):
                own = make_pipeline(StandardScaler(), RidgeClassifier(**setting))
                own.fit(features[inside], labels[inside])
                mine[number] += (own.predict(features[rows[fold]]) == labels[rows[fold]]).sum()
        assert accuracies[:, seed] == pytest.approx(mine / len(rows))
        assert kept[seed].pipeline[-1].alpha == arm.settings[int(mine.argmax())]["alpha"]


@pytest.mark.parametrize("head", ["cr+dreg", "linear", "svm-linear"])
def test_no_dev_row_is_looked_at(head: str, data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shots, "STEPS", 5)
    blind = replace(data, validation=(data.validation[0] * np.nan, data.validation[1]))
    first, second = (train_few_cell(head, one, 2, 4).to_json() for one in (data, blind))
    assert first == second
    assert first["choices"][0] in range(6)
    assert first["rows"] == 12


def test_a_study_says_how_few_labels_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shots, "STEPS", 5)
    path, (features, labels) = tmp_path / "rows.csv", made_up(200, np.random.default_rng(1))
    lines = [",".join(map(str, [*row, f"c{label}"])) for row, label in zip(features, labels, strict=True)]
    path.write_text("\n".join(["a,b,c,d,e,f,label", *lines]) + "\n", encoding="utf-8")
    own = [f"data.train_file={path}", "data.label_column=label", "hidden_sizes=[4]"]
    none = [f"data.{name}=null" for name in ("label_names", "missing_value", "missing_columns")]
    recipe = load_recipe(PIMA, own + none)
    study = run_study(recipe, ["cr+dreg", "ridge"], [], 2, tmp_path / "study", shots=[4, 8])
    assert list(study.fractions) == ["4", "8"]
    text = study_tables(study)
    assert "4 labels a class" in text
    assert "chooses its own setting by stratified cross-validation" in text
    assert write_report(study, tmp_path / "study")
    assert (
        run_study(recipe, ["cr+dreg", "ridge"], [], 2, tmp_path / "study", shots=[4, 8]).to_json() == study.to_json()
    )
    with pytest.raises(RecipeError, match="--shots 100: a class has only"):
        run_study(recipe, ["ridge"], [], 2, tmp_path / "other", shots=[100])
