"""The penalties that DREG is measured against: a step against CRHead and torch's own modules, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.modeling.head import CRHead
from cr_hf.modeling.objectives import task_loss
from cr_hf.study.penalties import PENALTIES, DoubleBackwardGroup, JacobianGroup
from cr_hf.training.arguments import CRTrainingArguments
from cr_hf.training.sweep import HeadGroup, HeadResult, predict_heads, train_heads
from cr_hf.training.sweep_head import SweepHead

WIDTH, LABELS, ROWS = 6, 3, 40
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(ROWS, WIDTH, generator=GENERATOR, dtype=torch.float64)
CLASSES = torch.randint(LABELS, (ROWS,), generator=GENERATOR)
GRADIENT_PENALTIES = [name for name, group in PENALTIES.items() if issubclass(group, DoubleBackwardGroup)]
CONFIG = CRConfig(
    in_features=WIDTH, num_labels=LABELS, hidden_sizes=(5, 4), activation="gelu", dropout=0.0, dreg_lambda=0.0
)


def train(group_type: type[HeadGroup], *heads: SweepHead) -> list[HeadResult]:
    return train_heads(
        FEATURES, CLASSES, heads, validation_features=FEATURES, validation_labels=CLASSES, dtype=torch.float64,
        group_type=group_type,
    )  # fmt: skip


def spec(seed: int = 0, weight: float = 0.0, epochs: int = 2) -> SweepHead:
    arguments = CRTrainingArguments(
        use_cpu=True, seed=seed, num_train_epochs=epochs, per_device_train_batch_size=10, learning_rate=1e-2,
        weight_decay=0.1, lr_scheduler_type="cosine",
    )  # fmt: skip
    return SweepHead(CONFIG, arguments, penalty_weight=weight)


def captured(
    monkeypatch: pytest.MonkeyPatch, group_type: type[HeadGroup], *specs: SweepHead
) -> tuple[Tensor, HeadGroup]:
    """The losses of the first step, shape (K,), on all rows in their order, and the group."""
    seen: list[tuple[Tensor, HeadGroup]] = []
    monkeypatch.setattr(group_type, "update", lambda group, losses: seen.append((losses, group)))
    monkeypatch.setattr(group_type, "train_epoch", lambda group, epoch: group.train_step(*rows_of(group)))
    train(group_type, *specs)
    return seen[0]


def rows_of(group: HeadGroup) -> tuple[Tensor, Tensor]:
    return group.rows.batch(torch.arange(ROWS).unsqueeze(0))[:2]


def head_of(group: HeadGroup, index: int) -> CRHead:
    head = CRHead(CONFIG).double()
    own = {name: values[index].detach() for name, values in group.leaves.items()}
    fitted = {"feature_norm.mean": torch.zeros(WIDTH), "feature_norm.scale": torch.ones(WIDTH)}
    head.load_state_dict({**own, **fitted, "feature_norm.fitted": torch.ones((), dtype=torch.int64)})
    return head.eval()


def test_input_gradient_penalty_is_the_gradient_of_each_rows_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, group = captured(monkeypatch, PENALTIES["input_gradient"], spec(0, 0.7), spec(1, 2.0))
    features, labels = (rows[0] for rows in rows_of(group))
    for index, coefficient in enumerate((0.7, 2.0)):
        head, squares = head_of(group, index), []
        for row, label in zip(features, labels, strict=True):
            leaf = row.clone().requires_grad_()
            loss = F.cross_entropy(head(leaf.unsqueeze(0))[0], label.unsqueeze(0))
            squares.append(torch.autograd.grad(loss, leaf)[0].square().sum())
        expected = F.cross_entropy(head(features)[0], labels) + coefficient * torch.stack(squares).mean()
        torch.testing.assert_close(losses[index], expected, rtol=1e-10, atol=0)


def test_jacobian_penalty_estimates_the_squared_norm_of_the_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    _, group = captured(monkeypatch, JacobianGroup, spec(0, 1.0))
    monkeypatch.undo()
    features, labels = rows_of(group)
    head = head_of(group, 0)
    exact = torch.stack([
        torch.autograd.functional.jacobian(lambda one: head(one.unsqueeze(0))[0][0], row).square().sum()
        for row in features[0]
    ]).mean()  # fmt: skip
    plain = task_loss(head(features[0])[0], labels[0], CONFIG)
    drawn: list[Tensor] = []
    monkeypatch.setattr(JacobianGroup, "update", lambda group, losses: drawn.append(losses.detach()))
    for _ in range(400):
        group.train_step(features, labels)
    estimates = torch.cat(drawn) - plain.detach()
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - exact) < 4 * error
    assert error < 0.05 * exact


def test_spectral_norm_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = train(PENALTIES["spectral_norm"], spec(epochs=30))
    weights = {name: values for name, values in result.state.items() if name.endswith(".weight")}
    assert len(weights) == 3
    for weight in weights.values():
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-3)
    losses, group = captured(monkeypatch, PENALTIES["spectral_norm"], spec())
    features, labels = (rows[0] for rows in rows_of(group))
    head = head_of(group, 0)
    layers = [(layer.linear, layer) for layer in head.layers] + [(head.readout, None)]
    hidden = features
    for linear, layer in layers:
        torch.manual_seed(0)
        nn.utils.parametrizations.spectral_norm(linear.train())
        hidden = linear(hidden) if layer is None else F.gelu(linear(hidden))
    torch.testing.assert_close(losses[0], F.cross_entropy(hidden, labels), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_without_strength_the_heads_are_those_of_a_sweep(name: str) -> None:
    ours, plain = train(PENALTIES[name], spec(3)), train(HeadGroup, spec(3))
    torch.testing.assert_close(predict_heads(ours, FEATURES), predict_heads(plain, FEATURES), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_head_does_not_depend_on_those_beside_it(name: str) -> None:
    together = train(PENALTIES[name], spec(0, 0.5), spec(1, 2.0))
    for index, (seed, coefficient) in enumerate(((0, 0.5), (1, 2.0))):
        alone = train(PENALTIES[name], spec(seed, coefficient))
        torch.testing.assert_close(
            predict_heads(together, FEATURES)[index], predict_heads(alone, FEATURES)[0], rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("name", GRADIENT_PENALTIES)
def test_the_penalty_lowers_what_it_measures(name: str) -> None:
    free, held = (train(PENALTIES[name], spec(0, coefficient, 40))[0] for coefficient in (0.0, 5.0))

    def slope(result: HeadResult) -> float:
        head = result.head()
        jacobians = torch.stack([
            torch.autograd.functional.jacobian(lambda one: head(one.unsqueeze(0))[0][0], row) for row in FEATURES
        ])  # fmt: skip
        return float(jacobians.square().sum())

    assert slope(held) < 0.3 * slope(free)
