"""`CRTrainer`: the loss it composes, what it logs, what it fits, and when it stops."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_rows import Rows, head, trainer_of
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from cr_hf import CRForSequenceClassification, CRTrainer, CRTrainingArguments
from cr_hf.errors import CheckpointError, NonFiniteError, PublishError
from cr_hf.evaluation.sensitivity import gradient_tail_ratio, input_gradient_norms
from cr_hf.training.arguments import scheduled_lambda

TEXTS = ["a witty film", "a dull plot and awful acting", "good food", "the service was terrible", "fine", "so boring"]


def steps_of(trainer: Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """70 rows in batches of 16: the last window of each epoch is short, and must weigh its rows all the same."""
    logs = []
    for size, accumulation in ((16, 1), (4, 4)):
        model = head(torch.float64)
        trainer = trainer_of(
            model,
            tmp_path,
            Rows(70, torch.float64),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=7,
            dreg_lambda=0.1,
            optim="sgd",
        )
        trainer.train()
        logs.append((steps_of(trainer), model.state_dict()))
    (whole, weights), (split, split_weights) = logs
    for one, other in zip(whole, split, strict=True):
        for name in ("loss", "grad_norm", "task_loss", "dreg"):
            assert one[name] == pytest.approx(other[name], rel=1e-6), name
    for name, value in weights.items():
        torch.testing.assert_close(value, split_weights[name], rtol=1e-10, atol=1e-12)


def test_loss_is_task_loss_plus_scheduled_dreg(tmp_path: Path) -> None:
    trainer = trainer_of(head(), tmp_path, dreg_lambda=0.3, dreg_lambda_end=0.1, dreg_schedule="linear")
    trainer.train()
    for done, entry in enumerate(steps_of(trainer)):
        weight = scheduled_lambda(done, 6, 0.3, 0.1, "linear")
        assert entry["loss"] == pytest.approx(entry["task_loss"] + weight * entry["dreg"], rel=1e-5)
        assert entry["dreg_lambda"] == pytest.approx(scheduled_lambda(done + 1, 6, 0.3, 0.1, "linear"))
        assert entry["dreg"] == pytest.approx(entry["dreg_layer_1"] + entry["dreg_layer_2"] + entry["dreg_readout"])


def test_lambda_of_the_config_is_the_default(tmp_path: Path) -> None:
    trainer = trainer_of(head(dreg_lambda=0.07), tmp_path, max_steps=1)
    trainer.train()
    assert steps_of(trainer)[0]["dreg_lambda"] == 0.07


def test_plain_trainer_gives_the_same_weights_under_a_constant_lambda(tmp_path: Path) -> None:
    weights = []
    for trainer_class in (CRTrainer, Trainer):
        model = head(torch.float64, dreg_lambda=0.1)
        model.fit_feature_norm(Rows(64, torch.float64).features)
        args = CRTrainingArguments(
            output_dir=str(tmp_path), max_steps=4, report_to="none", disable_tqdm=True, save_strategy="no",
            dataloader_pin_memory=False, use_cpu=True,
        )  # fmt: skip
        trainer_class(model=model, args=args, train_dataset=Rows(64, torch.float64)).train()
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-10, atol=1e-12)


def test_evaluation_reports_the_task_loss_alone(tmp_path: Path) -> None:
    model = head(dreg_lambda=100.0)
    trainer = trainer_of(model, tmp_path, max_steps=1)
    trainer.train()
    rows = Rows(30, seed=2)
    model.eval()
    expected = nn.functional.cross_entropy(model(rows.features).logits, rows.labels)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.predict(rows).predictions.shape == (30, 3)


def test_evaluation_logs_the_gradient_tail_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = head(), Rows(30, seed=2)
    trainer = trainer_of(model, tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2)
    trainer.train()
    expected = gradient_tail_ratio(input_gradient_norms(model.classifier, rows.features))
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(logged) == 2
    assert logged[-1]["eval_gradient_tail_ratio"] == pytest.approx(expected, rel=1e-5)
    assert "test_gradient_tail_ratio" not in trainer.predict(rows).metrics
    assert not model.classifier._forward_pre_hooks
    monkeypatch.setattr("cr_hf.training.trainer.TAIL_ROWS", 8)
    few = gradient_tail_ratio(input_gradient_norms(model.classifier, rows.features[:8]))
    assert trainer.evaluate()["eval_gradient_tail_ratio"] == pytest.approx(few, rel=1e-5)


def test_the_tail_ratio_of_a_backbone_that_trains_is_by_its_features(
    tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_backbone("bert")
    tokenizer, rows = text_rows(folder)
    model = CRForSequenceClassification.from_backbone(folder, num_labels=2, hidden_sizes=[8])
    trainer = trainer_of(model, tmp_path, rows)
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.eval_dataset = rows
    found = trainer.evaluate()["eval_gradient_tail_ratio"]
    with torch.no_grad():
        features = torch.cat([model.get_features(**tokenizer(text, return_tensors="pt")) for text in TEXTS * 4])
    assert found == pytest.approx(gradient_tail_ratio(input_gradient_norms(model.classifier, features)), rel=1e-4)


def test_standardisation_is_fitted_on_the_training_rows(tmp_path: Path) -> None:
    model = head()
    rows = Rows(70)
    trainer_of(model, tmp_path, rows, max_steps=1).train()
    norm = model.classifier.feature_norm
    varying = [0, 1, 2, 4, 5]
    torch.testing.assert_close(norm.mean, rows.features.mean(0))
    torch.testing.assert_close(norm.scale[varying], 1 / rows.features.std(0, correction=0)[varying])
    assert norm.scale[3] == 0


def test_statistics_that_are_fitted_stay(tmp_path: Path) -> None:
    model = head()
    model.fit_feature_norm(Rows(50, seed=5).features)
    before = model.classifier.feature_norm.mean.clone()
    trainer_of(model, tmp_path, max_steps=1).train()
    assert torch.equal(model.classifier.feature_norm.mean, before)


def test_every_head_parameter_moves_and_decay_spares_coefficients(tmp_path: Path) -> None:
    model = head(objective="ordinal", ordinal_loss="cumulative_link")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = trainer_of(model, tmp_path, weight_decay=0.1)
    trainer.train()
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name
    decayed = set(trainer.get_decay_parameter_names(model))
    assert decayed == {name for name in before if name.endswith("weight")}


def test_head_learning_rate(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_backbone(tiny_backbone("bert"), num_labels=2, hidden_sizes=[8])
    trainer = trainer_of(model, tmp_path, learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (1e-3 if name.startswith("classifier.") else 1e-5), name


def text_rows(folder: Path, labels: int = 2) -> tuple[Any, list[dict[str, Any]]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, [{**tokenizer(text), "labels": row % labels} for row, text in enumerate(TEXTS * 4)]


def test_frozen_backbone_is_bit_identical(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_backbone("bert")
    model = CRForSequenceClassification.from_backbone(folder, num_labels=2, freeze_backbone=True, hidden_sizes=[8])
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    tokenizer, rows = text_rows(folder)
    trainer = trainer_of(model, tmp_path, rows)
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.train()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_label_smoothing_and_class_weights_stay_inside_the_objective(tmp_path: Path) -> None:
    """The stock Trainer would pop the labels, and DREG with them."""
    model = head(torch.float64)
    rows = Rows(70, torch.float64)
    trainer = trainer_of(
        model, tmp_path, rows, max_steps=1, per_device_train_batch_size=70, label_smoothing_factor=0.1,
        class_weights="balanced", dreg_lambda=0.5,
    )  # fmt: skip
    counts = torch.bincount(rows.labels).double()
    model.fit_feature_norm(rows.features)
    model.train()
    output = model(rows.features)
    losses = nn.functional.cross_entropy(output.logits, rows.labels, reduction="none", label_smoothing=0.1)
    expected = (losses * (len(rows) / 3 / counts)[rows.labels]).mean()
    trainer.train()
    entry = steps_of(trainer)[0]
    assert entry["task_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert entry["loss"] == pytest.approx(expected.item() + 0.5 * output.dreg.sum().item(), rel=1e-5)


@pytest.mark.parametrize(("size", "accumulation"), [(16, 1), (4, 4)])
def test_a_loss_function_of_ones_own_takes_the_place_of_the_task_loss(
    size: int, accumulation: int, tmp_path: Path
) -> None:
    def focal(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        assert num_items_in_batch is None
        losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
        return ((1 - torch.exp(-losses)) ** 2 * losses).mean()

    args = trainer_of(
        head(), tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=1
    ).args
    model, rows = head(torch.float64, dreg_lambda=0.5), Rows(16, torch.float64)
    model.fit_feature_norm(rows.features)
    output = model.train()(rows.features)
    expected = focal(output, rows.labels).item()
    trainer = CRTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, compute_loss_func=focal)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    trainer.train()
    entry = steps_of(trainer)[0]
    assert entry["task_loss"] == pytest.approx(expected, rel=1e-6)
    assert entry["loss"] == pytest.approx(expected + 0.5 * output.dreg.sum().item(), rel=1e-6)


@pytest.mark.parametrize(("size", "accumulation"), [(16, 1), (4, 4)])
def test_a_column_of_weights_multiplies_the_loss_of_each_row(size: int, accumulation: int, tmp_path: Path) -> None:
    rows, weights = Rows(16, torch.float64), torch.rand(16, dtype=torch.float64)
    weighted = [{**rows[row], "sample_weight": weights[row]} for row in range(16)]
    model = head(torch.float64, dreg_lambda=0.5)
    model.fit_feature_norm(rows.features)
    output = model.train()(rows.features)
    losses = nn.functional.cross_entropy(output.logits, rows.labels, reduction="none")
    args = trainer_of(
        head(), tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=1
    ).args
    trainer = CRTrainer(model=model, args=args, train_dataset=weighted, eval_dataset=weighted)
    trainer.train()
    entry = steps_of(trainer)[0]
    assert entry["task_loss"] == pytest.approx((weights * losses).mean().item(), rel=1e-6)
    assert entry["loss"] == pytest.approx(entry["task_loss"] + 0.5 * output.dreg.sum().item(), rel=1e-6)
    unlabelled = [{name: value for name, value in row.items() if name != "labels"} for row in weighted]
    assert trainer.predict(unlabelled).predictions.shape == (16, 3)
    trainer.compute_loss_func = lambda *args, **kwargs: torch.zeros(())
    with pytest.raises(ValueError, match="sample_weight is for"):
        trainer.evaluate()


@pytest.mark.parametrize("where", ["feature", "weight"])
def test_stops_at_a_nan_before_saving(where: str, tmp_path: Path) -> None:
    model, rows = head(), Rows(64)
    model.fit_feature_norm(rows.features)
    trainer = trainer_of(model, tmp_path, rows, max_steps=20, logging_steps=100, save_strategy="steps", save_steps=2)

    def poison(module: nn.Module, inputs: Any) -> None:
        if trainer.state.global_step == 4:
            if where == "feature":
                inputs[0][0, 0] = math.nan
            else:
                with torch.no_grad():
                    model.classifier.readout.weight[0, 0] = math.nan

    model.classifier.register_forward_pre_hook(poison)
    with pytest.raises(NonFiniteError, match=r"at step 5.*last good checkpoint is .*checkpoint-4"):
        trainer.train()
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert not (tmp_path / "checkpoint-6").exists()


def test_stops_at_a_nan_gradient(tmp_path: Path) -> None:
    model = head()
    trainer = trainer_of(model, tmp_path, max_steps=20)
    model.classifier.readout.weight.register_hook(
        lambda gradient: gradient * math.nan if trainer.state.global_step == 3 else gradient
    )
    with pytest.raises(NonFiniteError, match="gradient norm is nan at step 4"):
        trainer.train()


class Killed(Exception):
    pass


@pytest.mark.parametrize("mode", ["layer", "chain"])
def test_resume_is_exact(mode: str, tmp_path: Path) -> None:
    def make(folder: Path) -> CRTrainer:
        model = head(dropout=0.3, dreg_mode=mode, dreg_num_tangents=2)
        return trainer_of(
            model, folder, max_steps=12, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3,
            dreg_lambda=0.2, dreg_lambda_end=0.02, dreg_schedule="exponential", dreg_warmup_steps=2,
            load_best_model_at_end=True, metric_for_best_model="loss", lr_scheduler_type="cosine",
        )  # fmt: skip

    whole = make(tmp_path / "whole")
    whole.train()
    broken = make(tmp_path / "broken")

    def kill(module: nn.Module, inputs: Any) -> None:
        if broken.state.global_step == 8:
            raise Killed

    broken.model.classifier.register_forward_pre_hook(kill)
    with pytest.raises(Killed):
        broken.train()
    resumed = make(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert steps_of(whole)[-1]["dreg_lambda"] == steps_of(resumed)[-1]["dreg_lambda"]


def test_resume_from_a_checkpoint_without_the_head_is_an_error(tmp_path: Path) -> None:
    trainer = trainer_of(head(), tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    other = trainer_of(head(hidden_sizes=[8, 8, 8]), tmp_path, max_steps=4)
    with pytest.raises(CheckpointError, match=r"lacks 3 tensors.*classifier\.layers\.2"):
        other.train(resume_from_checkpoint=True)


def test_baseline_of_transformers_trains_under_the_same_rules(
    tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_backbone("bert")
    tokenizer, rows = text_rows(folder)
    logs = []
    for size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        model.config.hidden_dropout_prob = 0.0
        model.eval()
        model.train = lambda mode=True, model=model: model
        trainer = trainer_of(
            model, tmp_path, rows, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation
        )
        trainer.data_collator = DataCollatorWithPadding(tokenizer)
        trainer.train()
        logs.append(steps_of(trainer))
    for one, other in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dreg_lambda": -1.0}, "dreg_lambda=-1.0"),
        ({"dreg_lambda": 0.1, "dreg_schedule": "step"}, "dreg_schedule='step' is unknown: use one of constant"),
        ({"dreg_lambda": 0.1, "dreg_schedule": "exponential"}, "needs both ends above 0"),
        ({"dreg_schedule": "exponential"}, "needs both ends above 0"),
        ({"dreg_lambda_end": 0.5}, "has no effect under dreg_schedule='constant'"),
        ({"head_learning_rate": -1e-3}, "head_learning_rate=-0.001"),
        ({"class_weights": "equal"}, "class_weights='equal'"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(head(), tmp_path, **arguments)


def test_data_parallel_is_refused(tmp_path: Path) -> None:
    args = CRTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    _ = args.device
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        CRTrainer(model=head(), args=args)


def test_arguments_are_needed() -> None:
    with pytest.raises(ValueError, match="CRTrainingArguments"):
        CRTrainer(model=head())


def test_publishing_before_training_is_refused(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_backbone("bert")
    model = CRForSequenceClassification.from_backbone(folder, num_labels=2, hidden_sizes=[8])
    with pytest.raises(PublishError, match="the model is not trained yet"):
        trainer_of(model, tmp_path, hub_model_id="me/x").push_to_hub()
