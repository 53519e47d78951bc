"""One recipe, one head: the sweep, a study's cell, the choice of lambda and the linear head against `CRTrainer`.

Logits agree to 1e-5: the same initialisation, rows and dropout, and float32 sums in another order.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import make_classification
from torch import Tensor
from transformers import EarlyStoppingCallback, set_seed

from cr_hf import CRConfig, CRForFeatureClassification, CRTrainer, CRTrainingArguments
from cr_hf.evaluation import Task
from cr_hf.features import FeatureDataset, classify_features, collate_features
from cr_hf.runs.build import sweep_head
from cr_hf.runs.choose_lambda import LAMBDA_GRID
from cr_hf.runs.recipe import load_recipe, override_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run
from cr_hf.study.arms import HEADS
from cr_hf.study.cells import scaling, train_cell, train_settings
from cr_hf.study.study import read_features
from cr_hf.training import SweepHead, predict_heads, train_heads

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SPLITS = {"train": 150, "validation": 60, "test": 60}
TOLERANCE = 1e-5


def rows(classes: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Overlapping classes in eight columns of unlike scale, unequally many, by split."""
    x, y = make_classification(
        sum(SPLITS.values()), 8, n_informative=5, n_classes=classes, weights=[0.5, 0.3], class_sep=0.7, random_state=0
    )
    ends = np.cumsum([0, *SPLITS.values()])
    features = (x * np.geomspace(0.1, 10, 8)).astype(np.float32)
    return {name: (features[ends[i] : ends[i + 1]], y[ends[i] : ends[i + 1]]) for i, name in enumerate(SPLITS)}


ROWS = rows()
TRAINING: dict[str, Any] = {
    "num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "weight_decay": 0.1, "seed": 3,
    "lr_scheduler_type": "cosine", "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy", "save_total_limit": 1,
}  # fmt: skip
ORDINAL = {"objective": "ordinal"}
LINK = {**ORDINAL, "ordinal_loss": "cumulative_link"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {
    "as it is": ({}, {}, None),
    "ordinal": ({**ORDINAL, "soft_labels": 1.0}, {}, None),
    "cumulative link": (LINK, {}, None),
    "head and threshold rates": (LINK, {"head_learning_rate": 2e-2, "threshold_learning_rate": 0.3}, None),
    "schedule of lambda": ({}, {"dreg_schedule": "cosine", "dreg_warmup_steps": 0.2, "dreg_lambda": 0.1}, None),
    "warm-up and clipping": ({}, {"warmup_steps": 0.3, "max_grad_norm": 0.05, "lr_scheduler_type": "linear"}, None),
    "schedule with arguments": (
        {}, {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}}, None
    ),
    "balanced classes": ({}, {"class_weights": "balanced", "label_smoothing_factor": 0.2}, None),
    "soft labels": ({"soft_labels": 0.5}, {"metric_for_best_model": "mean_absolute_error", "greater_is_better": False,
                                          "class_weights": "balanced"}, None),
    "given weights": (ORDINAL, {"class_weights": [1.0, 2.0, 3.0]}, None),
    "early stopping": ({}, {"num_train_epochs": 10, "learning_rate": 5e-2}, 2),
    "accumulation": ({}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 8}, None),
    "part of an epoch": ({}, {"max_steps": 17, "adam_beta2": 0.9, "adam_epsilon": 1e-6}, None),
    "fraction of an epoch": ({}, {"num_train_epochs": 2.4, "dataloader_drop_last": True, "data_seed": 7}, None),
    "another metric": (
        ORDINAL, {"metric_for_best_model": "quadratic_weighted_kappa", "greater_is_better": True}, None
    ),
    "linear head, last epoch": ({"hidden_sizes": []}, {"load_best_model_at_end": False}, None),
    "gelu, in order, lowest loss": (
        {"activation": "gelu"},
        {"train_sampling_strategy": "sequential", "metric_for_best_model": "loss", "greater_is_better": False},
        None,
    ),
    "numbers": ({"problem_type": "regression"}, {"metric_for_best_model": "loss", "greater_is_better": False}, None),
    "several labels": (
        {"problem_type": "multi_label_classification", "pos_weight": [1.0, 2.0, 3.0]},
        {"metric_for_best_model": "micro_f1", "greater_is_better": True}, None
    ),
}  # fmt: skip


