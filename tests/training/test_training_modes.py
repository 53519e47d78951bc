"""Mixed precision, activation checkpointing, compilation and sharding leave the head's mathematics alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from process_jobs import arguments, text_rows
from transformers import AutoTokenizer, DataCollatorWithPadding

from cr_hf import CRConfig, CRForSequenceClassification, CRTrainer

TinyBackbone = Callable[..., Path]


def trainer_of(backbone: Path, folder: Path, **more: Any) -> CRTrainer:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = CRForSequenceClassification.from_backbone(str(backbone), num_labels=3, hidden_sizes=[8, 8])
    values = {"max_steps": 6, "dreg_lambda": 0.05, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    return CRTrainer(
        model=model,
        args=arguments(folder, **{**values, **more}),
        train_dataset=text_rows(tokenizer),
        eval_dataset=text_rows(tokenizer, 9),
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def losses(trainer: CRTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_bf16_autocast_for_500_steps(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    trainer = trainer_of(tiny_backbone("bert"), tmp_path, bf16=True, max_steps=500, logging_steps=50)
    seen = set()
    trainer.model.classifier.register_forward_hook(lambda module, inputs, output: seen.add(output[0].dtype))
    trainer.train()
    assert seen == {torch.float32}
    assert all(math.isfinite(loss) for loss in losses(trainer))
    for name, value in trainer.model.named_parameters():
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_activation_checkpointing_changes_nothing(family: str, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    calls, results = [], []
    checkpointing = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
    for more in ({}, checkpointing):
        trainer = trainer_of(tiny_backbone(family), tmp_path, **more)
        counted: list[str] = []
        inner = [module for module in trainer.model.backbone.modules() if isinstance(module, torch.nn.Linear)][2]
        inner.register_forward_hook(lambda *_, counted=counted: counted.append("called"))
        trainer.train()
        calls.append(len(counted))
        results.append((losses(trainer), trainer.model.state_dict()))
    assert calls == [6, 12], "each layer runs again in the backward pass"
    (plain_losses, plain), (saving_losses, saving) = results
    assert saving_losses == plain_losses
    for name, value in plain.items():
        assert torch.equal(value, saving[name]), name


@pytest.mark.slow
def test_compiled_training_and_evaluation(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    plain = trainer_of(tiny_backbone("bert"), tmp_path)
    compiled = trainer_of(
        tiny_backbone("bert"), tmp_path, torch_compile=True, torch_compile_backend="aot_eager", torch_compile_mode=None
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for trainer in (plain, compiled):
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert compiled.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_a_penalty_through_the_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dreg_mode='backbone'.*layer, worst, chain .*no penalty through"):
        CRConfig(in_features=4, num_labels=2, dreg_mode="backbone")


@pytest.mark.parametrize("frozen", [False, True])
def test_chain_mode_reaches_the_head_alone(frozen: bool, tiny_backbone: TinyBackbone) -> None:
    model = CRForSequenceClassification.from_backbone(
        str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8], dreg_mode="chain", freeze_backbone=frozen,
        feature_norm="layer_norm",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
    model.train()
    output = model(**tokenizer("a witty film", return_tensors="pt"), labels=torch.tensor([1]))
    assert output.dreg.shape == (2,)
    output.loss.backward()
    assert model.classifier.readout.weight.grad is not None
    assert all((value.grad is None) == frozen for value in model.backbone.parameters())
