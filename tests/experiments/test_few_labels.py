"""The experiment on few labels: its main path on made-up rows, ridge on soft labels, and the rule of the advice."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from cr_hf.evaluation import crossed_bootstrap
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.runs.recipe import load_recipe
from cr_hf.study import shots
from cr_hf.study.cells import StudyData
from experiments import few_labels, runner


def made_up(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    return (generator.standard_normal((rows, 8)) + np.eye(4, 8)[labels]).astype(np.float32), labels


def test_main_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RUNS", tmp_path / "parts")
    monkeypatch.setattr(shots, "STEPS", 3)
    monkeypatch.setattr(few_labels, "TEXT_SHOTS", (4,))
    for name, data in few_labels.SETS.items():
        monkeypatch.setitem(few_labels.SETS, name, few_labels.DataSet("pima", "", (), (4,), data.is_ordered))
    recipe = load_recipe(runner.ROOT / "recipes" / "pima.yaml")
    splits = [made_up(rows, seed) for seed, rows in enumerate((80, 20, 30))]
    monkeypatch.setattr(
        few_labels, "read_set", lambda data: StudyData(recipe, CRConfig(in_features=8, num_labels=4), *splits)
    )
    few_labels.main(["--seeds", "2", "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [row["set"] for row in found["cells"]] == ["sst5", "yelp", "mnist"]
    assert len(found["cells"][0]["heads"]) == 11
    assert len(found["cells"][2]["heads"]) == 7
    for row in found["cells"]:
        assert sum(row["ours"]["chosen"].values()) == sum(row["others"]["chosen"].values()) == 2
        chosen = row["ours"]["test_accuracy"] - row["others"]["test_accuracy"]
        assert row["ours_minus_best_other"]["difference"] == pytest.approx(chosen)
        pair, heads = row["strongest"], row["heads"]
        assert heads[pair["other"]]["test_accuracy"] >= max(
            one["test_accuracy"] for name, one in heads.items() if not name.startswith("cr+dreg")
        )
        assert pair["difference"] == pytest.approx(
            heads[pair["ours"]]["test_accuracy"] - heads[pair["other"]]["test_accuracy"]
        )
        low, high = row["ours_minus_best_other"]["corrected_interval"]
        assert low <= row["ours_minus_best_other"]["difference"] <= high
    assert found["pooled"]["4"]["difference"] == pytest.approx(
        np.mean([row["ours_minus_best_other"]["difference"] for row in found["cells"][:2]])
    )
    assert [one["use"] in found["cells"][0]["heads"] for one in found["advice"]] == [True, True]


def test_ridge_on_soft_labels_is_ridge_where_they_are_hard() -> None:
    (features, labels), (others, _) = made_up(60, 0), made_up(40, 1)
    hard = few_labels.SoftRidge(alpha=3.0, soft_labels=100.0).fit(features, labels)
    assert (hard.predict(others) == RidgeClassifier(alpha=3.0).fit(features, labels).predict(others)).all()


def test_the_simplest_head_is_advised_unless_it_is_certainly_worse() -> None:
    generator = np.random.default_rng(0)
    draws = {name: generator.random((10, 200)) < right for name, right in (("a", 0.3), ("b", 0.6), ("c", 0.61))}
    hits = {name: drawn.astype(float) for name, drawn in draws.items()}
    found = few_labels.advise(8, "classes", [hits])
    assert (found["use"], found["best"]) == ("b", max(hits, key=lambda name: hits[name].mean()))
    assert few_labels.advise(8, "classes", [{"a": hits["b"], "b": hits["a"]}])["use"] == "a"


def test_pooled_over_sets_is_that_of_plain_numpy() -> None:
    generator = np.random.default_rng(1)
    strata = [generator.integers(-1, 2, shape).astype(float) for shape in ((4, 30), (3, 70))]
    means = np.zeros(400)
    for number, values in enumerate(strata):
        seeds, rows = values.shape
        drawn = np.random.default_rng(number)
        seed_counts = drawn.multinomial(seeds, np.full(seeds, 1 / seeds), size=400)
        row_counts = drawn.multinomial(rows, np.full(rows, 1 / rows), size=400)
        for sample in range(400):
            chosen = np.repeat(np.arange(seeds), seed_counts[sample])
            means[sample] += values[np.ix_(chosen, np.repeat(np.arange(rows), row_counts[sample]))].mean() / 2
    found = few_labels.pooled_bootstrap(strata, (0.5, 0.95), resamples=400)
    assert found[0] == pytest.approx(np.quantile(means, [0.25, 0.75]))
    assert found[1] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    # Of one set it is the crossed bootstrap; the mean of two sets is known better than that of one.
    assert few_labels.pooled_bootstrap(strata[:1]) == pytest.approx(crossed_bootstrap(strata[:1])[0])
    assert np.ptp(few_labels.pooled_bootstrap([strata[1]] * 2)[0]) < np.ptp(crossed_bootstrap(strata[1:])[0, 0])