def labelled(config: CRConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The rows with the labels, or the targets, that a head reads."""
    is_single = Task.of(config).is_single
    return {name: (x, y if is_single else np.eye(3, dtype=np.float32)[y]) for name, (x, y) in ROWS.items()}


def difference(first: Any, second: Any) -> float:
    """The largest between two arrays of logits."""
    return float(np.abs(np.asarray(first) - np.asarray(second)).max())


def trained_alone(config: CRConfig, arguments: CRTrainingArguments, patience: int | None) -> Tensor:
    """Logits on the test rows of the head that `CRTrainer` trains."""
    set_seed(arguments.seed)
    data = {name: FeatureDataset(*split) for name, split in labelled(config).items()}
    trainer = CRTrainer(
        model=CRForFeatureClassification(copy.deepcopy(config)),
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=collate_features,
        compute_metrics=Task.of(config).trainer_metrics(),
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )
    trainer.train()
    return classify_features(trainer.model.eval(), ROWS["test"][0])


@pytest.mark.parametrize("case", CASES)
def test_a_head_of_a_sweep_is_that_of_the_trainer(case: str, tmp_path: Path) -> None:
    model, training, patience = CASES[case]
    config = CRConfig(**{"in_features": 8, "num_labels": 3, "hidden_sizes": [10, 6], "dropout": 0.3, **model})
    arguments = CRTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, remove_unused_columns=False, report_to="none",
        dataloader_pin_memory=False, **{**TRAINING, **training},
    )  # fmt: skip
    other = copy.copy(arguments)
    other.seed = 4
    heads = [SweepHead(config, one, early_stopping_patience=patience) for one in (other, arguments)]
    split = labelled(config)
    validation = dict(zip(("validation_features", "validation_labels"), split["validation"], strict=True))
    results = train_heads(*split["train"], heads, **validation)
    expected = trained_alone(config, arguments, patience)
    assert difference(predict_heads(results, ROWS["test"][0])[1], expected) < TOLERANCE


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that says nothing of training: a table in three files, three classes."""
    folder = tmp_path_factory.mktemp("table")
    for name, (features, labels) in ROWS.items():
        lines = [",".join(map(str, [*row, label])) for row, label in zip(features.tolist(), labels, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join([",".join("abcdefgh") + ",label", *lines]), encoding="utf-8")
    path = folder / "recipe.yaml"
    own = {"backbone": "none", "data": {f"{name}_file": str(folder / f"{name}.csv") for name in SPLITS}}
    own |= {"hidden_sizes": [10, 6], "use_cpu": True, "disable_tqdm": True}
    path.write_text(yaml.safe_dump(own), encoding="utf-8")
    return path


QUICK = ["per_device_train_batch_size=16", "learning_rate=1e-2", "lr_scheduler_type=cosine", "weight_decay=0.1"]
QUICK += ["seed=0"]
RECIPE_CASES = {
    "nothing said": [],
    "as it is": QUICK,
    "ordinal": [*QUICK, "objective=ordinal"],
    "cumulative link": [*QUICK, "objective=ordinal", "ordinal_loss=cumulative_link", "threshold_learning_rate=0.3"],
    "soft labels": [*QUICK, "soft_labels=0.5"],
    "weights, smoothing": [*QUICK, "class_weights=balanced", "label_smoothing_factor=0.1", "head_learning_rate=2e-2"],
    "schedules": [*QUICK, "dreg_schedule=linear", "warmup_steps=0.2", "lr_scheduler_type=polynomial"],
    "early stopping": [*QUICK, "early_stopping_patience=1", "num_train_epochs=8", "metric_for_best_model=loss"],
}


def results_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("case", "head", "fraction"),
    [
        *((case, "cr+dreg", 1.0) for case in RECIPE_CASES),
        ("nothing said", "mlp-gelu", 0.4),
        ("ordinal", "linear", 0.4),
    ],
)
def test_a_cell_of_a_study_is_what_its_command_trains(
    case: str, head: str, fraction: float, table: Path, tmp_path: Path
) -> None:
    own = RECIPE_CASES[case]
    _, data = read_features(load_recipe(table, own))
    cell = train_cell(head, data, 2, 2, fraction)
    command = str(cell.command(1)).split()
    assert command[:3] == ["cr-hf", "train", "RECIPE"]
    results = results_of(train_recipe(load_recipe(table, [*own, *command[3:], f"output_dir={tmp_path / 'run'}"])))
    assert results["data"]["rows"]["train"] == cell.rows
    assert results["metrics"]["test"]["accuracy"] == pytest.approx(cell.test_accuracies[1])
    assert results["metrics"]["validation"]["accuracy"] == pytest.approx(cell.dev_accuracies[1])
    gradients = results["diagnostics"]["splits"]["test"]["gradients"]["margin"]
    assert gradients["tail_ratio"] == pytest.approx(cell.per_seed("gradient_tail_ratios")[1], rel=1e-4)
    assert gradients["peak"] == pytest.approx(cell.per_seed("peak_gradients")[1], rel=1e-4)
    certified = results["diagnostics"]["splits"]["test"]["certified"]["accuracy"]
    assert certified == {
        radius: pytest.approx(found[1]) for radius, found in (cell.certified_accuracies or {}).items()
    }


def test_a_cell_on_texts_has_the_logits_of_its_command(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    own = [f"backbone={tiny_backbone('bert')}", "num_train_epochs=2", "hidden_sizes=[8]", "use_cpu=true"]
    own += ["data.max_train_samples=100", "data.max_eval_samples=50", "objective=ordinal", "disable_tqdm=true"]
    recipe = load_recipe(RECIPES / "demo.yaml", own)
    dataset, data = read_features(recipe)
    arm, every = HEADS["cr+dreg-cosine"], np.arange(len(data.train[1]))
    ((head,),) = train_settings(arm, arm.settings[1:2], [0], [every], data, scaling(recipe, len(every), 1.0))
    run = train_recipe(
        override_recipe(recipe, {**arm.overrides, **arm.settings[1], "output_dir": str(tmp_path / "r")})
    )
    finished = Run(run)
    model, tokenizer = finished.model, finished.tokenizer
    found = model.predict_texts(dataset["test"]["text"], tokenizer)
    assert difference(predict_heads([head], data.test[0])[0], found) < 10 * TOLERANCE  # features in other batches


@pytest.mark.parametrize("case", ["ordinal", "schedules"])
def test_the_chosen_lambda_gives_the_run_that_names_it(case: str, table: Path, tmp_path: Path) -> None:
    own = RECIPE_CASES[case]
    auto = train_recipe(load_recipe(table, [*own, "dreg_lambda=auto", f"output_dir={tmp_path / 'a'}"]))
    choice = results_of(auto)["lambda_choice"]
    named = load_recipe(table, [*own, f"dreg_lambda={choice['chosen']}", f"output_dir={tmp_path / 'b'}"])
    logits = [classify_features(Run(run).model, ROWS["test"][0]) for run in (auto, train_recipe(named))]
    assert torch.equal(*logits)
    # The first seed of the choice is the run's own.
    _, data = read_features(named)
    heads = [sweep_head(named, data.config, {"dreg_lambda": value}) for value in LAMBDA_GRID]
    validation = dict(zip(("validation_features", "validation_labels"), data.validation, strict=True))
    chosen = train_heads(*data.train, heads, **validation)[choice["grid"].index(choice["chosen"])]
    assert difference(predict_heads([chosen], ROWS["test"][0])[0], logits[0]) < TOLERANCE


@pytest.mark.parametrize("case", ["nothing said", "ordinal"])
def test_the_linear_head_is_the_one_that_train_gives(case: str, table: Path, tmp_path: Path) -> None:
    own = RECIPE_CASES[case]
    found = results_of(train_recipe(load_recipe(table, [*own, f"output_dir={tmp_path / 'a'}"])))["diagnostics"]
    about = found["linear_head"]
    more = ["hidden_sizes=[]", "dreg_lambda=0", f"learning_rate={about['learning_rate']}"]
    linear = results_of(train_recipe(load_recipe(table, [*own, *more, f"output_dir={tmp_path / 'b'}"])))
    assert linear["metrics"]["validation"]["accuracy"] == pytest.approx(about["validation_accuracy"])
    for split in ("validation", "test"):
        gradients = linear["diagnostics"]["splits"][split]["gradients"]["margin"]
        assert found["splits"][split]["linear"]["tail_ratio"] == pytest.approx(gradients["tail_ratio"], rel=1e-4)
        assert found["splits"][split]["linear"]["mean"] == pytest.approx(gradients["mean"], rel=1e-4)
