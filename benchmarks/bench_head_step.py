"""A training step of the head, optimizer included, at 768-256-256-5 and batch 256: CR with DREG against its peers.

The peers are what people use for the same end: a GELU MLP, and that MLP with an input-gradient penalty or with the
one-projection Jacobian regulariser (arXiv 1908.02729), both by double backward, which does not compile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import by_threads, in_turn, options, publish, ratio
from torch import Tensor, nn
from torch.nn import functional as F

from cr_hf import CRConfig, CRForFeatureClassification

IN_FEATURES, HIDDEN, LABELS, BATCH, DROPOUT = 768, 256, 5, 256, 0.1


def cr_head(features: Tensor) -> nn.Module:
    """Our head, standardisation included."""
    config = CRConfig(in_features=IN_FEATURES, num_labels=LABELS, hidden_sizes=[HIDDEN, HIDDEN], dropout=DROPOUT)
    model = CRForFeatureClassification(config)
    model.fit_feature_norm(features)
    return model.to(features.device).train()


def mlp() -> nn.Module:
    """The ordinary head."""
    return nn.Sequential(
        nn.Linear(IN_FEATURES, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, LABELS),
    )  # fmt: skip


def input_gradient_loss(model: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and the squared norm of its gradient by the input."""
    leaf = features.clone().requires_grad_()
    loss = F.cross_entropy(model(leaf), labels)
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    return loss + 0.1 * gradient.square().sum()


def one_projection_loss(model: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and the squared norm of one random projection of the Jacobian."""
    leaf = features.clone().requires_grad_()
    logits = model(leaf)
    direction = F.normalize(torch.randn_like(logits), dim=1)
    (projected,) = torch.autograd.grad((logits * direction).sum(), leaf, create_graph=True)
    return F.cross_entropy(logits, labels) + 0.1 * projected.square().sum() / len(features)


def step_of(model: nn.Module, loss_of: Callable[[nn.Module], Tensor], compiled: bool = False) -> Callable[[], None]:
    """Forward, backward and AdamW as the Trainer takes it by default (fused)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_function = torch.compile(loss_of) if compiled else loss_of

    def step() -> None:
        loss_function(model).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step


PAIRS = (
    ("CR + DREG / GELU MLP, both compiled", "cr compiled", "mlp compiled", 1.10),
    ("CR + DREG / GELU MLP, both eager", "cr", "mlp", 1.5),
    ("CR + DREG eager / input-gradient penalty", "cr", "gradient", 0.65),
    ("CR + DREG compiled / input-gradient penalty", "cr compiled", "gradient", 0.50),
    ("CR + DREG eager / one-projection Jacobian", "cr", "projection", 0.65),
    ("CR + DREG compiled / one-projection Jacobian", "cr compiled", "projection", 0.55),
)


def measure() -> list[dict]:
    """Every pair."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = torch.randn(BATCH, IN_FEATURES, device=device)
    labels = torch.randint(0, LABELS, (BATCH,), device=device)

    def cr_loss(model: nn.Module) -> Tensor:
        return model(features=features, labels=labels).loss

    def mlp_loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(features), labels)

    work = {
        "cr": step_of(cr_head(features), cr_loss),
        "mlp": step_of(mlp().to(device), mlp_loss),
        "cr compiled": step_of(cr_head(features), cr_loss, compiled=True),
        "mlp compiled": step_of(mlp().to(device), mlp_loss, compiled=True),
        "gradient": step_of(mlp().to(device), lambda model: input_gradient_loss(model, features, labels)),
        "projection": step_of(mlp().to(device), lambda model: one_projection_loss(model, features, labels)),
    }
    seconds = in_turn(work, rounds=60, repeat=5, warm_up=5)
    return [ratio(name, seconds[ours], seconds[peer], goal) for name, ours, peer, goal in PAIRS]


def main() -> None:
    """Measure with one thread and with all, and publish."""
    options(__doc__)
    publish("head_step", by_threads(measure))


if __name__ == "__main__":
    main()
