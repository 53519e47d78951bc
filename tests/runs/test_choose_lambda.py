"""The automatic lambda: the rule on made-up hits, and a recipe with `dreg_lambda: auto` from the command line."""

import dataclasses
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interrupted import interrupt

import cr_hf.cli
import cr_hf.runs.train
from cr_hf.errors import RecipeError
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.runs import choose_lambda as choose_lambda_module
from cr_hf.runs.build import sweep_head
from cr_hf.runs.choose_lambda import LAMBDA_GRID, SEEDS, choose_dreg_lambda
from cr_hf.runs.recipe import Recipe, load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=2", "hidden_sizes=[8]"]
TINY += ["use_cpu=true", "disable_tqdm=true", "dreg_lambda=auto"]
WIDTH, LABELS = 12, 3

TinyBackbone = Callable[..., Path]


def make_rows(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(LABELS, (rows,), generator=generator)
    features = torch.randn(rows, WIDTH, generator=generator)
    features[:, 0] += 2 * labels
    return features, labels


TRAIN, VALIDATION = make_rows(150, 0), make_rows(60, 1)


def make_config(**fields: Any) -> CRConfig:
    return CRConfig(**{"in_features": WIDTH, "num_labels": LABELS, "hidden_sizes": (10, 8), **fields})


OVERRIDES = [
    "num_train_epochs=6",
    "per_device_train_batch_size=16",
    "learning_rate=1e-2",
    "dropout=0.1",
    "use_cpu=true",
]


def choose(*overrides: str, **fields: Any) -> choose_lambda_module.LambdaChoice:
    recipe = load_recipe(DEMO, [*OVERRIDES, "hidden_sizes=[10, 8]", *overrides])
    return choose_dreg_lambda(sweep_head(recipe, make_config()), TRAIN, VALIDATION, **fields)


def test_the_automatic_lambda_is_the_largest_within_one_standard_error():
    choice = choose(grid=[1e3, 1e-3, 1e-1], seeds=2)
    assert choice.grid == [1e-3, 1e-1, 1e3]
    assert choice.best in choice.grid
    assert choice.best <= choice.chosen < 1e3
    best = choice.grid.index(choice.best)
    assert choice.accuracies[best] == max(choice.accuracies)
    floor = choice.accuracies[best] - choice.standard_errors[best]
    assert choice.accuracies[choice.grid.index(choice.chosen)] >= floor
    assert choice.accuracies[2] < floor
    assert json.loads(json.dumps(dataclasses.asdict(choice)))["chosen"] == choice.chosen


def test_the_rule_on_hits_made_up(monkeypatch: pytest.MonkeyPatch):
    # 60 rows, 2 seeds, 4 lambdas, hit rates 0.60, 0.75, 0.70, 0.50: one standard error is about 0.056.
    labels = VALIDATION[1]
    logits = torch.nn.functional.one_hot(labels, LABELS).float().repeat(8, 1, 1)
    for head, hits in enumerate((36, 36, 45, 45, 42, 42, 30, 30)):
        logits[head, hits:] = -logits[head, hits:]
    seen: dict[str, Any] = {}
    monkeypatch.setattr(choose_lambda_module, "train_heads", lambda *a, **k: seen.update(heads=a[2]) or [None] * 8)
    monkeypatch.setattr(choose_lambda_module, "predict_heads", lambda *a, **k: logits)
    choice = choose("seed=5", grid=[0.1, 0.2, 0.4, 0.8], seeds=2)
    found = [(head.config.dreg_lambda, head.arguments.seed) for head in seen["heads"]]
    assert found == [(value, seed) for value in (0.1, 0.2, 0.4, 0.8) for seed in (5, 6)]
    assert {head.arguments.learning_rate for head in seen["heads"]} == {1e-2}
    assert choice.accuracies == pytest.approx([0.6, 0.75, 0.7, 0.5])
    assert choice.standard_errors[1] == pytest.approx(math.sqrt(0.75 * 0.25 / 59))
    assert (choice.best, choice.chosen) == (0.2, 0.4)
    logits[4:6, :40] = torch.nan
    choice = choose("seed=5", grid=[0.1, 0.2, 0.4, 0.8], seeds=2)
    assert choice.accuracies[2] == pytest.approx(2 / 60)
    assert choice.chosen == 0.2


@pytest.mark.parametrize("fields", [{"grid": []}, {"seeds": 0}])
def test_the_automatic_lambda_needs_a_grid_and_seeds(fields):
    with pytest.raises(ValueError, match="must not be empty"):
        choose(**fields)


def recipe_of(tiny_backbone: TinyBackbone, folder: Path, *more: str) -> Recipe:
    return load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY, *more])


