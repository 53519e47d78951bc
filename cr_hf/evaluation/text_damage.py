"""How accuracy falls as inputs get worse: perturbed texts, noise on features, and attacks on features.

Every perturbation is seeded: the same input, kind, severity and seed give the same result on any machine, and a higher
severity damages what a lower one did and more. Noise and attacks move the normalised features, where one unit is one
standard deviation of the training rows; the attack starts from the noise points too, so it is never weaker than noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, nearest
from ..modeling import CRHead, ordinal_log_probabilities
from .metrics import bootstrap_interval

SEVERITIES = (1, 2, 3, 4, 5)
# Shares of the letters (typos, case) or of the words (drop, swap) that are touched.
TEXT_RATES = {
    "typos": (0.02, 0.05, 0.1, 0.15, 0.2),
    "drop": (0.05, 0.1, 0.2, 0.3, 0.5),
    "swap": (0.1, 0.2, 0.4, 0.6, 0.8),
    "case": (0.05, 0.1, 0.25, 0.5, 1.0),
}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NORMS = ("l2", "linf")

Hits = NDArray[np.bool_]


def _keys_beside(key: str) -> str:
    """The letters around one on a keyboard, whose rows are each half a key further right."""
    places = {
        letter: (row, column + row / 2) for row, keys in enumerate(KEYBOARD) for column, letter in enumerate(keys)
    }
    return "".join(other for other in places if other != key and math.dist(places[key], places[other]) < 1.2)


BESIDE = {letter: _keys_beside(letter) for keys in KEYBOARD for letter in keys}


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse a kind of text perturbation that there is not.

    Raises:
        DataError: naming it and what there is.
    """
    for kind in kinds:
        if kind not in TEXT_RATES:
            raise DataError(
                f"perturbation {kind!r} is unknown{nearest(kind, TEXT_RATES)}: use {', '.join(TEXT_RATES)}"
            )


def perturb_text(text: str, kind: str, severity: int, seed: int = 0) -> str:
    """One text, damaged: a pure function of its arguments.

    Args:
        text: any; where there is nothing to damage (no letter, one word) it is returned as it is.
        kind: `"typos"` (a letter is missed, doubled, swapped with the next or mistaken for one beside it on an English
            keyboard), `"drop"` (words are left out, never all), `"swap"` (neighbouring words change places) or
            `"case"` (letters change their case; an uncased tokenizer does not see it).
        severity: 1 to 5, see `TEXT_RATES`.
        seed: of the choice of letters or words.

    Raises:
        DataError: if the kind is unknown.
        ValueError: if the severity is not 1 to 5.
    """
    check_kinds([kind])
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity} is not allowed: use 1 to 5")
    rate = TEXT_RATES[kind][severity - 1]
    # Without the severity: a higher one goes on where a lower one ended.
    generator = random.Random(f"{seed}\0{kind}\0{text}")
    if kind in ("typos", "case"):
        letters = [place for place, character in enumerate(text) if character.isalpha()]
        generator.shuffle(letters)
        characters = list(text)
        for place in letters[: math.ceil(rate * len(letters))]:
            if kind == "case":
                characters[place] = characters[place].swapcase()
            else:
                _mistype(characters, place, generator)
        return "".join(characters)
    words = text.split()
    order = list(range(len(words)))
    generator.shuffle(order)
    count = math.ceil(rate * len(words))
    if kind == "drop":
        dropped = set(order[: min(count, len(words) - 1)]) if words else set()
        return " ".join(word for place, word in enumerate(words) if place not in dropped) if dropped else text
    moved: set[int] = set()
    for place in order:
        if len(moved) < count and place + 1 < len(words) and not moved & {place, place + 1}:
            words[place], words[place + 1] = words[place + 1], words[place]
            moved |= {place, place + 1}
    return " ".join(words) if moved else text


def _mistype(characters: list[str], place: int, generator: random.Random) -> None:
    """One typing error at a letter; every branch draws equally often, so that severities agree on what they share."""
    letter, mistake, choice = characters[place], generator.randrange(4), generator.random()
    beside = BESIDE.get(letter.lower(), "")
    if mistake == 0:
        characters[place] = ""
    elif mistake == 1 and beside:
        key = beside[int(choice * len(beside))]
        characters[place] = key.upper() if letter.isupper() else key
    elif mistake == 2 and place + 1 < len(characters) and characters[place + 1].isalpha():
        characters[place], characters[place + 1] = characters[place + 1], letter
    else:
        characters[place] = letter * 2


def robustness_curves(clean: Hits, perturbed: Mapping[str, Sequence[Hits]]) -> dict[str, Any]:
    """Accuracy by severity, and the mean accuracy over all kinds and severities ("mean corruption accuracy").

    Args:
        clean: whether each row is right as it is, shape (rows,).
        perturbed: of each kind, the same for every severity in order.

    Returns:
        JSON-able: `rows`, `clean_accuracy`, `mean_accuracy`, and per kind `accuracies`, `mean_accuracy` and `change`
        (its mean minus clean) with the paired 95 % bootstrap interval over rows.
    """
    kinds = {}
    for kind, hits in perturbed.items():
        change = np.mean(hits, axis=0) - clean
        kinds[kind] = {
            "accuracies": [float(np.mean(severity)) for severity in hits],
            "mean_accuracy": float(np.mean(hits)),
            "change": float(change.mean()),
            "change_interval": list(bootstrap_interval(change)) if len(change) > 1 else [-1.0, 1.0],
        }
    return {
        "rows": len(clean),
        "clean_accuracy": float(np.mean(clean)),
        "mean_accuracy": float(np.mean([kind["mean_accuracy"] for kind in kinds.values()])),
        "kinds": kinds,
    }


