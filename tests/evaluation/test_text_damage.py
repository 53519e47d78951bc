"""Perturbed texts."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from cr_hf.errors import DataError
from cr_hf.evaluation.perturbations import BESIDE, SEVERITIES, TEXT_RATES, perturb_text
from cr_hf.evaluation.statistics import bootstrap_interval
from cr_hf.evaluation.text_damage import check_kinds, robustness_curves, text_robustness

TEXT = "The plot is thin, but Émile's acting carries this long and quiet film to a warm, unforgettable ending."


def test_a_perturbation_is_a_pure_function() -> None:
    state = np.random.get_state()[1].copy()
    arguments = list(product(TEXT_RATES, SEVERITIES, range(3)))
    texts = [perturb_text(TEXT, *chosen) for chosen in arguments]
    assert TEXT not in texts
    assert len(set(texts)) > len(texts) / 2
    script = "from cr_hf.evaluation.perturbations import perturb_text\n"
    script += f"print([perturb_text({TEXT!r}, *chosen) for chosen in {arguments}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(texts), "it depends on the process"
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("kind", TEXT_RATES)
@pytest.mark.parametrize("text", ["", " ", "!", "1 2", "a", "好", "ﬁ ß", "word", "two words", "🙂🙂 ok\n"])
def test_no_text_is_too_small(kind: str, text: str) -> None:
    for severity in SEVERITIES:
        damaged = perturb_text(text, kind, severity)
        assert bool(damaged.strip()) >= (bool(text.strip()) and kind != "typos")


def test_drop_leaves_a_share_of_the_words_in_their_order() -> None:
    words = [f"w{number}" for number in range(40)]
    before = set(words)
    for severity, rate in zip(SEVERITIES, TEXT_RATES["drop"], strict=True):
        left = perturb_text(" ".join(words), "drop", severity).split()
        assert len(left) == 40 - round(40 * rate)
        assert left == [word for word in words if word in left]
        assert set(left) < before, "a higher severity drops what the lower one did"
        before = set(left)
    assert perturb_text("one two", "drop", 5) in ("one", "two")


def test_swap_moves_words_by_one_place() -> None:
    words = [f"w{number}" for number in range(41)]
    for severity, rate in zip(SEVERITIES, TEXT_RATES["swap"], strict=True):
        swapped = perturb_text(" ".join(words), "swap", severity).split()
        assert sorted(swapped) == sorted(words)
        distances = [abs(swapped.index(word) - place) for place, word in enumerate(words)]
        assert set(distances) == {0, 1}
        # Disjoint pairs taken in random order fill at least two thirds of a line.
        assert min(round(41 * rate), 27) <= sum(distances) <= 41 * rate + 2


def test_case_changes_a_share_of_the_letters() -> None:
    for severity, rate in zip(SEVERITIES, TEXT_RATES["case"], strict=True):
        changed = perturb_text(TEXT, "case", severity)
        assert changed.lower() == TEXT.lower()
        letters = sum(character.isalpha() for character in TEXT)
        assert sum(a != b for a, b in zip(TEXT, changed, strict=True)) == int(np.ceil(rate * letters))
    assert perturb_text(TEXT, "case", 5) == TEXT.swapcase()


def edit_distance(first: str, second: str) -> int:
    previous = list(range(len(second) + 1))
    for row, a in enumerate(first, 1):
        current = [row]
        for column, b in enumerate(second, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b)))
        previous = current
    return previous[-1]


def test_typos_are_few_edits_that_grow() -> None:
    letters = sum(character.isalpha() for character in TEXT)
    distances = []
    for severity, rate in zip(SEVERITIES, TEXT_RATES["typos"], strict=True):
        found = [edit_distance(TEXT, perturb_text(TEXT, "typos", severity, seed)) for seed in range(20)]
        count = np.ceil(rate * letters)
        assert max(found) <= 2 * count, "a swap is two edits, every other mistake one"
        assert np.mean(found) > 0.8 * count
        distances.append(np.mean(found))
    assert distances == sorted(distances)
    assert set(BESIDE["g"]) == set("fhtyvb")
    assert set(BESIDE["q"]) == set("wa")


def test_unknown_kinds_and_severities() -> None:
    with pytest.raises(DataError, match="'typo' is unknown \\(did you mean 'typos'"):
        check_kinds(["typo"])
    with pytest.raises(DataError, match="use typos, drop, swap, case"):
        text_robustness(lambda texts, pairs: np.ones(len(texts), bool), ["a"], kinds=["x"])
    for kind, severity in (("typo", 1), ("typos", 6)):
        with pytest.raises(ValueError, match=f"{kind} of severity {severity}"):
            perturb_text("a", kind, severity)


def test_curves_against_hand() -> None:
    clean = np.array([True, True, False, True])
    severities = [
        np.array(row, bool) for row in ([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0])
    ]
    found = robustness_curves(clean, {"a": severities, "b": [clean] * 5})
    assert found["clean_accuracy"] == 0.75
    assert found["kinds"]["a"]["accuracies"] == [0.5, 0.25, 0, 0.25, 0]
    assert found["kinds"]["a"]["mean_accuracy"] == pytest.approx(0.2)
    assert found["mean_accuracy"] == pytest.approx((0.2 + 0.75) / 2)
    change = np.array([2 / 5, 1 / 5, 1 / 5, 0]) - clean
    assert found["kinds"]["a"]["change"] == pytest.approx(change.mean())
    assert found["kinds"]["a"]["change_interval"] == pytest.approx(bootstrap_interval(change))
    assert found["kinds"]["b"]["change_interval"] == [0, 0]


def test_text_robustness_perturbs_both_texts_of_a_pair() -> None:
    seen: list = []

    def is_right(texts: list[str], pairs: list[str] | None) -> np.ndarray:
        seen.append((texts, pairs))
        return np.array([text == TEXT for text in texts])

    found = text_robustness(is_right, [TEXT, "other"], [TEXT, "one"], ["case", "drop"], seed=3)
    assert len(seen) == 1 + 2 * 5
    assert seen[0] == ([TEXT, "other"], [TEXT, "one"])
    for (texts, pairs), severity in zip(seen[6:], SEVERITIES, strict=True):
        assert texts[0] == pairs[0] == perturb_text(TEXT, "drop", severity, 3)
    assert (found["seed"], found["clean_accuracy"], found["mean_accuracy"]) == (3, 0.5, 0)
