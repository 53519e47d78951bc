"""The models under torch.compile."""

from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import LABELS, feature_model, text_model
from conftest import TinyBackbone
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cr_hf import CRForFeatureClassification
from cr_hf.modeling.pretrained import CRPreTrainedModel


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
            {"objective": "ordinal"},
            {"objective": "ordinal", "ordinal_loss": "cumulative_link", "class_weights": [1.0, 0.5, 2.0]},
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
