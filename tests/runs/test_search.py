"""The `search:` block of a recipe: what is refused at once, what is trained, and that it goes on after a stop."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

import cr_hf.cli
from cr_hf.errors import CRError
from cr_hf.features import encode
from cr_hf.runs import load_recipe, search
from cr_hf.runs.train import train_recipe

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=2", "hidden_sizes=[8]"]
TINY += ["use_cpu=true", "disable_tqdm=true"]
SEARCH = "search={trials: 3, dreg_lambda: {low: 1e-3, high: 0.1, log: true}, hidden_sizes: [[4], [6]]}"

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("3", "search=3 must be a block of keys or null"),
        ("{trials: 5}", "search must name keys"),
        ("{trials: 0, dropout: [0.1]}", "search must name keys, and how many trials"),
        ("{droput: [0.1]}", r"search.droput cannot be searched \(did you mean 'dropout'\?\)"),
        ("{data.dir: [a]}", r"search.data.dir cannot be searched"),
        ("{problem_type: [regression]}", "search.problem_type cannot be searched"),
        ("{dropout: 0.1}", "search.dropout=0.1 must be a list of values, or a range"),
        ("{dropout: []}", "search.dropout=.* must be a list"),
        ("{dropout: {low: 0.2, high: 0.1}}", "search.dropout=.* must be a list"),
        ("{dreg_lambda: {low: 0, high: 0.1, log: true}}", "with low above 0 if log"),
        ("{dropout: {low: 0.2, high: 0.4, step: 0.1}}", "search.dropout=.* must be a list"),
        ("{dropout: {low: 0.2, high: .inf}}", "search.dropout=.* must be a list"),
        ("{dropout: {low: 0.2, high: 0.4, log: yess}}", "search.dropout=.* must be a list"),
        ("{num_train_epochs: [2, many]}", "search: num_train_epochs='many' must be a number"),
        ("{lora_alpha: [8]}", "search: lora_alpha has no effect without lora_r"),
    ],
)
def test_what_cannot_be_searched_is_one_line(block: str, message: str) -> None:
    with pytest.raises(CRError, match=message) as caught:
        load_recipe(DEMO, [f"search={block}"])
    assert "\n" not in str(caught.value)


def test_a_loss_is_not_searched_over_what_changes_it() -> None:
    load_recipe(DEMO, ["search={label_smoothing_factor: [0, 0.1]}"])
    with pytest.raises(CRError, match=r"search\.label_smoothing_factor cannot be searched"):
        load_recipe(DEMO, ["search={label_smoothing_factor: [0, 0.1]}", "metric_for_best_model=loss"])
    with pytest.raises(CRError, match="search: needs evaluations"):
        train_recipe(
            load_recipe(DEMO, ["search={dropout: [0, 0.1]}", "eval_strategy='no'", "load_best_model_at_end=false"])
        )


@pytest.mark.parametrize("values", ["activation: [relu, reluu]", "dropout: [0.1, true]", "optim: [sgd, sgdd]"])
@pytest.mark.parametrize("frozen", ["true", "false"])
def test_a_value_that_no_head_takes_is_refused_before_the_first_trial(
    values: str, frozen: str, tiny_backbone: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(search, "_score")
    own = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", f"freeze_backbone={frozen}"]
    with pytest.raises(CRError, match=r"reluu|dropout=True|sgdd"):
        train_recipe(load_recipe(DEMO, [*own, *TINY, f"search={{{values}}}"]))
    assert not (tmp_path / "run").exists()


def test_a_range_from_0_to_1_is_one_of_fractions_where_the_key_takes_them() -> None:
    class Trial:
        suggest_int = staticmethod(lambda *args, **options: "whole")
        suggest_float = staticmethod(lambda *args, **options: "fraction")

    ends = {"dreg_lambda": (0, 1), "seed": (0, 1), "num_train_epochs": (2, 6), "dropout": (0.1, 0.3)}
    found = [search._suggest(Trial, key, {"low": low, "high": high}) for key, (low, high) in ends.items()]
    assert found == ["fraction", "whole", "whole", "fraction"]


def test_the_best_is_trained_and_texts_are_encoded_once(
    tiny_backbone: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    encoded: list[int] = []
    encode_rows = encode._Encoder.__call__

    def counting(self: Any, rows: Any, *args: Any) -> Any:
        encoded.extend(rows)
        return encode_rows(self, rows, *args)

    monkeypatch.setattr(encode._Encoder, "__call__", counting)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))  # no features of another test
    run = tmp_path / "run"
    command = ["cr-hf", "train", str(DEMO), f"backbone={tiny_backbone('bert')}", f"output_dir={run}", *TINY, SEARCH]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="0"):
        cr_hf.cli.main()
    assert len(encoded) == 60 + 30 + 30
    found = json.loads((run / "results.json").read_text())
    trials = found["search"]["trials"]
    assert [trial["score"] for trial in trials] == sorted((trial["score"] for trial in trials), reverse=True)
    assert 2 <= len(trials) <= 3
    assert found["training"]["best_metric"] == trials[0]["score"]  # the run is the trial, trained again
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert "search" not in recipe
    assert {name: recipe[name] for name in trials[0]["values"]} == trials[0]["values"]
    assert "settings: the best of" in (run / "README.md").read_text()
    assert f"{len(trials)} settings; the first is trained" in capsys.readouterr().out


def test_a_search_goes_on_and_a_trial_that_diverges_is_the_last(
    tiny_backbone: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[dict[str, Any]] = []

    def score(recipe: Any, values: dict[str, Any], *args: Any) -> float:
        scores.append(values)
        if len(scores) == 2:
            raise KeyboardInterrupt
        if values["dropout"] == 0.3:
            raise search.NonFiniteError("nan")
        return values["dropout"]

    monkeypatch.setattr(search, "_score", score)
    overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", *TINY]
    recipe = load_recipe(DEMO, [*overrides, "search={trials: 12, dropout: [0.1, 0.2, 0.3]}"])
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe)
    train_recipe(recipe, resume=True)
    assert len(scores) == 4  # three settings, of which one was asked for twice
    trials = json.loads((tmp_path / "run" / "results.json").read_text())["search"]["trials"]
    assert [(trial["values"]["dropout"], trial["score"]) for trial in trials] == [(0.2, 0.2), (0.1, 0.1), (0.3, None)]
