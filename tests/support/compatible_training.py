"""Lines about trainers."""

from typing import Any

import datasets
import optuna
import pytest
import schedulefree
import torch
from accelerate import Accelerator
from classifiers import TEXTS
from compatible import Desk, limited, refused, works
from feature_rows import Rows
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from cr_hf import DREG, CRTrainer

AREA = "Trainer"
BEST = {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 1}


def table() -> datasets.Dataset:
    rows = Rows(40)
    return datasets.Dataset.from_dict({"features": rows.features.tolist(), "labels": rows.labels.tolist()})


def losses(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return nn.functional.cross_entropy(outputs.logits, labels) * 0 + 7


@works(AREA, "a plain `TrainingArguments`: read as `CRTrainingArguments`, lambda of the model's configuration")
def _(desk: Desk) -> None:
    trainer = CRTrainer(model=desk.head(), args=desk.arguments(TrainingArguments), train_dataset=Rows(40))
    trainer.train()
    assert "dreg" in trainer.state.log_history[0]


@works(AREA, "plain `Trainer`: `config.dreg_lambda * dreg.sum()` is in the loss")
def _(desk: Desk) -> None:
    model = desk.head(feature_norm="layer_norm", dreg_lambda=100.0)
    trainer = Trainer(model=model, args=desk.arguments(TrainingArguments), train_dataset=Rows(40))
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 50


@works(AREA, "`compute_loss_func`: replaces the task loss, DREG is added")
def _(desk: Desk) -> None:
    log = desk.train(options={"compute_loss_func": losses}).state.log_history[0]
    assert log["task_loss"] == 7
    assert log["loss"] > 7


@works(AREA, "a column `sample_weight`")
def _(desk: Desk) -> None:
    desk.train(desk.head(), table().add_column("sample_weight", [0.5, 1.5] * 20))


@works(AREA, "`model_init`")
def _(desk: Desk) -> None:
    args = desk.arguments()
    CRTrainer(model_init=lambda: desk.head(), args=args, train_dataset=Rows(40)).train()


@works(AREA, "`hyperparameter_search` with optuna, the standardisation fitted in every trial")
def _(desk: Desk) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainer = CRTrainer(
        model_init=lambda: desk.head(), args=desk.arguments(), train_dataset=Rows(40), eval_dataset=Rows(20, seed=2)
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"dreg_lambda": trial.suggest_float("dreg_lambda", 0.01, 0.1)}, n_trials=2, backend="optuna"
    )
    assert best.hyperparameters


@works(AREA, "an `IterableDataset` with `standardize`: read once more for the statistics")
def _(desk: Desk) -> None:
    desk.train(desk.head(), table().to_iterable_dataset(), dict())


@refused(
    AREA,
    "a stream that can be read once, with `standardize`",
    "refused: the statistics need a pass of their own; use `layer_norm` or `fit_feature_norm`",
    "gives them only",
)
def _(desk: Desk) -> None:
    class Once(IterableDataset):
        rows = iter(list(Rows(8)[row] for row in range(8)))

        def __iter__(self) -> Any:
            return self.rows

    CRTrainer(model=desk.head(), args=desk.arguments(), train_dataset=Once()).train()


@refused(AREA, "labels that are text", "refused: which number is which class is not said", "use integers from 0")
def _(desk: Desk) -> None:
    desk.train(desk.head(), [{"features": torch.ones(6), "labels": "good"}])


@works(AREA, "a Dataset of `datasets` with more columns than the model takes")
def _(desk: Desk) -> None:
    desk.train(desk.head(), table().add_column("id", list(range(40))))


@works(AREA, "a dictionary of evaluation sets")
def _(desk: Desk) -> None:
    trainer = desk.train()
    assert "eval_b_loss" in trainer.evaluate({"a": Rows(8), "b": Rows(9)})


@works(AREA, "`predict` without labels")
def _(desk: Desk) -> None:
    assert desk.train().predict([{"features": torch.ones(6)}] * 3).predictions.shape == (3, 3)


