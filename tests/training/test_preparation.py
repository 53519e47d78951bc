"""What is settled before the first step: with `model_init`, for streams, for wrong labels, and rates of learning."""

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from feature_rows import Rows, head, trainer_of
from process_jobs import arguments as learning_arguments
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments
from cr_hf.training.lora import add_lora
from cr_hf.training.preparation import (
    check_class_labels,
    check_token_labels,
    hint_at_rate,
    layer_factors,
    normalized_class_weights,
)

TinyBackbone = Callable[..., Path]
QUIET: dict[str, Any] = {
    "max_steps": 3,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "logging_steps": 1,
}
QUIET |= {"save_strategy": "no", "dataloader_pin_memory": False, "per_device_train_batch_size": 16}


def arguments(folder: Path, **more: Any) -> CRTrainingArguments:
    return CRTrainingArguments(output_dir=str(folder), **{**QUIET, **more})


def test_soft_labels_and_label_smoothing_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=0.1 and soft_labels=0.5"):
        trainer_of(head(soft_labels=0.5), tmp_path, label_smoothing_factor=0.1)


def test_model_init_trains_as_a_model_does(tmp_path: Path) -> None:
    """Statistics, class weights and label smoothing are those of the model that trains, not of the one before it."""
    asked = {"class_weights": "balanced", "label_smoothing_factor": 0.1}
    given = trainer_of(head(), tmp_path, **asked)
    made = CRTrainer(model_init=lambda: head(), args=given.args, train_dataset=Rows(70), eval_dataset=Rows(30, seed=2))
    for trainer in (given, made):
        trainer.train()
    assert made.model.config.label_smoothing == 0.1
    assert made.model.config.class_weights is not None
    assert made.model.config.class_weights == given.model.config.class_weights
    for name, value in given.model.state_dict().items():
        torch.testing.assert_close(value, made.model.state_dict()[name], rtol=0, atol=0)


