"""The t test for splits whose training rows overlap."""

import numpy as np
import pytest
import scipy.stats

from experiments.pima import corrected_resampled_t


class TestCorrectedResampledT:
    def test_hand_computed(self) -> None:
        differences = [0.02, 0.00, 0.03, 0.01, 0.04, -0.01, 0.02, 0.01, 0.00, 0.03]
        found = corrected_resampled_t(differences, train_rows=90, test_rows=10)
        error = np.sqrt((1 / 10 + 1 / 9) * np.var(differences, ddof=1))
        assert found["t"] == pytest.approx(np.mean(differences) / error)
        assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(found["t"], 9))
        low, high = scipy.stats.t.interval(0.95, 9, np.mean(differences), error)
        assert (found["interval_low"], found["interval_high"]) == pytest.approx((low, high))

    def test_with_endless_training_rows_it_is_the_plain_test(self) -> None:
        differences = np.random.default_rng(1).normal(0.1, 1, 30)
        plain = scipy.stats.ttest_1samp(differences, 0)
        assert corrected_resampled_t(differences, 10**12, 1)["p"] == pytest.approx(plain.pvalue)

    def test_refuses_too_little(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(1,\)"):
            corrected_resampled_t([0.1], 10, 10)
