"""Comparisons: against scipy, statsmodels and brute force, and how often they are wrong when nothing differs."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from cr_hf.errors import RecipeError
from cr_hf.evaluation.statistics import (
    Comparison,
    bonferroni,
    compare_all,
    crossed_bootstrap,
    declare,
    holm,
    least_wilcoxon_p,
    paired_tests,
)

HEADS = ["linear", "mlp-relu", "mlp-gelu", "cr", "cr+dreg", "gelu+dreg"]


class TestCompare:
    def test_crossed_bootstrap_is_that_of_every_resample(self) -> None:
        """Two seeds and three rows have 4 x 27 resamples: enumerate them all."""
        values = np.array([[0.0, 1.0, 3.0], [2.0, 5.0, -4.0]])
        means = [
            values[np.ix_(seeds, rows)].mean()
            for seeds in product(range(2), repeat=2)
            for rows in product(range(3), repeat=3)
        ]
        found = crossed_bootstrap([values, -values], (0.5, 0.9), resamples=10_000)
        for level, confidence in enumerate((0.5, 0.9)):
            expected = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
            assert found[0, level] == pytest.approx(expected, abs=0.17)
            assert found[1, level] == pytest.approx(-expected[::-1], abs=0.17)


class TestPairedTests:
    def test_agree_with_scipy(self) -> None:
        first, second = np.random.default_rng(0).normal([[0.3], [0.0]], 1, size=(2, 20))
        found = paired_tests(first - second)
        assert found["t_p"] == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, rel=1e-12)
        assert found["wilcoxon_p"] == pytest.approx(scipy.stats.wilcoxon(first, second).pvalue, rel=1e-12)
        t = scipy.stats.ttest_rel(first, second).statistic
        assert found["cohens_d_z"] == pytest.approx(t / np.sqrt(20))
        assert found["seeds_won"] + found["seeds_lost"] == 20

    def test_wilcoxon_of_few_seeds_is_that_of_every_sign(self) -> None:
        differences = np.array([0.1, 0.2, -0.3, 0.4, 0.5])
        ranks = scipy.stats.rankdata(abs(differences))
        sums = [ranks[np.array(signs) > 0].sum() for signs in product((-1, 1), repeat=5)]
        seen = ranks[differences > 0].sum()
        p = 2 * min(np.mean([value <= seen for value in sums]), np.mean([value >= seen for value in sums]))
        assert paired_tests(differences)["wilcoxon_p"] == pytest.approx(p)

    def test_least_wilcoxon_p_is_reached_and_is_above_a_twentieth_with_five_seeds(self) -> None:
        for seeds in (5, 6, 10):
            assert paired_tests(np.arange(1.0, seeds + 1))["wilcoxon_p"] == pytest.approx(least_wilcoxon_p(seeds))
        assert least_wilcoxon_p(5) > 0.06

    def test_nothing_differs_or_all_differ_alike(self) -> None:
        assert paired_tests(np.zeros(4))["t_p"] == 1
        constant = paired_tests(np.full(4, 0.25))
        assert np.isnan(constant["t_p"])
        assert np.isnan(constant["cohens_d_z"])

    def test_what_is_undefined_is_not_claimed_and_changes_no_other(self) -> None:
        """Two estimators without chance differ by the same amount whatever the seed."""
        generator = np.random.default_rng(0)
        alike, unlike = np.ones((5, 400)), generator.normal(0.1, 1, (5, 400))
        first, second = compare_all([alike, unlike], resamples=200)
        assert not first.claimed
        assert np.isnan([first.t_p, first.t_p_holm, first.t_p_bonferroni]).all()
        assert second.t_p_holm == second.t_p_bonferroni == 2 * second.t_p


@pytest.mark.parametrize("seed", range(5))
def test_corrections_agree_with_statsmodels(seed: int) -> None:
    p_values = np.random.default_rng(seed).random(12) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert bonferroni(p_values.tolist()) == pytest.approx(multipletests(p_values, method="bonferroni")[1])


class TestCompareAll:
    def test_a_clear_difference_is_claimed_and_none_is_not(self) -> None:
        generator = np.random.default_rng(2)
        hits = [(generator.random((10, 400)) < share).astype(float) for share in (0.6, 0.5, 0.5)]
        clear, none = compare_all([hits[0] - hits[1], hits[1] - hits[2]], resamples=2000)
        assert clear.claimed
        assert not none.claimed
        assert clear.corrected_interval[0] < clear.interval[0] < clear.difference
        assert clear.t_p_bonferroni == pytest.approx(2 * clear.t_p)

    def test_seeds_alone_do_not_make_a_claim(self) -> None:
        """Every seed wins by the same row: the t test is sure, the test rows are not."""
        difference = np.zeros((20, 100))
        difference[:, 0] = 1
        difference[::2, 1] = -1
        (found,) = compare_all([difference], resamples=2000)
        assert found.t_p_holm < 0.05
        assert not found.claimed

    @pytest.mark.slow
    def test_claims_are_rarely_wrong_when_nothing_differs(self) -> None:
        generator = np.random.default_rng(5)
        wrong = 0
        for _ in range(15):
            easy = generator.random(200)
            hits = [(generator.random((8, 200)) < easy).astype(float) for _ in range(4)]
            wrong += any(found.claimed for found in compare_all([one - hits[0] for one in hits[1:]], 500))
        assert wrong <= 2


class TestDeclare:
    def test_by_default_against_one_reference(self) -> None:
        found = declare(None, HEADS)
        assert [comparison.head for comparison in found] == ["linear", "mlp-relu", "cr", "cr+dreg", "gelu+dreg"]
        assert {comparison.reference for comparison in found} == {"mlp-gelu"}
        assert declare(None, ["linear", "cr"]) == (Comparison("cr", "linear"),)

    def test_as_given(self) -> None:
        assert declare("cr+dreg:cr, cr:linear", HEADS) == (Comparison("cr+dreg", "cr"), Comparison("cr", "linear"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (",".join(f"{head}:linear" for head in HEADS), "6 are given: declare at most 5"),
            ("cr", "'cr' is not HEAD:REFERENCE"),
            ("cr:cr", "'cr:cr' is not HEAD:REFERENCE with two different"),
            ("cr:linearr", r"'linearr' is not in the study \(did you mean 'linear'\?\)"),
            ("cr:linear,cr:linear", "given twice"),
        ],
    )
    def test_refusals(self, text: str, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            declare(text, HEADS)