@works(AREA, "`compute_metrics` and `preprocess_logits_for_metrics`")
def _(desk: Desk) -> None:
    options = {"compute_metrics": lambda found: {"shape": found.predictions.ndim}}
    options |= {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    assert desk.train(options=options).evaluate()["eval_shape"] == 1


@works(AREA, "callbacks; early stopping with the best model loaded at the end")
def _(desk: Desk) -> None:
    class Seen(TrainerCallback):
        steps = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

    seen = Seen()
    best = {**BEST, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    desk.train(options={"callbacks": [seen, EarlyStoppingCallback(1)]}, **best)
    assert seen.steps


@works(AREA, '`save_strategy="best"`')
def _(desk: Desk) -> None:
    assert desk.train(**BEST, save_strategy="best").state.best_model_checkpoint


@works(AREA, "`resume_from_checkpoint=True`")
def _(desk: Desk) -> None:
    trainer = desk.train(save_strategy="steps", save_steps=1)
    trainer.args.max_steps = 3
    trainer.train(resume_from_checkpoint=True)


@works(AREA, "`NEFTune` on a backbone that trains")
def _(desk: Desk) -> None:
    model = desk.texts(freeze_backbone=False, feature_norm="layer_norm")[0]
    desk.train(model, desk.rows(), {"processing_class": desk.tokenizer}, neftune_noise_alpha=5)


@works(AREA, "`group_by_length` and `DataCollatorWithPadding`")
def _(desk: Desk) -> None:
    collator = {"data_collator": DataCollatorWithPadding(desk.tokenizer)}
    desk.train(desk.texts()[0], desk.rows(), collator, train_sampling_strategy="group_by_length")


@works(AREA, "activation checkpointing of the backbone")
def _(desk: Desk) -> None:
    model = desk.texts(freeze_backbone=False, feature_norm="layer_norm")[0]
    desk.train(model, desk.rows(), {"processing_class": desk.tokenizer}, activation_checkpointing=True)


@works(AREA, "optimizers and schedulers of your own")
def _(desk: Desk) -> None:
    model = desk.head()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    desk.train(model, table(), {"optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))})


@works(AREA, "`optimizer_cls_and_kwargs`")
def _(desk: Desk) -> None:
    desk.train(options={"optimizer_cls_and_kwargs": (torch.optim.RMSprop, {"lr": 1e-3})})


@works(AREA, "`DREG` of the feed-forward blocks of a backbone")
def _(desk: Desk) -> None:
    model = desk.texts(freeze_backbone=False, feature_norm="layer_norm")[0]
    DREG(model, ["intermediate"], dreg_lambda=0.01)
    desk.train(model, desk.rows(), {"processing_class": desk.tokenizer})


FIELDS: dict[str, dict[str, Any]] = {
    "`eval_on_start`": {"eval_on_start": True, "eval_strategy": "steps"},
    "`auto_find_batch_size`": {"auto_find_batch_size": True},
    "`gradient_accumulation_steps`": {"gradient_accumulation_steps": 2},
    "`label_smoothing_factor`: inside the objective, DREG is kept": {"label_smoothing_factor": 0.1},
    '`class_weights="balanced"`': {"class_weights": "balanced"},
    "`bf16=True`: the head stays in float32": {"bf16": True},
    '`optim="schedule_free_adamw"`': {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
    '`optim="adafactor"`': {"optim": "adafactor"},
    '`optim="adamw_torch_fused"`': {"optim": "adamw_torch_fused"},
    '`optim="sgd"`': {"optim": "sgd"},
    '`lr_scheduler_type="cosine_with_restarts"`': {"lr_scheduler_type": "cosine_with_restarts"},
    '`lr_scheduler_type="reduce_lr_on_plateau"`': {"lr_scheduler_type": "reduce_lr_on_plateau", **BEST},
    "`warmup_steps` as a share of all": {"warmup_steps": 0.5},
    "`include_num_input_tokens_seen`": {"include_num_input_tokens_seen": "all"},
    "`seed` and `data_seed`": {"seed": 3, "data_seed": 4},
    "`eval_accumulation_steps`": {"eval_accumulation_steps": 1, "eval_strategy": "steps"},
}


def _field(fields: dict[str, Any]) -> Any:
    def attempt(desk: Desk) -> None:
        desk.train(**fields)

    return attempt


for _what, _fields in FIELDS.items():
    works(AREA, _what)(_field(_fields))


@refused(
    AREA,
    "`use_liger_kernel=True` without the package",
    "refused by transformers: `pip install liger-kernel`; it has no kernel for a CR head",
    "liger",
)
def _(desk: Desk) -> None:
    desk.train(use_liger_kernel=True)


LOOPS = "Loops without Trainer"


@works(LOOPS, "a loop in torch: `model(**batch).loss` has DREG in it while training")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    output = model.train()(**batch, labels=torch.tensor([0, 1, 2]))
    assert output.loss > output.task_loss
    output.loss.backward()


@works(LOOPS, "accelerate: `Accelerator().prepare`")
def _(desk: Desk) -> None:
    model = desk.head(feature_norm="layer_norm").train()
    accelerator = Accelerator(cpu=True)
    made = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), DataLoader(Rows(8), 4))
    for batch in made[2]:
        accelerator.backward(made[0](**batch).loss)
        made[1].step()


@works(LOOPS, "Lightning: `training_step` returns `model(**batch).loss`, the model in training mode")
def _(desk: Desk) -> None:
    lightning: Any = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    model, expected = (desk.head(feature_norm="layer_norm", dropout=0.0).train() for _ in range(2))
    expected.load_state_dict(model.state_dict())
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    rows = DataLoader(Rows(8), 8)
    lightning.Trainer(max_steps=1, accelerator="cpu", **quiet).fit(Classifier(model), rows)
    output = expected(**next(iter(rows)))
    (output.task_loss + 0.02 * output.dreg.sum()).backward()
    torch.optim.SGD(expected.parameters(), 0.1).step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@works(
    LOOPS,
    "trl: `RewardTrainer` on `num_labels=1`, DREG added in `compute_loss` ([how](fine_tuning.md#in-other-loops))",
)
def _(desk: Desk) -> None:
    trl: Any = pytest.importorskip("trl")
    steps: list[tuple[float, float]] = []

    class Rewards(trl.RewardTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            steps.append((float(loss), model.config.dreg_lambda * float(outputs.dreg.sum())))
            loss = loss + model.config.dreg_lambda * outputs.dreg.sum() if model.training else loss
            return (loss, outputs) if return_outputs else loss

    model, _ = desk.texts(num_labels=1, freeze_backbone=False, feature_norm="layer_norm")
    rows = datasets.Dataset.from_dict({"chosen": TEXTS, "rejected": TEXTS[::-1]})
    arguments = desk.arguments(trl.RewardConfig, bf16=False, gradient_checkpointing=False)
    trainer = Rewards(model=model, args=arguments, train_dataset=rows, processing_class=desk.tokenizer)
    trainer.train()
    assert all(part > 0 for _, part in steps)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([sum(step) for step in steps], abs=1e-4)


@works(LOOPS, "`torch.optim.LBFGS`")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm").train(), Rows(8)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(rows.features, labels=rows.labels).loss
        loss.backward()
        return loss

    optimizer.step(closure)


@works(LOOPS, "schedule-free optimizers")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm").train(), Rows(8)
    optimizer = schedulefree.AdamWScheduleFree(model.parameters())
    optimizer.train()
    model(rows.features, labels=rows.labels).loss.backward()
    optimizer.step()


@works(LOOPS, "`torch.optim.swa_utils.AveragedModel`")
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm"), Rows(8)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged(rows.features).logits, model(rows.features).logits)


@works(LOOPS, "`torch.autocast` in bfloat16: the head leaves it")
def _(desk: Desk) -> None:
    model, batch = desk.texts()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch).logits.dtype == torch.float32


@limited(
    LOOPS,
    "skorch, and other loops that compute the loss from the logits",
    "train without DREG, which the model adds to its own loss: use `output.loss`, or `CRClassifier` for scikit-learn",
)
def _(desk: Desk) -> None:
    model, rows = desk.head(feature_norm="layer_norm").train(), Rows(8)
    output = model(rows.features, labels=rows.labels)
    torch.testing.assert_close(nn.functional.cross_entropy(output.logits, rows.labels), output.task_loss)
    assert output.loss > output.task_loss