def test_hyperparameter_search(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    seen = []

    def model_init(trial: Any) -> nn.Module:
        return head(hidden_sizes=[trial.suggest_int("width", 4, 6)] if trial else [8])

    class Watched(CRTrainer):
        def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            seen.append(
                (self.args.dreg_lambda, model.config.hidden_sizes[0], model.is_fitted, model.config.class_weights)
            )
            return super().training_step(model, *args, **kwargs)

    trainer = Watched(
        model_init=model_init,
        args=arguments(tmp_path, max_steps=2, class_weights="balanced"),
        train_dataset=Rows(70),
        eval_dataset=Rows(30, seed=2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        best = trainer.hyperparameter_search(
            lambda trial: {"dreg_lambda": trial.suggest_float("dreg_lambda", 0.01, 0.1)},
            n_trials=3,
            direction="minimize",
            backend="optuna",
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
    assert set(best.hyperparameters) == {"width", "dreg_lambda"}
    assert len(seen) == 6
    assert len({(lam, width) for lam, width, _, _ in seen}) == 3
    assert all(fitted and weights is not None for _, _, fitted, weights in seen)


def test_plain_arguments_are_read_as_ours(tmp_path: Path) -> None:
    plain = TrainingArguments(output_dir=str(tmp_path), learning_rate=1e-2, **QUIET)
    trainer = CRTrainer(model=head(dreg_lambda=0.05), args=plain, train_dataset=Rows(70))
    trainer.train()
    assert trainer.args.learning_rate == 1e-2
    assert trainer.args.logging_nan_inf_filter is False
    assert [entry["dreg_lambda"] for entry in trainer.state.log_history if "loss" in entry] == [0.05] * 3


class Stream(IterableDataset):
    def __init__(self, rows: Rows, once: bool = False) -> None:
        self.rows, self.once = rows, iter(rows) if once else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.once or (self.rows[row] for row in range(len(self.rows)))


@pytest.mark.parametrize("kind", ["torch", "datasets"])
def test_a_stream_is_standardised_by_the_rows_of_all_steps(kind: str, tmp_path: Path) -> None:
    rows = Rows(70)
    columns = {"features": rows.features.tolist(), "labels": rows.labels.tolist()}
    stream = Stream(rows) if kind == "torch" else datasets.Dataset.from_dict(columns).to_iterable_dataset()
    model = head()
    CRTrainer(model=model, args=arguments(tmp_path), train_dataset=stream).train()
    torch.testing.assert_close(model.classifier.feature_norm.mean, rows.features[:48].mean(0))


def test_a_stream_that_can_be_read_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives them only once"):
        CRTrainer(model=head(), args=arguments(tmp_path), train_dataset=Stream(Rows(70), once=True)).train()


FEATURES = [[float(row), 1.0, 2.0, 3.0, 4.0, 5.0 - row] for row in range(4)]
CLASSES = datasets.Features({"features": datasets.List(datasets.Value("float32")), "label": datasets.ClassLabel(3)})


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ({"target": [0, 1, 2, 0]}, {}, "the rows have no labels, only features"),
        ({"label": ["bad", "good", "fine", "bad"]}, {}, "row 0 of the training set has the label 'bad'"),
        ({"label": [0, 1, 2, 3]}, {}, "row 3 of the training set has the label 3"),
        ({"label": [0, 1, 1, 0]}, {"num_labels": 1}, "labels are classes, and num_labels=1"),
    ],
    ids=["none", "text", "out of range", "one output"],
)
def test_labels_that_do_not_fit(rows: dict[str, Any], fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"features": FEATURES, **rows})
    with pytest.raises(ValueError, match=message) as error:
        CRTrainer(model=head(**fields), args=arguments(tmp_path), train_dataset=table).train()
    assert "\n" not in str(error.value)


def test_labels_of_tokens_that_do_not_fit_are_refused_before_training() -> None:
    rows = {"input_ids": [[5], [5, 6]], "labels": [[-100], [-100, 3]]}
    with pytest.raises(
        ValueError, match="row 1 of the training set has the label 3: a token has an integer from 0 to 2"
    ):
        check_token_labels(datasets.Dataset.from_dict(rows), 3)
    check_token_labels(datasets.Dataset.from_dict(rows), 4)


def test_named_classes_for_a_number_are_refused(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"features": FEATURES, "label": [0, 1, 2, 0]}, features=CLASSES)
    with pytest.raises(ValueError, match="num_labels=1"):
        CRTrainer(model=head(num_labels=1), args=arguments(tmp_path), train_dataset=table).train()


def test_text_labels_of_a_list_of_rows_are_refused(tmp_path: Path) -> None:
    rows = [{"features": values, "label": "bad"} for values in FEATURES]
    with pytest.raises(ValueError, match="row 0 of the training set has the label 'bad'"):
        CRTrainer(model=head(), args=arguments(tmp_path), train_dataset=rows).train()


