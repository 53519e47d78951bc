"""From texts to batches."""

import pytest

from cr_hf.modeling.texts import token_batches


class TestTokenBatches:
    @pytest.mark.parametrize("budget", [1, 7, 40, 10_000])
    def test_every_row_once_within_the_budget(self, budget: int) -> None:
        lengths = [3, 9, 1, 0, 12, 3, 3, 8]
        batches = list(token_batches(lengths, budget))
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
        longest = [lengths[row] for batch in batches for row in batch]
        assert longest == sorted(lengths, reverse=True)

    def test_no_rows(self) -> None:
        assert list(token_batches([], 8)) == []
