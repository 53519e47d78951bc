"""Classifiers on every family of backbones, as users meet them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import LABELS, TEXTS, assert_same_state, text_model
from conftest import TinyBackbone
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from cr_hf import CRForSequenceClassification

FEATURE_LAYERS = ["last", "all", [0, -1]]


class TestEveryBackbone:
    @pytest.mark.parametrize("layers", FEATURE_LAYERS, ids=str)
    def test_every_trainable_parameter_gets_a_gradient(
        self, tiny_backbone: TinyBackbone, family: str, layers: Any
    ) -> None:
        model, batch = text_model(tiny_backbone(family), feature_layers=layers)
        model.train()(**batch, labels=LABELS).loss.backward()
        without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert without == []
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())

    @pytest.mark.parametrize("layers", FEATURE_LAYERS, ids=str)
    def test_save_and_load_give_bit_equal_logits(
        self, tiny_backbone: TinyBackbone, family: str, layers: Any, tmp_path: Path
    ) -> None:
        model, batch = text_model(tiny_backbone(family), feature_layers=layers, freeze_backbone=True)
        model.save_pretrained(tmp_path)
        logits = model(**batch).logits
        for auto_class in (CRForSequenceClassification, AutoModelForSequenceClassification):
            loaded = auto_class.from_pretrained(tmp_path)
            assert not loaded.training
            assert_same_state(loaded, model)
            assert torch.equal(loaded(**batch).logits, logits)

    def test_backbone_is_as_pretrained(self, tiny_backbone: TinyBackbone, family: str) -> None:
        pretrained = AutoModel.from_pretrained(tiny_backbone(family))
        if family == "t5":
            pretrained = pretrained.encoder
        expected = pretrained.state_dict()
        ours = CRForSequenceClassification.from_backbone(tiny_backbone(family)).backbone
        actual = (ours.encoder if family == "t5" else ours).state_dict()
        assert [name for name in expected if name not in actual and "pooler" not in name] == []
        for name, tensor in actual.items():
            assert torch.equal(tensor, expected[name]), name

    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_features_are_the_pooled_hidden_states(
        self, tiny_backbone: TinyBackbone, family: str, pooling: str
    ) -> None:
        folder = tiny_backbone(family)
        model, batch = text_model(folder, feature_layers="all", pooling=pooling, freeze_backbone=True)
        pretrained = AutoModel.from_pretrained(folder)
        pretrained = pretrained.encoder if family == "t5" else pretrained
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            states = pretrained(**inputs, output_hidden_states=True).hidden_states
        assert len(states) == 3
        pools = {
            "cls": lambda t: t[0],
            "mean": lambda t: t.mean(0),
            "max": lambda t: t.amax(0),
            "last": lambda t: t[-1],
        }
        for row, length in enumerate(batch["attention_mask"].sum(1)):
            expected = torch.cat([pools[pooling](state[row, :length]) for state in states])
            torch.testing.assert_close(model.get_features(**batch)[row], expected, rtol=1e-5, atol=1e-6)

    def test_padding_changes_nothing(self, tiny_backbone: TinyBackbone, family: str) -> None:
        folder = tiny_backbone(family)
        model, batch = text_model(folder, feature_layers="all")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        together = model.get_features(**batch)
        for row, text in enumerate(TEXTS):
            alone = model.get_features(**tokenizer(text, return_tensors="pt"))
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)

    def test_embeddings_instead_of_tokens(self, tiny_backbone: TinyBackbone, family: str) -> None:
        model, _ = text_model(tiny_backbone(family))
        ids = AutoTokenizer.from_pretrained(tiny_backbone(family))(TEXTS[2], return_tensors="pt")["input_ids"]
        embeds = model.get_input_embeddings()(ids)
        torch.testing.assert_close(model.get_features(inputs_embeds=embeds), model.get_features(ids))

    @pytest.mark.parametrize("implementation", ["eager", None])
    def test_attention_implementation_reaches_the_backbone(
        self, tiny_backbone: TinyBackbone, family: str, implementation: str | None, tmp_path: Path
    ) -> None:
        default = "eager" if family == "deberta-v2" else "sdpa"
        model, _ = text_model(tiny_backbone(family), attn_implementation=implementation)
        model.save_pretrained(tmp_path)
        loaded = CRForSequenceClassification.from_pretrained(tmp_path, attn_implementation=implementation)
        for one in (model, loaded):
            assert one.backbone.config._attn_implementation == (implementation or default)

    def test_texts_longer_than_the_backbone_reads_are_cut(self, tiny_backbone: TinyBackbone, family: str) -> None:
        model, _ = text_model(tiny_backbone(family))
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone(family))
        tokenizer.model_max_length = int(1e30)  # as a tokenizer says that knows no limit
        logits = model.predict_texts(["good " * 200, "bad"], tokenizer)
        assert torch.isfinite(logits).all()
        assert model.config.max_length_for(tokenizer) == (64 if family != "t5" else 2**31 - 1)

    def test_bfloat16_checkpoint_keeps_the_head_in_single_precision(
        self, tiny_backbone: TinyBackbone, family: str, tmp_path: Path
    ) -> None:
        model, batch = text_model(tiny_backbone(family), dtype=torch.bfloat16, freeze_backbone=True)
        model.save_pretrained(tmp_path)
        for dtype in ("auto", torch.float16, torch.float32):
            loaded = CRForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
            expected = torch.bfloat16 if dtype == "auto" else dtype
            assert loaded.get_input_embeddings().weight.dtype == expected
            assert {parameter.dtype for parameter in loaded.classifier.parameters()} == {torch.float32}
            logits = loaded(**batch).logits
            assert logits.dtype == torch.float32
            assert torch.isfinite(logits).all()
            if dtype == "auto":
                assert torch.equal(logits, model(**batch).logits)


class TestParticularBackbones:
    def test_an_encoder_decoder_gives_its_encoder_alone(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, _ = text_model(tiny_backbone("t5"))
        model.save_pretrained(tmp_path)
        for one in (model, CRForSequenceClassification.from_pretrained(tmp_path)):
            assert type(one.backbone).__name__ == "T5EncoderModel"
            assert not any("decoder" in name for name, _ in one.named_parameters())

    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_a_decoder_reads_left_and_right_padding_alike(self, tiny_backbone: TinyBackbone, pooling: str) -> None:
        features = []
        for side in ("left", "right"):
            model, batch = text_model(tiny_backbone("llama", side), pooling=pooling, feature_layers="all")
            assert bool(batch["attention_mask"][1, 0]) == (side == "right")
            features.append(model.get_features(**batch))
        torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("family", ["bert", "llama"])
    @pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
    def test_a_text_without_attended_tokens_gives_zeros(
        self, tiny_backbone: TinyBackbone, family: str, pooling: str
    ) -> None:
        model, batch = text_model(tiny_backbone(family), pooling=pooling)
        batch["attention_mask"][1] = 0
        features = model.get_features(**batch)
        assert torch.equal(features[1], torch.zeros(32))
        assert features[[0, 2]].abs().sum() > 0

    def test_token_types_are_passed_on_only_where_they_are_known(self, tiny_backbone: TinyBackbone) -> None:
        for family, matters in (("bert", True), ("distilbert", False)):
            model, batch = text_model(tiny_backbone(family))
            types = torch.ones_like(batch["input_ids"])
            changed = not torch.equal(model(**batch, token_type_ids=types).logits, model(**batch).logits)
            assert changed == matters

    def test_attention_mask_defaults_to_every_token(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        ids = batch["input_ids"]
        assert torch.equal(model(ids).logits, model(ids, torch.ones_like(ids)).logits)

    def test_tokens_and_embeddings_exclude_each_other(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        for inputs in ({}, {"input_ids": batch["input_ids"], "inputs_embeds": torch.zeros(3, 4, 32)}):
            with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
                model(**inputs)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_hidden_states_and_attentions_are_those_of_the_backbone(
        self, tiny_backbone: TinyBackbone, side: str
    ) -> None:
        model, batch = text_model(tiny_backbone("bert", side), attn_implementation="eager")
        found = model(**batch, output_attentions=True, output_hidden_states=True)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        expected = model.backbone(**batch, position_ids=positions, output_attentions=True, output_hidden_states=True)
        real = batch["attention_mask"].bool()
        for name in ("hidden_states", "attentions"):
            assert len(found[name]) == len(expected[name])
            for ours, theirs in zip(found[name], expected[name], strict=True):
                rows = real if name == "hidden_states" else real.unsqueeze(1).expand(ours.shape[:3])
                torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-4, atol=1e-5)
        model.config.output_hidden_states = True
        assert len(model(**batch).hidden_states) == 3
        assert model(**batch, output_hidden_states=False).hidden_states is None

    def test_positions_can_be_given(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        positions = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
        assert torch.equal(model(**batch, position_ids=positions).logits, model(**batch).logits)
        assert not torch.equal(model(**batch, position_ids=positions.flip(1)).logits, model(**batch).logits)
        other, batch = text_model(tiny_backbone("t5"))
        with pytest.raises(ValueError, match=r"takes no position_ids: leave them out"):
            other(**batch, position_ids=positions)

    def test_the_backbone_alone_is_what_auto_model_loads(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded).__name__ == "BertModel"
        assert torch.equal(loaded(**batch).last_hidden_state, model.backbone(**batch).last_hidden_state)
        assert type(AutoModel.from_config(model.config)) is type(loaded)

    def test_a_variant_is_saved_and_loaded(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        model.save_pretrained(tmp_path, variant="fp16")
        assert not (tmp_path / "model.safetensors").exists()
        loaded = CRForSequenceClassification.from_pretrained(tmp_path, variant="fp16")
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        with pytest.raises(OSError, match=r"there is no model\.fp32\.safetensors"):
            CRForSequenceClassification.from_pretrained(tmp_path, variant="fp32")

    def test_gradient_checkpointing_gives_the_same_gradients(self, tiny_backbone: TinyBackbone) -> None:
        gradients = []
        for checkpointing in (False, True):
            torch.manual_seed(0)
            model, batch = text_model(tiny_backbone("bert"), dropout=0.0)
            if checkpointing:
                model.activation_checkpointing_enable()
                assert model.backbone.encoder.layer[0].gradient_checkpointing
            torch.manual_seed(1)
            model.train()(**batch, labels=LABELS).loss.backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("family", ["llama", "t5"])
    def test_a_resized_vocabulary_survives_saving(
        self, tiny_backbone: TinyBackbone, family: str, tmp_path: Path
    ) -> None:
        model, batch = text_model(tiny_backbone(family))
        model.resize_token_embeddings(300)
        model.save_pretrained(tmp_path)
        loaded = CRForSequenceClassification.from_pretrained(tmp_path)
        assert loaded.get_input_embeddings().weight.shape == (300, 32)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