class TestClassWeights:
    def test_mean_is_one_over_the_training_set(self) -> None:
        counts = [70, 5, 25]
        weights = normalized_class_weights([1.0, 10.0, 3.0], counts)
        assert sum(w * c for w, c in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))
        assert [w / weights[0] for w in weights] == pytest.approx([1.0, 10.0, 3.0])

    @pytest.mark.parametrize(
        ("weights", "counts", "message"),
        [
            ([1.0, 1.0], [1, 2, 3], r"has 2 entries but there are 3 classes"),
            ([1.0, -1.0], [1, 2], r"class_weights=\[1.0, -1.0\] must be finite and 0 or above"),
            ([1.0, math.nan], [1, 2], r"must be finite"),
            ([1.0, 0.0], [0, 5], r"every training row the weight 0"),
        ],
    )
    def test_bad_weights(self, weights: list[float], counts: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            normalized_class_weights(weights, counts)


class TestClassLabels:
    def test_classes_pass(self) -> None:
        check_class_labels(torch.tensor([0, 2, 1, 2]), 3, "ordinal")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 3], r"row 1 .* label 3: objective='ordinal' needs ordered integers from 0 to 2"),
            ([0, 1, -1], r"row 2 .* label -1"),
            ([0.0, 1.0], r"row 0 .* label 0.0"),
        ],
    )
    def test_the_first_bad_row_is_named(self, labels: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_class_labels(torch.tensor(labels), 3, "ordinal")


# ---- learning rates ----


def rates_of(trainer: CRTrainer) -> dict[str, float]:
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert len(rates) == len(trained)
    return {name: rates[id(value)] for name, value in trained.items()}


def test_every_family_has_its_layers_found(family: str, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    """Two layers each: the last at the full rate, the first at half, the embeddings at a quarter."""
    model = CRForSequenceClassification.from_backbone(
        str(tiny_backbone(family)), num_labels=3, hidden_sizes=[8], objective="ordinal", ordinal_loss="cumulative_link"
    )
    values = {"learning_rate": 1.0, "head_learning_rate": 5.0, "threshold_learning_rate": 7.0, "layer_decay": 0.5}
    rates = rates_of(CRTrainer(model=model, args=learning_arguments(tmp_path, **values)))
    seen = set()
    for name, rate in rates.items():
        if name.startswith("classifier."):
            assert rate == (7.0 if "thresholds" in name else 5.0), name
            continue
        seen.add(rate)
        if "embed" in name or "shared" in name:
            assert rate == 0.25, name
        elif ".0." in name.replace(".layer.0.", ".", family == "t5" and ".block.1." in name):
            assert rate == 0.5, name
        else:
            assert rate == 1.0, name
    assert seen == {0.25, 0.5, 1.0}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_and_their_head_have_rates_too(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_backbone(
        str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8], freeze_backbone=True, feature_norm="layer_norm"
    )
    values = {"learning_rate": 1.0, "head_learning_rate": 5.0, "layer_decay": 0.5}
    rates = rates_of(CRTrainer(model=add_lora(model, tmp_path / "base"), args=learning_arguments(tmp_path, **values)))
    for name, rate in rates.items():
        assert rate == (5.0 if ".classifier." in name else 0.5 if ".layer.0." in name else 1.0), name


def test_without_a_decay_every_factor_is_one() -> None:
    assert layer_factors(["backbone.encoder.layer.0.x", "classifier.readout.weight"], None) == [1.0, 1.0]


def test_the_schedule_scales_every_rate(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8])
    values = {"learning_rate": 1.0, "head_learning_rate": 5.0, "warmup_steps": 4, "max_steps": 8}
    trainer = CRTrainer(model=model, args=learning_arguments(tmp_path, **values))
    trainer.create_optimizer_and_scheduler(8)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    assert sorted({group["lr"] for group in trainer.optimizer.param_groups}) == [0.25, 1.25]
    assert torch.isfinite(torch.tensor([group["lr"] for group in trainer.optimizer.param_groups])).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"layer_decay": 0.0}, "layer_decay=0.0"), ({"layer_decay": 1.5}, "at most 1"),
     ({"threshold_learning_rate": -1.0}, "threshold_learning_rate=-1.0")],
)  # fmt: skip
def test_rates_out_of_range_are_refused(values: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        learning_arguments(tmp_path, **values)


def test_the_default_learning_rate_is_named_where_the_head_alone_trains(caplog: pytest.LogCaptureFixture) -> None:
    model = CRForFeatureClassification(CRConfig(in_features=3, num_labels=2, hidden_sizes=[2]))
    hint_at_rate(model, 5e-5)
    assert "learning_rate=5e-05" in caplog.text
    assert "CRClassifier" not in caplog.text
    caplog.clear()
    hint_at_rate(torch.nn.Linear(2, 2), 5e-5)
    assert not caplog.text
