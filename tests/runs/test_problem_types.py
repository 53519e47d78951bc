"""Regression, several labels a row and pairs of texts: losses of torch, recipes, metrics, predictions."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_jobs import arguments
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, r2_score
from torch.nn import functional as F
from transformers import AutoTokenizer, DataCollatorWithPadding, EvalPrediction, pipeline
from typer.testing import CliRunner

from cr_hf import CRForSequenceClassification, CRTrainer
from cr_hf.cli import app
from cr_hf.data import DataConfig, load_rows
from cr_hf.errors import CRError, RecipeError
from cr_hf.evaluation.metrics import compute_multi_label_metrics, compute_regression_metrics
from cr_hf.evaluation.tasks import Task
from cr_hf.runs.build import training_arguments
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run, evaluate_run

TinyBackbone = Callable[..., Path]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "text.yaml"
WORDS = ["good", "bad", "great", "awful", "dull", "witty"]
POS_WEIGHT = [2.0, 0.5, 1.0]
LABELS: dict[str, Any] = {
    "regression": [[0.5], [-1.25], [3.0], [0.0]],
    "two targets": [[0.5, 1.0], [-1.0, 2.0], [3.0, 0.0], [0.0, 0.0]],
    "multi-label": [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]],
}
FIELDS: dict[str, dict[str, Any]] = {
    "regression": {"num_labels": 1},
    "two targets": {"num_labels": 2, "problem_type": "regression"},
    "multi-label": {"num_labels": 3, "problem_type": "multi_label_classification", "pos_weight": POS_WEIGHT},
}


def torch_loss(kind: str, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if kind == "multi-label":
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=torch.tensor(POS_WEIGHT))
    return F.mse_loss(logits, targets)


@pytest.mark.parametrize("kind", LABELS)
def test_the_trainer_minimises_the_loss_of_torch(kind: str, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tiny_backbone("bert")
    model = CRForSequenceClassification.from_backbone(str(folder), hidden_sizes=[8], dropout=0.0, **FIELDS[kind])
    model.config.backbone_config.hidden_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{**tokenizer(f"a {WORDS[row]} film"), "label": target} for row, target in enumerate(LABELS[kind])]
    batch = DataCollatorWithPadding(tokenizer)([dict(row) for row in rows])
    targets = torch.tensor(LABELS[kind])
    with torch.no_grad():
        expected = torch_loss(kind, model(**batch).logits, targets).item()
    values = {"max_steps": 30, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "dreg_lambda": 0.0}
    trainer = CRTrainer(
        model=model,
        args=arguments(tmp_path, **values),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    trainer.train()
    losses = [entry["task_loss"] for entry in trainer.state.log_history if "task_loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]


def write_rows(folder: Path, kind: str) -> dict[str, Any]:
    """Files of one problem type, and the overrides that read them."""
    rows: list[dict[str, Any]] = []
    for row in range(60):
        word = WORDS[row % len(WORDS)]
        texts = {"text": f"a {word} film number {row}"}
        if kind == "pairs":
            rows.append({**texts, "other": f"is it {WORDS[row % 4]}?", "label": ["no", "yes"][row % 4 == row % 6]})
        elif kind == "regression":
            rows.append({**texts, "label": WORDS.index(word) + 0.5})
        else:
            rows.append({**texts, "label": [name for name in ("funny", "long") if (row % 3) - 1 != len(name) % 2]})
    for split, chosen in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, chosen)), encoding="utf-8")
    problem = {"multi-label": "multi_label_classification", "regression": "regression"}.get(kind)
    return {
        "data.dir": folder,
        **({"data.text_pair_column": "other"} if kind == "pairs" else {}),
        **({"problem_type": problem} if problem else {}),
    }


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("kind", ["regression", "multi-label", "pairs"])
def test_a_recipe_of_each_type(kind: str, frozen: bool, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    overrides = {
        **write_rows(tmp_path, kind),
        "backbone": tiny_backbone("bert"),
        "output_dir": tmp_path / "run",
        "freeze_backbone": str(frozen).lower(),
        "hidden_sizes": "[8]",
        "num_train_epochs": 2,
        "use_cpu": "true",
    }
    run_dir = train_recipe(load_recipe(RECIPE, [f"{key}={value}" for key, value in overrides.items()]))
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    measured = evaluate_run(run_dir)
    for name, value in results["metrics"]["test"].items():
        assert measured[name] == pytest.approx(value, rel=1e-4), name
    expected = {"regression": "r_squared", "multi-label": "micro_f1", "pairs": "expected_calibration_error"}
    assert expected[kind] in measured
    model, tokenizer = Run(run_dir).model, Run(run_dir).tokenizer
    if kind == "pairs":
        rows = [("a good film", "is it good?"), ("a good film", "is it bad?")]
        logits = model.predict_texts([text for text, _ in rows], tokenizer, [pair for _, pair in rows])
        assert not torch.equal(logits[0], logits[1])
        return
    found = pipeline("text-classification", model=model, tokenizer=tokenizer)("a good film", top_k=None)
    logits = model.predict_texts(["a good film"], tokenizer)[0]
    scores = sorted((logits if kind == "regression" else logits.sigmoid()).tolist(), reverse=True)
    assert [entry["score"] for entry in found] == pytest.approx(scores, rel=1e-4)
    output = tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["predict", str(run_dir), "a good film", "--output", str(output)])
    assert done.exit_code == 0, done.output
    row = next(csv.DictReader(output.open(encoding="utf-8")))
    if kind == "regression":
        assert float(row["label"]) == pytest.approx(logits.item(), rel=1e-2)
    else:
        assert row["label"] == "|".join(
            name for name, value in zip(["funny", "long"], logits, strict=True) if value > 0
        )


def test_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(50, 3)), generator.integers(0, 2, (50, 3))
    found = compute_multi_label_metrics(logits, targets)
    assert found["micro_f1"] == pytest.approx(f1_score(targets, logits > 0, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, logits > 0, average="macro"))
    assert found["accuracy"] == pytest.approx(((logits > 0) == targets).all(1).mean())
    values = generator.normal(size=50)
    measured = compute_regression_metrics(logits[:, :1], values)
    assert measured["mean_squared_error"] == pytest.approx(mean_squared_error(values, logits[:, 0]))
    assert measured["mean_absolute_error"] == pytest.approx(mean_absolute_error(values, logits[:, 0]))
    assert measured["r_squared"] == pytest.approx(r2_score(values, logits[:, 0]))


@pytest.mark.parametrize("form", ["lists", "words", "zeros and ones"])
def test_the_classes_of_a_row_may_be_written_three_ways(form: str, tmp_path: Path) -> None:
    rows = {"lists": (["funny"], ["funny", "long"], []), "words": ("funny", "funny | long", "")}
    rows["zeros and ones"] = ([1, 0], [1, 1], [0, 0])
    lines = [json.dumps({"text": f"text {row}", "label": label}) for row, label in enumerate(rows[form])]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    names = ["funny", "long"] if form == "zeros and ones" else None
    path = str(tmp_path / "train.jsonl")
    config = DataConfig(train_file=path, validation_file=path, label_names=names)
    loaded = load_rows(config, "multi_label_classification", splits=["train"])["train"]
    assert loaded["label"][:] == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("labels", "overrides", "message"),
    [
        ([1.5, "many", 2.0], ["problem_type=regression"], r"train.jsonl, line 2: the label 'many' is not a finite"),
        ([[1.0, 2.0], [1.0]], ["problem_type=regression"], r"train.jsonl, line 2: 1 targets instead of 2"),
        ([["a"], 3], ["problem_type=multi_label_classification"], r"train.jsonl, line 2: the label 3 is no list"),
        (
            [["a"], ["b"]],
            ["problem_type=multi_label_classification", "data.label_names=[a, bb]"],
            r"line 2: label 'b' of train is not one of the 2 classes \['a', 'bb'\]",
        ),
        ([[1, 0]], ["problem_type=multi_label_classification"], "are numbers: give their names as data.label_names"),
        (
            ["low", "high", "middle", "low"],
            ["objective=ordinal"],
            r"needs ordered integers as labels, found \['high', 'low', 'middle'\].*data.label_names",
        ),
        ([0, 1, 2, 1], ["objective=ordinal", "problem_type=regression"], "objective='ordinal' needs"),
    ],
)
def test_bad_labels_are_one_line_before_training(
    labels: list[Any], overrides: list[str], message: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        lines = [json.dumps({"text": f"text {row}", "label": label}) for row, label in enumerate(labels)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    common = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", f"data.dir={tmp_path}"]
    with pytest.raises(CRError, match=message) as caught:
        train_recipe(load_recipe(RECIPE, [*common, "use_cpu=true", *overrides]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_words_in_a_stated_order_are_fine(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {row}", "label": ["low", "middle", "high"][row % 3]}) for row in range(30)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    common = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", f"data.dir={tmp_path}"]
    order = ["objective=ordinal", "data.label_names=[low, middle, high]", "use_cpu=true", "num_train_epochs=1"]
    assert (train_recipe(load_recipe(RECIPE, [*common, *order])) / "results.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "greater"),
    [
        (["metric_for_best_model=negative_log_likelihood"], False),
        (["metric_for_best_model=macro_f1"], True),
        (["objective=ordinal", "metric_for_best_model=mean_absolute_error"], False),
        (["objective=ordinal", "metric_for_best_model=quadratic_weighted_kappa"], True),
        (["problem_type=regression", "metric_for_best_model=r_squared"], True),
        (["problem_type=multi_label_classification"], False),
    ],
)
def test_the_best_checkpoint_is_the_best(overrides: list[str], greater: bool, tmp_path: Path) -> None:
    found = training_arguments(load_recipe(RECIPE, ["backbone=offline", *overrides]), tmp_path)
    assert found.greater_is_better == greater


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
@pytest.mark.parametrize("is_ordered", [False, True])
def test_every_metric_to_choose_by_is_computed(problem: str, is_ordered: bool) -> None:
    logits, labels = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])
    targets = labels if problem.startswith("single") else np.eye(3)[labels]
    found = Task(problem, is_ordered).trainer_metrics()(EvalPrediction(predictions=logits, label_ids=targets))
    assert set(Task(problem, is_ordered).metrics) == {"loss", *found}


def test_an_unknown_metric_is_one_line(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, ["backbone=offline", "metric_for_best_model=macro_f"])
    with pytest.raises(RecipeError, match=r"metric_for_best_model='macro_f' .did you mean 'macro_f1'"):
        training_arguments(recipe, tmp_path)
