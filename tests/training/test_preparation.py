"""What is settled before the first step: with `model_init`, in a search, for streams and for wrong labels."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from feature_rows import Rows, head, trainer_of
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

from cr_hf import CRTrainer, CRTrainingArguments

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


def test_named_classes_for_a_number_are_refused(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"features": FEATURES, "label": [0, 1, 2, 0]}, features=CLASSES)
    with pytest.raises(ValueError, match="num_labels=1"):
        CRTrainer(model=head(num_labels=1), args=arguments(tmp_path), train_dataset=table).train()


def test_text_labels_of_a_list_of_rows_are_refused(tmp_path: Path) -> None:
    rows = [{"features": values, "label": "bad"} for values in FEATURES]
    with pytest.raises(ValueError, match="row 0 of the training set has the label 'bad'"):
        CRTrainer(model=head(), args=arguments(tmp_path), train_dataset=rows).train()
