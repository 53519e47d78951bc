"""Perturbed texts, noise and attacks on features."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch

from cr_hf import CRConfig
from cr_hf.errors import DataError
from cr_hf.evaluation.metrics import bootstrap_interval
from cr_hf.evaluation.text_damage import (
    BESIDE,
    SEVERITIES,
    TEXT_RATES,
    attack_curve,
    noise_curve,
    noise_points,
    normalised_logits,
    perturb_text,
    pgd_attack,
    robustness_curves,
    text_robustness,
)
from cr_hf.modeling.head import CRHead
from cr_hf.training.sweep import HeadSpec, SweepArguments, train_heads

TEXT = "The plot is thin, but Émile's acting carries this long and quiet film to a warm, unforgettable ending."


def test_a_perturbation_is_a_pure_function() -> None:
    state = np.random.get_state()[1].copy()
    arguments = list(product(TEXT_RATES, SEVERITIES, range(3)))
    texts = [perturb_text(TEXT, *chosen) for chosen in arguments]
    assert TEXT not in texts
    assert len(set(texts)) > len(texts) / 2
    script = "from cr_hf.evaluation.text_damage import perturb_text\n"
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
        perturb_text("a", "typo", 1)
    with pytest.raises(DataError, match="use typos, drop, swap, case"):
        text_robustness(lambda texts, pairs: np.ones(len(texts), bool), ["a"], kinds=["x"])
    with pytest.raises(ValueError, match="severity=6"):
        perturb_text("a", "typos", 6)


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


def blobs(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in ten columns of unlike scale, not quite apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    centres = 1.5 * torch.eye(3, 10)
    points = centres[labels] + 0.7 * torch.randn(rows, 10, generator=generator)
    return points * torch.linspace(0.1, 10, 10) + 5, labels


def trained(seed: int = 0, dreg_lambda: float = 0.0, **fields: object) -> CRHead:
    features, labels = blobs(300, 0)
    config = CRConfig(in_features=10, num_labels=3, hidden_sizes=[16, 16], **fields)
    result = train_heads(
        features,
        labels,
        [HeadSpec(seed=seed, learning_rate=1e-2, dropout=0.0, dreg_lambda=dreg_lambda)],
        config,
        SweepArguments(num_train_epochs=5, batch_size=32),
        validation_features=features,
        validation_labels=labels,
    )[0]
    return result.head()


HEADS = [
    {"activation": "polynomial"},
    {"activation": "relu"},
    {"activation": "gelu"},
    {"activation": "polynomial", "objective": "ordinal"},
]


@pytest.mark.parametrize("fields", HEADS)
def test_normalised_logits_are_the_heads(fields: dict) -> None:
    head = trained(**fields)
    features, _ = blobs(50, 1)
    logits = normalised_logits(head, head.feature_norm(features))
    torch.testing.assert_close(logits, head(features)[0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("fields", HEADS)
def test_attack_is_never_weaker_than_noise_and_a_huge_radius_leaves_nothing(fields: dict, norm: str) -> None:
    head = trained(**fields)
    features, labels = blobs(200, 1)
    radii = [0.0, 0.1, 0.3, 1.0, 3.0, 1000.0]
    found = attack_curve(head, features, labels, norm, radii, steps=10, restarts=2)
    clean = float((head(features)[0].argmax(-1) == labels).double().mean())
    attack, noise = found["attack_accuracies"], found["noise_accuracies"]
    assert attack[0] == noise[0] == clean
    assert attack == sorted(attack, reverse=True)
    assert all(a <= n for a, n in zip(attack, noise, strict=True))
    assert attack[2] < noise[2], "gradients find more than chance"
    assert attack[-1] == 0
    assert "transfer_accuracies" not in found


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_attack_stays_in_the_ball_and_finds_the_optimum_of_a_linear_head(norm: str) -> None:
    """The nearest boundary of a linear head has a closed form, by the dual norm."""
    torch.manual_seed(0)
    head = CRHead(CRConfig(in_features=6, num_labels=3, hidden_sizes=[])).double().eval()
    points, labels = torch.randn(300, 6, dtype=torch.float64), torch.arange(300) % 3
    labels = torch.where(torch.arange(300) < 250, normalised_logits(head, points).argmax(-1), labels)
    radius = 0.4
    worst, right, _ = pgd_attack(head, points, labels, norm, radius, steps=50)
    lengths = worst.norm(dim=1) if norm == "l2" else worst.abs().amax(1)
    assert lengths.max() <= radius * (1 + 1e-9)
    assert not (normalised_logits(head, points + worst).argmax(-1) == labels)[~right].any()
    logits, weight = normalised_logits(head, points), head.readout.weight
    margins = logits.gather(1, labels[:, None]) - logits
    slopes = (weight[labels][:, None] - weight).norm(p=2 if norm == "l2" else 1, dim=-1)
    safe = ((margins > radius * slopes) | (torch.arange(3) == labels[:, None])).all(1)
    assert 0.2 < safe.double().mean() < 0.8
    assert torch.equal(right, safe)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_noise_points_have_the_length_asked_for(norm: str) -> None:
    like = torch.zeros(5, 7, dtype=torch.float64)
    points = noise_points(like, norm, 0.5, 3, seed=1)
    assert points.shape == (3, 5, 7)
    lengths = points.norm(dim=-1) if norm == "l2" else points.abs()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.5))
    assert torch.equal(points, noise_points(like, norm, 0.5, 3, seed=1))
    assert not torch.equal(points, noise_points(like, norm, 0.5, 3, seed=2))
    with pytest.raises(ValueError, match="norm='l1'"):
        noise_points(like, "l1", 1.0, 1)


def test_transfer_attack_hurts_more_than_noise_and_less_than_ones_own() -> None:
    features, labels = blobs(300, 1)
    head, other = trained(), trained(seed=1, activation="relu")
    found = attack_curve(head, features, labels, "l2", [0.7], source=other)
    assert found["attack_accuracies"][0] < found["transfer_accuracies"][0] < found["noise_accuracies"][0]
    itself = attack_curve(head, features, labels, "l2", [0.7], source=head)
    assert itself["transfer_accuracies"] == itself["attack_accuracies"]
    assert found == attack_curve(head, features, labels, "l2", [0.7], source=other)
    with pytest.raises(ValueError, match="ascending"):
        attack_curve(head, features, labels, "l2", [1.0, 0.5])


def test_noise_curve() -> None:
    features, labels = blobs(300, 1)
    head = trained()
    found = noise_curve(head, features, labels, [0.0, 0.5, 50.0], draws=4, seed=2)
    assert found["accuracies"][0] == found["clean_accuracy"]
    assert found["accuracies"][0] > found["accuracies"][1] > found["accuracies"][2] > 0.2
    generator = torch.Generator().manual_seed(2)
    noise = [torch.randn(300, 10, generator=generator, dtype=torch.float64).float() for _ in range(4)]
    points = head.feature_norm(features) + 0.5 * torch.stack(noise)
    right = (normalised_logits(head, points).argmax(-1) == labels).double().mean()
    assert found["accuracies"][1] == pytest.approx(float(right))
