"""How accuracy falls under noise on the features and under attacks on them.

Both move the normalised features, where one unit is one standard deviation of the training rows, and both are seeded.
The attack starts from the noise points too, so it is never weaker than noise. foolbox's PGD finds no more errors
on the heads of the tests, and keeps neither the noise points nor the worst point on the way, which a transfer needs;
torchattacks clips to images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cr_hf.modeling import CRHead

NORMS = ("l2", "linf")


@torch.no_grad()
def noise_curve(
    head: CRHead,
    features: Tensor,
    labels: Tensor,
    deviations: Sequence[float] = (0.1, 0.25, 0.5, 1.0, 2.0),
    draws: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy under Gaussian noise on the normalised features, a mean over several draws for each row.

    The features are raw, and the deviations of the noise are in standard deviations of a feature.
    """
    normalised = head.feature_norm(features.to(head.readout.weight.dtype))
    generator = torch.Generator().manual_seed(seed)
    noises = [_normal(normalised, generator) for _ in range(draws)]

    def accuracy(points: Tensor) -> float:
        return float((head.trace(points).logits.argmax(-1) == labels).double().mean())

    return {
        "rows": len(labels),
        "draws": draws,
        "seed": seed,
        "clean_accuracy": accuracy(normalised),
        "deviations": list(deviations),
        "accuracies": [
            sum(accuracy(normalised + deviation * noise) for noise in noises) / draws for deviation in deviations
        ],
    }


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def noise_points(normalised: Tensor, norm: str, radius: float, draws: int, seed: int = 0) -> Tensor:
    """Random displacements of rows (rows, in_features) by the length `radius`, shape (draws, rows, in_features).

    By `"l2"` they are uniform on the sphere; by `"linf"` random corners of the cube, the far end of the noise.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown: use one of {', '.join(NORMS)}")
    generator = torch.Generator().manual_seed(seed)
    return radius * torch.stack([_direction(_normal(normalised, generator), norm) for _ in range(draws)])


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """The unit step that a gradient asks for, row by row; zero where it is zero."""
    if norm == "linf":
        return gradient.sign()
    return gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)


def _project(displacement: Tensor, norm: str, radius: float) -> Tensor:
    if norm == "linf":
        return displacement.clamp(-radius, radius)
    length = displacement.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(displacement.dtype).tiny)
    return displacement * (radius / length).clamp_max(1)


def pgd_attack(
    head: CRHead,
    normalised: Tensor,
    labels: Tensor,
    norm: str,
    radius: float,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Projected gradient ascent of the margin (the best wrong logit minus the right one), the best of all points seen.

    It starts once from the row itself and `restarts` times from `noise_points`. The step falls from the radius to 0
    along a cosine, so that it first crosses the ball and then settles.

    Args:
        head: in evaluation mode.
        normalised: features after `feature_norm`, shape (rows, in_features).
        labels: classes, shape (rows,).
        norm: `"l2"` or `"linf"`.
        radius: of the ball around each row, in standard deviations of a feature.
        steps: of each start.
        restarts: starts beside the row itself.
        seed: of the noise points.

    Returns:
        The worst displacement found, shape (rows, in_features); whether a row is right at every point seen, shape
        (rows,); and whether it is right at each noise point, shape (restarts, rows).

    Source: Madry et al. (2018); margin loss of Carlini and Wagner (2017).
    """
    noises = noise_points(normalised, norm, radius, restarts, seed)
    worst = torch.zeros_like(normalised)
    worst_margin = normalised.new_full(labels.shape, -torch.inf)
    right = torch.ones_like(labels, dtype=torch.bool)
    right_under_noise = []
    for start in [torch.zeros_like(normalised), *noises]:
        displacement = start
        for step in range(steps + 1):
            displacement = displacement.detach().requires_grad_()
            logits = head.trace(normalised.detach() + displacement).logits
            true = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            other = logits.scatter(-1, labels.unsqueeze(-1), -torch.inf).amax(-1)
            margin = other - true
            with torch.no_grad():
                hit = logits.argmax(-1) == labels
                right &= hit
                better = margin > worst_margin
                worst_margin = torch.where(better, margin, worst_margin)
                worst = torch.where(better.unsqueeze(-1), displacement, worst)
                if step == 0:
                    right_under_noise.append(hit)
            if step < steps:
                (gradient,) = torch.autograd.grad(margin.sum(), displacement)
                length = radius * 0.5 * (1 + math.cos(math.pi * step / steps))
                displacement = _project(displacement + length * _direction(gradient, norm), norm, radius)
    return worst, right, torch.stack(right_under_noise)[1:]


def attack_curve(
    head: CRHead,
    features: Tensor,
    labels: Tensor,
    norm: str,
    radii: Sequence[float],
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    source: CRHead | None = None,
    batch_size: int = 1024,
) -> dict[str, Any]:
    """Accuracy at noise points and under attack, by radius, and of the worst points of another head (a transfer).

    A row that fell at a smaller radius has fallen at a larger one. The arguments are those of `pgd_attack`, but that
    the features are raw.

    Args:
        radii: in ascending order.
        source: another head, whose worst displacements are tried on this one; `None` (default) for no transfer.
        batch_size: rows at a time.
    """
    if not len(labels) or restarts < 1 or list(radii) != sorted(radii):
        raise ValueError("an attack needs one or more rows, one or more restarts and radii in ascending order")
    normalised = head.feature_norm(features.to(head.readout.weight.dtype)).detach()
    theirs = None if source is None else source.feature_norm(features.to(source.readout.weight.dtype)).detach()
    alive = torch.ones_like(labels, dtype=torch.bool)
    curves: dict[str, list[float]] = {"noise_accuracies": [], "attack_accuracies": []}
    if source is not None:
        curves["transfer_accuracies"] = []
    for radius in radii:
        noise, transferred = [], []
        for number, rows in enumerate(torch.arange(len(labels)).split(batch_size)):
            chosen = (labels[rows], norm, radius, steps, restarts, seed + number)
            _, right, right_under_noise = pgd_attack(head, normalised[rows], *chosen)
            alive[rows] &= right
            noise.append(right_under_noise.double().mean(0))
            if source is not None and theirs is not None:
                displaced = normalised[rows] + pgd_attack(source, theirs[rows], *chosen)[0].to(normalised)
                with torch.no_grad():
                    transferred.append(head.trace(displaced).logits.argmax(-1) == labels[rows])
        curves["noise_accuracies"].append(float(torch.cat(noise).mean()))
        curves["attack_accuracies"].append(float(alive.double().mean()))
        if transferred:
            curves["transfer_accuracies"].append(float(torch.cat(transferred).double().mean()))
    settings = {"norm": norm, "steps": steps, "restarts": restarts, "seed": seed, "rows": len(labels)}
    return {**settings, "radii": list(radii), **curves}