def test_the_command_line_chooses_and_says_so_everywhere(
    tiny_backbone: TinyBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = ["cr-hf", "train", str(DEMO), f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    assert not stopped.value.code
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    choice = results["lambda_choice"]
    assert choice["grid"] == list(LAMBDA_GRID)
    assert choice["seeds"] == list(range(SEEDS))
    assert len(choice["accuracies"]) == len(choice["standard_errors"]) == len(LAMBDA_GRID)
    assert choice["chosen"] == results["model"]["dreg_lambda"] == Run(folder).model.config.dreg_lambda
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    assert {entry["dreg_lambda"] for entry in state["log_history"] if "dreg_lambda" in entry} == {choice["chosen"]}
    assert yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["dreg_lambda"] == "auto"
    assert f"DREG lambda {choice['chosen']:.3g}, chosen" in capsys.readouterr().out
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"DREG lambda {choice['chosen']:.3g} was chosen on the validation rows" in card
    for row in zip(choice["grid"], choice["accuracies"], choice["standard_errors"], strict=True):
        assert "| {:.3g} | {:.4f} | {:.4f} |".format(*row) in card
    if importlib.util.find_spec("matplotlib") is not None:
        assert (folder / "lambda.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_keeps_its_choice(
    tiny_backbone: TinyBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_recipe(recipe_of(tiny_backbone, tmp_path / "whole"))
    recipe = recipe_of(tiny_backbone, tmp_path / "broken")

    interrupt(recipe, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(choose_lambda_module, "train_heads", lambda *_, **__: pytest.fail("chosen a second time"))
        resumed = train_recipe(recipe, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    choices = [json.loads((run / "results.json").read_text())["lambda_choice"] for run in (whole, resumed)]
    assert choices[0] == choices[1]


def test_the_grid_is_trained_as_the_run_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {
        "max_steps": 25, "per_device_train_batch_size": 10, "learning_rate": 2e-3, "gradient_accumulation_steps": 2,
        "weight_decay": 0.3, "dreg_schedule": "linear", "dreg_lambda_end": 0.0, "warmup_steps": 0.1,
        "threshold_learning_rate": 0.5, "max_grad_norm": 0.7, "lr_scheduler_type": "linear",
        "metric_for_best_model": "loss", "label_smoothing_factor": 0.1, "class_weights": "balanced",
        "load_best_model_at_end": False, "early_stopping_patience": 2, "dropout": 0.4,
        "objective": "ordinal", "ordinal_loss": "cumulative_link",
    }  # fmt: skip
    seen: list[Any] = []
    plain = choose_lambda_module.train_heads
    monkeypatch.setattr(choose_lambda_module, "train_heads", lambda *a, **k: seen.append(plain(*a, **k)) or seen[0])
    choose("dreg_lambda=auto", "backbone=offline", *(f"{name}={value}" for name, value in asked.items()))
    results = seen[0]
    setup = results[0].setup
    fields = {**vars(setup.config), **vars(setup.arguments), **vars(setup)}
    assert {name: fields[name] for name in asked} == asked
    assert [result.setup.lambda_at(0, 25) for result in results] == [
        value for value in LAMBDA_GRID for _ in range(SEEDS)
    ]
    assert len(results[0].accuracies) == 4
    counts = torch.bincount(TRAIN[1])
    assert results[0].config.label_smoothing == 0.1
    assert results[0].config.class_weights == pytest.approx((len(TRAIN[1]) / LABELS / counts).tolist())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze_backbone=false"], "needs a frozen backbone: set freeze_backbone: true"),
        (["lora_r=4", "feature_norm=layer_norm"], "needs a backbone without LoRA"),
        (["problem_type=regression"], "needs single-label classification"),
        (["feature_norm=layer_norm"], "needs feature_norm: standardize"),
        (["dreg_mode=chain"], "needs dreg_mode: layer or worst"),
    ],
)
def test_what_a_sweep_cannot_train_is_refused_when_the_recipe_is_read(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(DEMO, ["dreg_lambda=auto", *overrides])
    assert "\n" not in str(caught.value)


def test_a_schedule_that_a_sweep_cannot_follow_is_one_line(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_backbone, tmp_path / "run", "lr_scheduler_type=reduce_lr_on_plateau")
    with pytest.raises(RecipeError, match="dreg_lambda: auto cannot train this recipe") as caught:
        train_recipe(recipe)
    assert "\n" not in str(caught.value)
