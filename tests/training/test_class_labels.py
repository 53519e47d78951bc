"""Class weights and class labels of a training set."""

import math

import pytest
import torch

from cr_hf.training.class_labels import check_class_labels, normalized_class_weights


class TestClassWeights:
    def test_mean_is_one_over_the_training_set(self) -> None:
        counts = [70, 5, 25]
        weights = normalized_class_weights([1.0, 10.0, 3.0], counts)
        assert sum(w * c for w, c in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))
        assert [w / weights[0] for w in weights] == pytest.approx([1.0, 10.0, 3.0])

    @pytest.mark.parametrize(
        ("weights", "counts", "message"),
        [
            ([1.0, 1.0], [1, 2, 3], r"has 2 entries but there are 3 classes"),
            ([1.0, -1.0], [1, 2], r"class_weights=\[1.0, -1.0\] must be finite and 0 or above"),
            ([1.0, math.nan], [1, 2], r"must be finite"),
            ([1.0, 0.0], [0, 5], r"every training row the weight 0"),
        ],
    )
    def test_bad_weights(self, weights: list[float], counts: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            normalized_class_weights(weights, counts)


class TestClassLabels:
    def test_classes_pass(self) -> None:
        check_class_labels(torch.tensor([0, 2, 1, 2]), 3, "ordinal")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 3], r"row 1 .* label 3: objective='ordinal' needs ordered integers from 0 to 2"),
            ([0, 1, -1], r"row 2 .* label -1"),
            ([0.0, 1.0], r"row 0 .* label 0.0"),
        ],
    )
    def test_the_first_bad_row_is_named(self, labels: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_class_labels(torch.tensor(labels), 3, "ordinal")
