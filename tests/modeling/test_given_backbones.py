"""Classifiers on backbones that are handed over as objects, and on those of sentence-transformers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import TEXTS, assert_same_state, text_model
from conftest import TinyBackbone, build_tokenizer
from modalities import IMAGES
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    T5EncoderModel,
    T5Model,
)

from cr_hf import CRForImageClassification, CRForSequenceClassification

HEAD: dict[str, Any] = {"num_labels": 3, "hidden_sizes": [8]}


def saved_again(model: Any, folder: Path, batch: Any) -> None:
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder)
    assert_same_state(loaded, model)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


class TestObjects:
    @pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
    def test_a_model_with_or_without_a_head(
        self, auto_class: Any, tiny_backbone: TinyBackbone, tmp_path: Path
    ) -> None:
        expected, batch = text_model(tiny_backbone("bert"))
        given = auto_class.from_pretrained(tiny_backbone("bert"))
        model = CRForSequenceClassification.from_backbone(given, **HEAD)
        assert model.backbone is given.base_model
        assert not model.training
        assert torch.equal(model.get_features(**batch), expected.get_features(**batch))
        saved_again(model, tmp_path, batch)

    def test_an_encoder(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        expected, batch = text_model(tiny_backbone("t5"))
        model = CRForSequenceClassification.from_backbone(T5EncoderModel.from_pretrained(tiny_backbone("t5")), **HEAD)
        assert torch.equal(model.get_features(**batch), expected.get_features(**batch))
        saved_again(model, tmp_path, batch)
        with pytest.raises(ValueError, match="give a T5EncoderModel"):
            CRForSequenceClassification.from_backbone(T5Model.from_pretrained(tiny_backbone("t5")), **HEAD)

    def test_the_tower_for_images(self, tmp_path: Path) -> None:
        both = AutoModel.from_config(CONFIG_MAPPING["siglip"](**IMAGES["siglip"]))
        model = CRForImageClassification.from_backbone(both, **HEAD)
        saved_again(model, tmp_path, {"pixel_values": torch.randn(2, 3, 16, 16)})

    # peft 0.21 reads a property that transformers 5.23 has renamed.
    @pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
    def test_adapters_of_peft_are_merged(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        plain, batch = text_model(tiny_backbone("bert"))
        config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
        adapted = peft.get_peft_model(AutoModel.from_pretrained(tiny_backbone("bert")), config).eval()
        expected = copy.deepcopy(adapted)(**batch).last_hidden_state
        model = CRForSequenceClassification.from_backbone(adapted, **HEAD)
        torch.testing.assert_close(model.backbone(**batch).last_hidden_state, expected)
        assert not torch.equal(model.get_features(**batch), plain.get_features(**batch))
        saved_again(model, tmp_path, batch)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (nn.Linear(2, 2), "Linear is no backbone: give a model of transformers"),
            (AutoModel.from_config(CONFIG_MAPPING["vit"](**IMAGES["vit"])), "vit reads no text"),
        ],
    )
    def test_what_is_no_backbone_is_one_line(self, given: nn.Module, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CRForSequenceClassification.from_backbone(given, **HEAD)


class TestSentenceTransformers:
    @pytest.mark.parametrize("as_object", [True, False])
    def test_a_dense_module_is_not_lost_without_a_word(
        self, as_object: bool, tiny_backbone: TinyBackbone, tmp_path: Path
    ) -> None:
        library, modules = parts()
        first, pooling = modules.Transformer(str(tiny_backbone("bert"))), modules.Pooling(32, "cls")
        whole = library.SentenceTransformer(modules=[first, pooling, modules.Dense(32, 16)], device="cpu")
        whole.save(str(tmp_path / "library"))
        given = whole if as_object else str(tmp_path / "library")
        with pytest.raises(ValueError, match=r"has a Dense module.*give pooling='mean'"):
            CRForSequenceClassification.from_backbone(given, **HEAD)
        model = CRForSequenceClassification.from_backbone(given, pooling="max", **HEAD)
        assert (model.config.pooling, model.config.in_features) == ("max", 32)

    def test_an_object_gives_its_embeddings(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        library, modules = parts()
        first, pooling = modules.Transformer(str(tiny_backbone("bert"))), modules.Pooling(32, "cls")
        whole = library.SentenceTransformer(modules=[first, pooling], device="cpu").eval()
        expected = torch.tensor(whole.encode(TEXTS))
        model = CRForSequenceClassification.from_backbone(whole, **HEAD)
        batch = AutoTokenizer.from_pretrained(tiny_backbone("bert"))(TEXTS, padding=True, return_tensors="pt")
        torch.testing.assert_close(model.get_features(**batch), expected)
        saved_again(model, tmp_path, batch)

    @pytest.mark.parametrize("as_object", [True, False])
    def test_static_embeddings(self, as_object: bool, tmp_path: Path) -> None:
        library, modules = parts()
        first = modules.StaticEmbedding(build_tokenizer("bert")._tokenizer, embedding_dim=12)
        whole = library.SentenceTransformer(modules=[first], device="cpu")
        whole.save(str(tmp_path / "library"))
        given = whole if as_object else str(tmp_path / "library")
        model = CRForSequenceClassification.from_backbone(given, **HEAD)
        batch = build_tokenizer("bert")(TEXTS, padding=True, add_special_tokens=False, return_tensors="pt")
        torch.testing.assert_close(model.get_features(**batch), torch.tensor(whole.encode(TEXTS)))
        saved_again(model, tmp_path / "saved", batch)


def parts() -> tuple[Any, Any]:
    """The library and its modules."""
    library = pytest.importorskip("sentence_transformers")
    return library, pytest.importorskip("sentence_transformers.sentence_transformer.modules")


def test_a_quantised_backbone_is_not_saved(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model = CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), device_map={"": "cpu"}, **HEAD)
    model.backbone.hf_quantizer = object()  # what transformers sets with a quantization_config
    with pytest.raises(ValueError, match=r"quantised backbone is not saved: .*head_only=True"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_number_of_labels_starts_a_new_readout(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    model, batch = text_model(tiny_backbone("bert"), freeze_backbone=True)
    model.save_pretrained(tmp_path)
    loaded = CRForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded(**batch).logits.shape == (3, 5)
    for name, tensor in model.classifier.state_dict().items():
        if not name.startswith("readout."):
            assert torch.equal(loaded.classifier.state_dict()[name], tensor), name
    assert 0.05 < loaded.classifier.readout.weight.std() < 1
    with pytest.raises(ValueError, match="ignore_mismatched_sizes=True starts it anew"):
        CRForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
