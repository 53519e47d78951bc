"""objectives.py against torch's own losses and brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cr_hf.modeling.objectives import (
    OrderedThresholds,
    ordinal_log_probabilities,
    task_loss,
)

NUM_LABELS = [2, 3, 5, 9]


def random_thresholds(num_labels: int) -> Tensor:
    return torch.randn(num_labels - 1).double().sort().values


class TestOrdinal:
    @pytest.mark.parametrize("num_labels", NUM_LABELS)
    def test_equals_differences_of_sigmoids(self, num_labels: int) -> None:
        score, thresholds = torch.randn(50, 1).double() * 4, random_thresholds(num_labels)
        cumulative = torch.sigmoid(thresholds - score)
        padded = torch.cat([torch.zeros(50, 1), cumulative, torch.ones(50, 1)], dim=-1)
        log_probabilities = ordinal_log_probabilities(score, thresholds)
        torch.testing.assert_close(log_probabilities.exp(), padded.diff(dim=-1), rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("num_labels", NUM_LABELS)
    def test_softmax_gives_the_probabilities_back(self, num_labels: int) -> None:
        logits = ordinal_log_probabilities(torch.randn(50, 1).double() * 10, random_thresholds(num_labels))
        probabilities = logits.softmax(-1)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(50).double(), rtol=0, atol=1e-14)
        torch.testing.assert_close(probabilities, logits.exp(), rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("score", [-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30])
    def test_any_score_is_finite_in_single_precision(self, score: float) -> None:
        module, inputs = OrderedThresholds(5), torch.full((3, 1), score, requires_grad=True)
        logits = ordinal_log_probabilities(inputs, module())
        loss = F.cross_entropy(logits, torch.tensor([0, 2, 4]))
        gradients = torch.autograd.grad(loss, [inputs, *module.parameters()])
        assert all(torch.isfinite(tensor).all() for tensor in (logits, loss, *gradients))
        assert logits.softmax(-1).sum(-1).tolist() == pytest.approx([1.0] * 3)

    def test_far_classes_keep_their_order(self) -> None:
        # Differences of sigmoids would all be zero here.
        logits = ordinal_log_probabilities(torch.tensor([[200.0]]), OrderedThresholds(5)())
        assert (logits.diff() > 0).all()

    def test_gradcheck(self) -> None:
        score = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
        thresholds = random_thresholds(4).requires_grad_()
        assert torch.autograd.gradcheck(ordinal_log_probabilities, (score, thresholds))


class TestOrderedThresholds:
    @pytest.mark.parametrize("num_labels", NUM_LABELS)
    def test_start_gives_every_class_the_same_probability(self, num_labels: int) -> None:
        logits = ordinal_log_probabilities(torch.zeros(1, 1), OrderedThresholds(num_labels)())
        assert logits.exp().tolist()[0] == pytest.approx([1 / num_labels] * num_labels, rel=1e-5)

    @pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
    @pytest.mark.parametrize("num_labels", NUM_LABELS)
    def test_increase_whatever_the_parameters(self, num_labels: int, scale: float) -> None:
        module = OrderedThresholds(num_labels).double()
        for _ in range(20):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=scale)
            assert (module().diff() > 0).all()

    @pytest.mark.parametrize("first", [-1e6, 1e4, 1e6])
    def test_thresholds_that_rounding_has_merged_stay_finite(self, first: float) -> None:
        module = OrderedThresholds(4)
        torch.nn.init.constant_(module.first, first)
        torch.nn.init.constant_(module.gaps, -50.0)
        logits = ordinal_log_probabilities(torch.tensor([[0.0], [first]]), module())
        gradients = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1, 2])), list(module.parameters()))
        assert all(torch.isfinite(tensor).all() for tensor in (logits, *gradients))

    def test_too_few_classes(self) -> None:
        with pytest.raises(ValueError, match=r"num_labels=1 is too few.*2 ordered classes"):
            OrderedThresholds(1)


class TestClassWeights:
    @pytest.mark.parametrize("parts", [1, 2, 4, 8])
    @pytest.mark.parametrize(
        "targets", [(0.1,), (0.0, None, 0.5, 2.0)], ids=["label smoothing", "soft labels and squared EMD"]
    )
    def test_splitting_a_batch_changes_nothing(self, targets: tuple[float | None, ...], parts: int) -> None:
        logits, labels = torch.randn(16, 3).double(), torch.randint(0, 3, (16,))
        arguments = ("single_label_classification", [0.2, 1.9, 0.9], *targets)
        whole = task_loss(logits, labels, *arguments)
        losses = [task_loss(*pair, *arguments) for pair in zip(logits.chunk(parts), labels.chunk(parts), strict=True)]
        torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-13, atol=0)

    def test_weights_the_rows(self) -> None:
        logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 2, 1])
        rows = F.cross_entropy(logits, labels, reduction="none") * torch.tensor([0.5, 3.0, 3.0, 1.0])
        actual = task_loss(logits, labels, "single_label_classification", [0.5, 1.0, 3.0])
        torch.testing.assert_close(actual, rows.mean())


class TestTaskLoss:
    def test_single_label(self) -> None:
        logits, labels = torch.randn(8, 4), torch.randint(0, 4, (8,))
        actual = task_loss(logits, labels, "single_label_classification")
        torch.testing.assert_close(actual, F.cross_entropy(logits, labels))

    @pytest.mark.parametrize("smoothing", [0.05, 0.3])
    def test_label_smoothing(self, smoothing: float) -> None:
        logits, labels = torch.randn(8, 4), torch.randint(0, 4, (8,))
        actual = task_loss(logits, labels, "single_label_classification", label_smoothing=smoothing)
        torch.testing.assert_close(actual, F.cross_entropy(logits, labels, label_smoothing=smoothing))

    @pytest.mark.parametrize("softness", [0.25, 1.0, 40.0])
    def test_soft_labels(self, softness: float) -> None:
        logits, labels = torch.randn(8, 4).double(), torch.randint(0, 4, (8,))
        unscaled = np.exp(-softness * (np.arange(4) - labels.numpy()[:, None]) ** 2)
        targets = torch.from_numpy(unscaled / unscaled.sum(1, keepdims=True))
        weights = [0.5, 1.0, 3.0, 0.1]
        expected = torch.tensor(weights)[labels] * F.cross_entropy(logits, targets, reduction="none")
        actual = task_loss(logits, labels, "single_label_classification", weights, soft_labels=softness)
        torch.testing.assert_close(actual, expected.mean())

    @pytest.mark.parametrize("weight", [0.5, 4.0])
    def test_squared_emd(self, weight: float) -> None:
        logits, labels = torch.randn(8, 4).double(), torch.randint(0, 4, (8,))
        below = np.cumsum(logits.softmax(-1).numpy(), axis=1)
        steps = np.cumsum(np.eye(4)[labels.numpy()], axis=1)
        expected = F.cross_entropy(logits, labels) + weight * np.square(below - steps).sum(1).mean()
        actual = task_loss(logits, labels, "single_label_classification", squared_emd=weight)
        torch.testing.assert_close(actual, expected)

    @pytest.mark.parametrize("scale", [1e4, 1e30])
    def test_extreme_logits_have_finite_gradients(self, scale: float) -> None:
        logits = (torch.eye(4) * scale).requires_grad_()
        loss = task_loss(
            logits, torch.tensor([3, 2, 1, 0]), "single_label_classification", soft_labels=0.5, squared_emd=1.0
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("dtype", [torch.long, torch.float32])
    @pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
    def test_multi_label(self, weights: list[float] | None, dtype: torch.dtype) -> None:
        logits, labels = torch.randn(8, 3), torch.randint(0, 2, (8, 3))
        actual = task_loss(logits, labels.to(dtype), "multi_label_classification", pos_weight=weights)
        factor = None if weights is None else torch.tensor(weights)
        torch.testing.assert_close(
            actual, F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=factor)
        )

    @pytest.mark.parametrize(("width", "shape"), [(1, (8,)), (1, (8, 1)), (3, (8, 3))])
    @pytest.mark.parametrize("dtype", [torch.long, torch.float64])
    def test_regression(self, width: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        logits, labels = torch.randn(8, width), torch.randint(-3, 4, shape)
        actual = task_loss(logits, labels.to(dtype), "regression")
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, F.mse_loss(logits, labels.float().reshape(8, width)))

    @pytest.mark.parametrize(("width", "shape"), [(3, (3,)), (1, (3, 3)), (3, (3, 1)), (1, (2,))])
    def test_regression_never_broadcasts(self, width: int, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"regression labels have shape .* but logits have"):
            task_loss(torch.randn(3, width), torch.randn(shape), "regression")
