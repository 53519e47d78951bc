"""Paired differences of accuracy, against scipy."""

import numpy as np
import pytest
import scipy.stats

from experiments.runner import compare


class TestCompare:
    def test_difference_is_exact_and_the_interval_is_that_of_scipy_with_one_factor(self) -> None:
        """With identical seeds only the rows vary: scipy's percentile bootstrap knows that case."""
        generator = np.random.default_rng(3)
        row_a, row_b = (generator.random(400) < share for share in (0.6, 0.5))
        first, second = (np.tile(row.astype(float), (5, 1)) for row in (row_a, row_b))
        found = compare(first, second)
        assert found["difference"] == pytest.approx(row_a.mean() - row_b.mean())
        assert found["seeds_won"] == 5
        expected = scipy.stats.bootstrap(
            (row_a.astype(float) - row_b,), np.mean, n_resamples=10_000, method="percentile", rng=generator
        ).confidence_interval
        assert found["interval"] == pytest.approx([expected.low, expected.high], abs=0.006)

    def test_seeds_widen_the_interval(self) -> None:
        generator = np.random.default_rng(4)
        rows = (generator.random((6, 300)) < 0.5).astype(float)
        shifted = np.clip(rows + np.repeat([[0.0], [1.0]], 3, axis=0), 0, 1)
        low, high = compare(shifted, rows)["interval"]
        one_low, one_high = compare(np.tile(shifted.mean(0), (6, 1)), np.tile(rows.mean(0), (6, 1)))["interval"]
        assert high - low > 2 * (one_high - one_low)

    def test_no_difference(self) -> None:
        same = np.ones((3, 10))
        assert compare(same, same) == {"difference": 0.0, "interval": [0.0, 0.0], "seeds_won": 0}
