"""Heads for images, sound, tokens and choices, on tiny backbones of every kind that is named in the docs."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import assert_same_state
from modalities import CLASSES, KINDS, SIZES, TOWER, batch_of, model_on, rows_read
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel

import cr_hf
from cr_hf import (
    CRConfig,
    CRForAudioClassification,
    CRForImageClassification,
    CRForMultipleChoice,
    CRForTokenClassification,
    CRTrainer,
    CRTrainingArguments,
)
from cr_hf.modeling import CRModel


def value_of(layer: nn.Module, hidden: Tensor) -> Tensor:
    """The value of a layer without its derivative."""
    found = layer(hidden)
    return found if isinstance(found, Tensor) else found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_saves_and_loads(kind: str, tmp_path: Path) -> None:
    model, batch = model_on(kind, tmp_path / "backbone"), batch_of(kind)
    output = model.train()(**batch)
    torch.testing.assert_close(output.loss, output.task_loss + 0.02 * output.dreg.sum())
    output.loss.backward()
    unused = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert unused == []
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model.eval()(**inputs).logits
    assert torch.isfinite(logits).all()
    model.save_pretrained(tmp_path / "saved")
    for auto_class in (type(model), getattr(__import__("transformers"), model.auto_class)):
        loaded = auto_class.from_pretrained(tmp_path / "saved")
        assert type(loaded) is type(model)
        assert_same_state(loaded, model)
        assert torch.equal(loaded(**inputs).logits, logits)
    assert type(AutoModel.from_pretrained(tmp_path / "saved")) is type(model.backbone)
    assert model.config.hidden_size == model.config.in_features
    assert model.main_input_name in batch


@pytest.mark.parametrize("kind", KINDS)
def test_dreg_is_the_jacobian_of_autograd_over_real_rows(kind: str, tmp_path: Path) -> None:
    model, batch = model_on(kind, tmp_path, feature_norm="layer_norm").double(), batch_of(kind)
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    head, rows = model.classifier, rows_read(model, batch)
    real = {"tokens": int((batch["labels"] != -100).sum()), "choices": 6}.get(kind, 3)
    assert rows.shape == (real, model.config.in_features)
    hidden, expected = head.feature_norm(rows), []
    for layer in [*head.layers, head.readout]:
        jacobians = [torch.autograd.functional.jacobian(partial(value_of, layer), row) for row in hidden.split(1)]
        expected.append(torch.stack([jacobian.square().sum() for jacobian in jacobians]).mean())
        hidden = value_of(layer, hidden)
    torch.testing.assert_close(model(**batch, output_dreg=True).dreg, torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_backbone_stays_as_it_is_and_the_head_trains(kind: str, tmp_path: Path) -> None:
    model, batch = model_on(kind, tmp_path, freeze_backbone=True), batch_of(kind)
    model.fit_feature_norm(rows_read(model, batch))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    first = model.train()(**batch).loss
    assert not model.backbone.training
    first.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("classifier.") for name in changed)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip", "hubert", "whisper"])
def test_layers_are_chosen_and_returned(kind: str, tmp_path: Path) -> None:
    model, batch = model_on(kind, tmp_path, feature_layers="all", attn_implementation="eager"), batch_of(kind)
    assert model.config.in_features == 3 * 16
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert (len(output.hidden_states), len(output.attentions)) == (3, 2)
    positions = output.hidden_states[0].mean(1) if "attention_mask" not in batch else None
    if positions is not None:
        torch.testing.assert_close(rows_read(model, batch)[:, :16], positions)


@pytest.mark.parametrize("kind", ["hubert", "tokens", "choices"])
def test_padding_changes_nothing(kind: str, tmp_path: Path) -> None:
    model, batch = model_on(kind, tmp_path), batch_of(kind)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    together = model(**inputs).logits
    length = int(batch["attention_mask"][1].sum(-1).max())
    row = {name: value[1:2, ..., :length] for name, value in inputs.items()}
    alone = model(**row).logits
    torch.testing.assert_close(together[1:2, :length] if kind == "tokens" else together[1:2], alone)


def test_tokens_keep_their_places_under_padding_on_the_left(tmp_path: Path) -> None:
    model, batch = model_on("tokens", tmp_path), batch_of("tokens")
    right = model(**batch, output_dreg=True)
    turned = {
        name: torch.stack([row.roll(3) if at == 1 else row for at, row in enumerate(value)])
        for name, value in batch.items()
    }
    left = model(**turned, output_dreg=True)
    torch.testing.assert_close((left.loss, left.dreg), (right.loss, right.dreg))
    torch.testing.assert_close(left.logits[1], right.logits[1].roll(3, 0))
    plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    counted = batch["labels"] != -100
    torch.testing.assert_close(right.logits[counted], plain[counted])


@pytest.mark.parametrize("kind", ["vit", "clip", "hubert", "tokens"])
def test_a_training_goes_on_from_its_checkpoint_and_ends_with_the_best(kind: str, tmp_path: Path) -> None:
    batch = batch_of(kind)
    rows = [{name: value[at] for name, value in batch.items()} for at in range(3)]
    best = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    options = {**best, "load_best_model_at_end": True, "max_steps": 2, "use_cpu": True, "report_to": "none"}
    ended = []
    for resumed in (None, str(tmp_path / "run" / "checkpoint-1")):
        model = model_on(kind, tmp_path / "backbone")
        arguments = CRTrainingArguments(str(tmp_path / "run"), **options)
        CRTrainer(model, arguments, train_dataset=rows, eval_dataset=rows).train(resume_from_checkpoint=resumed)
        ended.append(model)
    assert_same_state(*ended)


def test_public_names() -> None:
    for model_class in {*CLASSES.values()}:
        assert getattr(cr_hf, model_class.__name__) is model_class
    assert issubclass(CRModel, nn.Module)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("vit", {}, {"pixel_values": torch.zeros(3, 16, 16)}, r"pixel_values are \(shape \(3, 16, 16\).*image processor"),
    ("vit", {}, {"pixel_values": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, r"uint8.*image processor"),
    ("resnet", {"pooling": "cls"}, {}, r"pooling='cls'.*resnet gives a map.*pooling='mean'"),
    ("whisper", {}, {"input_values": torch.zeros(1, 64), "input_features": None}, r"whisper reads input_features"),
    ("hubert", {}, {"input_values": torch.zeros(3, 0), "attention_mask": None}, r"sound 0 .* 0 samples, too few"),
    (
        "hubert",
        {},
        {"attention_mask": torch.arange(3).unsqueeze(1).expand(3, 64).ge(1).long()},
        r"sound 0 .* 0 samples",
    ),
    (
        "tokens",
        {},
        {"labels": torch.zeros(3, 5, dtype=torch.long)},
        r"labels have shape \(3, 5\), the tokens \(3, 7\)",
    ),
    ("tokens", {}, {"labels": torch.full((3, 7), -100)}, r"no token of the batch has a label"),
    ("tokens", {}, {"labels": torch.full((3, 7), 7)}, "a row of the batch has the label 7: use integers from 0 to 2"),
    ("choices", {}, {"labels": torch.tensor([0, 1, 2])}, "the label 2: use integers from 0 to 1"),
    ("vit", {}, {"labels": torch.tensor([0, -100, 2])}, "the label -100: use integers from 0 to 2"),
    ("vit", {}, {"labels": torch.zeros(3)}, r"labels have shape \(3,\) and torch.float32.*one integer a row"),
    ("hubert", {}, {"labels": torch.tensor([0, 1])}, r"labels have shape \(2,\).*the logits \(3, 3\)"),
    ("hubert", {}, {"input_values": torch.zeros(3, 2, 64)}, r"shape \(3, 2, 64\): .*hubert reads one channel"),
    ("hubert", {}, {"attention_mask": torch.ones(3, 60)}, r"shape \(3, 64\): .* a mask of that shape"),
    ("whisper", {}, {"input_features": torch.zeros(3, 4, 32)}, r"shape \(3, 4, 32\): .*whisper reads 8 bins"),
    ("choices", {}, {"input_ids": torch.zeros(3, 7, dtype=torch.long)}, r"input_ids has shape \(3, 7\): give"),
]


@pytest.mark.parametrize(("kind", "fields", "changes", "message"), REFUSED)
def test_bad_input_is_one_line(
    kind: str, fields: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = model_on(kind, tmp_path, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        model(**{**batch_of(kind), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_class", "kind", "fields", "message"),
    [
        (CRForAudioClassification, "vit", {}, "backbone of type vit reads no sound: use another one"),
        (CRForImageClassification, "hubert", {}, "backbone of type hubert reads no images"),
        (CRForTokenClassification, "vit", {}, "backbone of type vit reads no text"),
        (CRForTokenClassification, "tokens", {"num_labels": 1}, "a token has one class"),
        (CRForMultipleChoice, "choices", {"num_labels": 4}, "num_labels=4: a choice has one score"),
        (CRForImageClassification, "swin", {"feature_layers": "all"}, "swin differ in width"),
        (CRForImageClassification, "convnext", {"feature_layers": [-1]}, "convnext differ in width"),
    ],
)
def test_a_backbone_that_does_not_fit_is_one_line(
    model_class: Any, kind: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model_on(kind, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        model_class.from_backbone(str(tmp_path), **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("vit_mae", TOWER, "hides patches at random"),
        ("siglip2_vision_model", {**SIZES, "num_patches": 4}, "does not run on images alone"),
        ("videomae", {**TOWER, "num_frames": 2}, "does not run on images alone"),
        ("sam_vision_model", {**TOWER, "output_channels": 8}, "gives 8 features, its configuration tells of 16"),
    ],
)
def test_a_backbone_that_reads_more_than_an_image_is_one_line(
    kind: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    AutoModel.from_config(CONFIG_MAPPING[kind](**fields)).save_pretrained(tmp_path)
    for backbone in (str(tmp_path), AutoModel.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=message) as caught:
            CRForImageClassification.from_backbone(backbone, num_labels=2)
        assert "\n" not in str(caught.value)


def test_a_wrapper_of_timm_tells_its_width_or_is_told() -> None:
    for fields, width in (({"num_features": 40}, {}), ({}, {"in_features": 40})):
        wrapper = CONFIG_MAPPING["timm_wrapper"](architecture="resnet10t", **fields)
        assert CRConfig(backbone_config=wrapper, **width).in_features == 40
    with pytest.raises(ValueError, match="timm_wrapper tells no width: give in_features"):
        CRConfig(backbone_config=CONFIG_MAPPING["timm_wrapper"](architecture="resnet10t"))