def text_robustness(
    is_right: Callable[[list[str], list[str] | None], Hits],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    kinds: Sequence[str] = tuple(TEXT_RATES),
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on perturbed texts.

    Args:
        is_right: from texts (and their pairs) to whether each row is classified right, shape (rows,).
        texts: as they are.
        pairs: second texts, perturbed too; `None` for single texts.
        kinds: of perturbation, see `perturb_text`.
        seed: of the perturbations.

    Returns:
        `robustness_curves`, and the `seed`.
    """
    check_kinds(kinds)

    def damaged(kind: str, severity: int) -> Hits:
        both = [
            None if part is None else [perturb_text(text, kind, severity, seed) for text in part]
            for part in (texts, pairs)
        ]
        return is_right(both[0] or [], both[1])

    clean = is_right(list(texts), None if pairs is None else list(pairs))
    found = {kind: [damaged(kind, severity) for severity in SEVERITIES] for kind in kinds}
    return {"seed": seed, **robustness_curves(clean, found)}


def normalised_logits(head: CRHead, normalised: Tensor) -> Tensor:
    """Logits of features that are normalised already, shape (..., in_features), differentiable by them."""
    hidden = normalised
    for layer in head.layers:
        hidden, _ = layer(hidden)
    logits = head.readout(hidden)
    if head.thresholds is None:
        return logits
    return ordinal_log_probabilities(logits, head.thresholds())


@torch.no_grad()
def noise_curve(
    head: CRHead,
    features: Tensor,
    labels: Tensor,
    deviations: Sequence[float] = (0.1, 0.25, 0.5, 1.0, 2.0),
    draws: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy under Gaussian noise on the normalised features.

    Args:
        head: in evaluation mode.
        features: raw, shape (rows, in_features).
        labels: classes, shape (rows,).
        deviations: of the noise, in standard deviations of a feature.
        draws: noise drawn this often for each row.
        seed: of the noise.

    Returns:
        JSON-able: `deviations` and `accuracies` (means over the draws), and `clean_accuracy`.
    """
    normalised = head.feature_norm(features.to(head.readout.weight.dtype))
    generator = torch.Generator().manual_seed(seed)
    noises = [_normal(normalised, generator) for _ in range(draws)]

    def accuracy(points: Tensor) -> float:
        return float((normalised_logits(head, points).argmax(-1) == labels).double().mean())

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
    """Random displacements of the length `radius`.

    Args:
        normalised: only its shape (rows, in_features), type and device count.
        norm: `"l2"` (uniform on the sphere) or `"linf"` (a random corner of the cube, the far end of the noise).
        radius: in standard deviations of a feature.
        draws: displacements for each row.
        seed: of the choice.

    Returns:
        Shape (draws, rows, in_features).

    Raises:
        ValueError: if the norm is unknown.
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
        radius: of the ball around each row, at least 0, in standard deviations of a feature.
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
            logits = normalised_logits(head, normalised.detach() + displacement)
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
    """Accuracy under noise and under attack, by radius.

    Args:
        head: the attacked head, in evaluation mode.
        features: raw, shape (rows, in_features).
        labels: classes, shape (rows,).
        norm: `"l2"` or `"linf"`.
        radii: in ascending order. A row that fell at a smaller radius has fallen at a larger one.
        steps, restarts, seed: as `pgd_attack` takes them.
        source: another head; the displacements that are worst for it are tried on this one (a transfer attack).
        batch_size: rows at a time.

    Returns:
        JSON-able: `radii`, and of each `noise_accuracies` (mean over the noise points of the same radius),
        `attack_accuracies` and, with a source, `transfer_accuracies`.

    Raises:
        ValueError: if there is no row, or the radii do not ascend.
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
        noise: list[Tensor] = []
        transferred: list[Tensor] = []
        for number, rows in enumerate(torch.arange(len(labels)).split(batch_size)):
            chosen = (labels[rows], norm, radius, steps, restarts, seed + number)
            _, right, right_under_noise = pgd_attack(head, normalised[rows], *chosen)
            alive[rows] &= right
            noise.append(right_under_noise.double().mean(0))
            if source is not None and theirs is not None:
                displaced = normalised[rows] + pgd_attack(source, theirs[rows], *chosen)[0].to(normalised)
                with torch.no_grad():
                    transferred.append(normalised_logits(head, displaced).argmax(-1) == labels[rows])
        curves["noise_accuracies"].append(float(torch.cat(noise).mean()))
        curves["attack_accuracies"].append(float(alive.double().mean()))
        if transferred:
            curves["transfer_accuracies"].append(float(torch.cat(transferred).double().mean()))
    settings = {"norm": norm, "steps": steps, "restarts": restarts, "seed": seed, "rows": len(labels)}
    return {**settings, "radii": list(radii), **curves}
