"""The main path of every experiment, on a few rows of its data with a tiny backbone."""

import dataclasses
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from experiments import auto_lambda, general_penalty, pima, regimes, runner, schedules, sst5_robustness
from experiments.runner import ROOT

DATA = ROOT.parent / "shared" / "data"
SCRIPTS = [path.stem for path in (ROOT / "experiments").glob("*.py") if "def main(argv" in path.read_text("utf-8")]
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not here")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few fractions, settings and texts; parts are kept apart."""
    monkeypatch.setattr(runner, "RUNS", tmp_path / "parts")
    monkeypatch.setattr(auto_lambda, "FRACTIONS", (1.0,))
    monkeypatch.setattr(schedules, "NOISES", (0.0, 1.0))
    monkeypatch.setattr(sst5_robustness, "TEXTS", 20)
    monkeypatch.setattr(pima, "FRACTIONS", (0.25, 1.0))
    for name, value in {"FOLDS": 2, "REPEATS": 1, "RANDOM_SPLITS": 2, "INNER_FOLDS": 2}.items():
        monkeypatch.setattr(pima, name, value)


@pytest.fixture
def run(tiny_backbone: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs an experiment with two seeds on few texts, and returns its result."""

    def work(name: str, data: str, *more: str, texts: bool = True) -> dict[str, Any]:
        output = tmp_path / f"{name}.json"
        tiny = ["num_train_epochs=1", "hidden_sizes=[8]", "use_cpu=true"]
        if texts:
            tiny += [f"backbone={tiny_backbone('bert')}", "data.max_train_samples=120", "data.max_eval_samples=60"]
        options = [*more, *tiny, "--data", str(DATA / data), "--output", str(output)]
        import_module(f"experiments.{name}").main(options)
        return dict(json.loads(output.read_text(encoding="utf-8")))

    return work


@pytest.mark.parametrize("name", ["sst5_phrases", "auto_lambda", "schedules", "general_penalty", "sst5_robustness"])
def test_heads_on_frozen_sst5(run: Callable[..., dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "ARM", dataclasses.replace(schedules.ARM, settings=schedules.SETTINGS[3:7]))
    monkeypatch.setattr(general_penalty, "OTHERS", ("mlp-gelu", "gelu+jacobian"))
    found = run(name, "sst5", "--seeds", "2")
    assert found["seeds"] == 2
    assert found["data"]["rows"]["test"] == 60


def test_recipes_trained_as_they_are(run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"cr+dreg": (), "gelu": regimes.GELU}
    monkeypatch.setitem(regimes.REGIMES, "yelp_minilm", regimes.Arms("yelp_minilm", "yelp5", (), arms))
    assert [one["seed"] for one in run("sst5_seeds", "sst5", "--seeds", "2")["runs"]] == [0, 1]
    found = run("regimes", "yelp5", "yelp_minilm", "--seeds", "2")
    assert len(found["test_accuracy_differences"]) == 1
    assert len(found["runs"]) == 4


def test_losses_of_ordered_classes(run: Callable[..., dict[str, Any]]) -> None:
    found = run("ordinal_losses", "", "--seeds", "2")
    for runs in found["runs"].values():
        assert {"cumulative link", "cross-entropy", "CORAL", "CORN"} < set(runs)
        assert {len(own) for own in runs.values()} == {2}


def test_one_score(run: Callable[..., dict[str, Any]]) -> None:
    assert run("single_score", "yelp5", "data.max_train_samples=400", texts=False)["rows"] == 500


def test_pima(run: Callable[..., dict[str, Any]]) -> None:
    found = run("pima", "pima", texts=False)
    assert set(found["repeated 5-fold"]) == {"0.25", "1.0"}
    assert len(found["repeated 80/20"]["arms"]["cr+dreg"]["accuracies"]) == 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        import_module(f"experiments.{name}").main(["--help"])
    assert not stopped.value.code
    assert f"python -m experiments.{name}" in capsys.readouterr().out
