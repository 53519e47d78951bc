"""`CRTrainer` on images, sound, tokens and choices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from modalities import batch_of, model_on
from torch import Tensor

from cr_hf import CRTrainer, CRTrainingArguments, add_lora

KINDS = ["vit", "convnext", "hubert", "whisper", "tokens", "choices"]


def rows_of(kind: str) -> list[dict[str, Tensor]]:
    batch = batch_of(kind)
    rows = [{name: value[at] for name, value in batch.items()} for at in range(3)]
    return [*rows, rows[0]]


def trainer_of(model: Any, kind: str, folder: Path, **arguments: Any) -> CRTrainer:
    options = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        **arguments,
    }
    args = CRTrainingArguments(str(folder), use_cpu=True, seed=3, **options)
    return CRTrainer(model, args, train_dataset=rows_of(kind), eval_dataset=rows_of(kind))


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_frozen_and_fine_tuned(kind: str, freeze: bool, tmp_path: Path) -> None:
    model = model_on(kind, tmp_path / "backbone", freeze_backbone=freeze)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = trainer_of(model, kind, tmp_path / "run")
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(logged["task_loss"] + 0.02 * logged["dreg"], rel=1e-3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] < logged["task_loss"]
    assert model.is_fitted


@pytest.mark.parametrize("kind", ["tokens", "choices", "vit"])
def test_accumulation_equals_one_large_batch(kind: str, tmp_path: Path) -> None:
    norms = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = model_on(kind, tmp_path / "backbone")
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = trainer_of(model, kind, tmp_path / "run", **arguments)
        trainer.train()
        logged = trainer.state.log_history[0]
        norms.append([logged[name] for name in ("loss", "grad_norm", "task_loss", "dreg")])
    torch.testing.assert_close(norms[1:], [norms[0]] * 2, rtol=1e-4, atol=1e-5)


def test_statistics_of_tokens_are_those_of_tokens_with_a_label(tmp_path: Path) -> None:
    model, batch = model_on("tokens", tmp_path / "backbone", freeze_backbone=True), batch_of("tokens")
    trainer_of(model, "tokens", tmp_path / "run", max_steps=1).train()
    states = model.backbone(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    rows = [states[at][batch["labels"][at] != -100] for at in (0, 1, 2, 0)]
    torch.testing.assert_close(model.classifier.feature_norm.mean, torch.cat(rows).mean(0))


@pytest.mark.parametrize("kind", ["vit", "hubert", "tokens"])
def test_lora_trains_adapters_and_head(kind: str, tmp_path: Path) -> None:
    model = model_on(kind, tmp_path / "backbone", freeze_backbone=True, feature_norm="layer_norm")
    adapted = add_lora(model, tmp_path / "base")
    before = {name: value.clone() for name, value in adapted.named_parameters()}
    trainer_of(adapted, kind, tmp_path / "run").train()
    changed = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
