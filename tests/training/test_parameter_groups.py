"""Learning rates of the head, the thresholds and every layer of the backbone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process_jobs import arguments

from cr_hf import CRForSequenceClassification, CRTrainer
from cr_hf.training.lora import add_lora
from cr_hf.training.parameter_groups import layer_factors

TinyBackbone = Callable[..., Path]


def rates_of(trainer: CRTrainer) -> dict[str, float]:
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert len(rates) == len(trained)
    return {name: rates[id(value)] for name, value in trained.items()}


def test_every_family_has_its_layers_found(family: str, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    """Two layers each: the last at the full rate, the first at half, the embeddings at a quarter."""
    model = CRForSequenceClassification.from_backbone(
        str(tiny_backbone(family)), num_labels=3, hidden_sizes=[8], objective="ordinal"
    )
    values = {"learning_rate": 1.0, "head_learning_rate": 5.0, "threshold_learning_rate": 7.0, "layer_decay": 0.5}
    rates = rates_of(CRTrainer(model=model, args=arguments(tmp_path, **values)))
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
    rates = rates_of(CRTrainer(model=add_lora(model, tmp_path / "base"), args=arguments(tmp_path, **values)))
    for name, rate in rates.items():
        assert rate == (5.0 if ".classifier." in name else 0.5 if ".layer.0." in name else 1.0), name


def test_without_a_decay_every_factor_is_one() -> None:
    assert layer_factors(["backbone.encoder.layer.0.x", "classifier.readout.weight"], None) == [1.0, 1.0]


def test_the_schedule_scales_every_rate(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=3, hidden_sizes=[8])
    values = {"learning_rate": 1.0, "head_learning_rate": 5.0, "warmup_steps": 4, "max_steps": 8}
    trainer = CRTrainer(model=model, args=arguments(tmp_path, **values))
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
        arguments(tmp_path, **values)
