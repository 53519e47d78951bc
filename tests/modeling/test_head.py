"""The head by its mathematics: loss, DREG and precision."""

from typing import Any

import pytest
import torch
from classifiers import LABELS, feature_model, text_model
from conftest import TinyBackbone
from torch import Tensor
from torch.func import jacrev
from torch.nn import functional as F

from cr_hf import CRForFeatureClassification
from cr_hf.modeling.activations import ACTIVATIONS
from cr_hf.modeling.configuration_cr import SQUARED_EMD_WEIGHT
from cr_hf.modeling.dreg import network_dreg
from cr_hf.modeling.objectives import task_loss

SINGLE = "single_label_classification"


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
            (
                {"objective": "ordinal", "ordinal_loss": "cumulative_link"},
                LABELS,
                lambda z, y: -z[torch.arange(3), y].mean(),
            ),
            ({"objective": "ordinal"}, LABELS, lambda z, y: task_loss(z, y, SINGLE, squared_emd=SQUARED_EMD_WEIGHT)),
            ({"num_labels": 1}, torch.randn(3), lambda z, y: F.mse_loss(z.squeeze(-1), y)),
            ({"problem_type": "regression"}, torch.randn(3, 3), F.mse_loss),
            (
                {"problem_type": "multi_label_classification", "pos_weight": [1.0, 2.0, 3.0]},
                torch.eye(3),
                lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor([1.0, 2.0, 3.0])),
            ),
        ],
        ids=[
            "class_weights",
            "label_smoothing",
            "cumulative link",
            "ordinal",
            "regression",
            "regression of three",
            "multi_label",
        ],
    )
    def test_every_kind_of_problem(self, fields: dict[str, Any], labels: Tensor, expected: Any) -> None:
        output = feature_model(**fields)(torch.randn(3, 16), labels=labels)
        torch.testing.assert_close(output.loss, expected(output.logits, labels))

    def test_logits_of_a_cumulative_link_are_log_probabilities(self) -> None:
        logits = feature_model(objective="ordinal", ordinal_loss="cumulative_link", num_labels=5)(
            torch.randn(9, 16) * 10
        ).logits
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

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_worst_is_that_of_the_steepest_input_there_could_be(self, activation: str) -> None:
        fields = {"activation": activation, "polynomial_range": 1.5, "hidden_sizes": [6]}
        torch.manual_seed(0)
        worst, mean = (feature_model(dreg_mode=mode, **fields).double().eval() for mode in ("worst", "layer"))
        mean.load_state_dict(worst.state_dict())
        found = worst(torch.randn(1, 16), output_dreg=True).dreg.detach()
        rows = torch.randn(500, 16) * torch.logspace(-2, 3, 500).unsqueeze(-1)
        assert all((mean(row.unsqueeze(0), output_dreg=True).dreg <= found * (1 + 1e-9)).all() for row in rows)
        assert torch.equal(worst(rows, output_dreg=True).dreg, found)
        # Unit by unit the bound is reached somewhere.
        layer = worst.classifier.layers[0]
        z = torch.linspace(-8, 8, 16_001).double().unsqueeze(-1).expand(-1, 6)
        reached = layer.activate(z)[1].square().amax(0) * layer.linear.weight.square().sum(1)
        assert float(found[0]) == pytest.approx(reached.sum().item(), rel=1e-5)
        assert float(found[1]) == pytest.approx(float(worst.classifier.readout.weight.square().sum()), rel=1e-12)

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
        torch.testing.assert_close(dreg, network_dreg([None], [model.classifier.readout.weight]))


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
