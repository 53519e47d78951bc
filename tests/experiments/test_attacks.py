"""Noise and attacks on features."""

import pytest
import torch

from cr_hf import CRConfig
from cr_hf.modeling.head import CRHead
from cr_hf.training import CRTrainingArguments, SweepHead, train_heads
from experiments.attacks import attack_curve, noise_curve, noise_points, pgd_attack


def blobs(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in ten columns of unlike scale, not quite apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    centres = 1.5 * torch.eye(3, 10)
    points = centres[labels] + 0.7 * torch.randn(rows, 10, generator=generator)
    return points * torch.linspace(0.1, 10, 10) + 5, labels


def trained(seed: int = 0, dreg_lambda: float = 0.0, **fields: object) -> CRHead:
    features, labels = blobs(300, 0)
    config = CRConfig(
        in_features=10, num_labels=3, hidden_sizes=[16, 16], dropout=0.0, dreg_lambda=dreg_lambda, **fields
    )
    arguments = CRTrainingArguments(
        use_cpu=True, seed=seed, num_train_epochs=5, per_device_train_batch_size=32, learning_rate=1e-2,
        lr_scheduler_type="cosine", weight_decay=0.1,
    )  # fmt: skip
    result = train_heads(
        features,
        labels,
        [SweepHead(config, arguments)],
        validation_features=features,
        validation_labels=labels,
    )[0]
    return result.head()


HEADS = [
    {"activation": "polynomial"},
    {"activation": "relu"},
    {"activation": "gelu"},
    {"activation": "polynomial", "objective": "ordinal", "ordinal_loss": "cumulative_link"},
]


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
    labels = torch.where(torch.arange(300) < 250, head.trace(points).logits.argmax(-1), labels)
    radius = 0.4
    worst, right, _ = pgd_attack(head, points, labels, norm, radius, steps=50)
    lengths = worst.norm(dim=1) if norm == "l2" else worst.abs().amax(1)
    assert lengths.max() <= radius * (1 + 1e-9)
    assert not (head.trace(points + worst).logits.argmax(-1) == labels)[~right].any()
    logits, weight = head.trace(points).logits, head.readout.weight
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
    right = (head.trace(points).logits.argmax(-1) == labels).double().mean()
    assert found["accuracies"][1] == pytest.approx(float(right))
