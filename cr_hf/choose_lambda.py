"""The automatic lambda: a grid of lambdas trained at once, and the one-standard-error rule on validation rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from .configuration_cr import CRConfig
from .sweep import HeadSpec, Rows, SweepArguments, predict_heads, train_heads

LAMBDA_GRID = tuple(10 ** (-3 + exponent / 3) for exponent in range(8))


@dataclass
class LambdaChoice:
    """The lambda that validation rows choose, and the curve it was chosen from.

    Args:
        chosen: the largest lambda within one standard error of the best.
        best: the lambda of the highest accuracy.
        grid: every lambda, ascending.
        accuracies: mean over seeds and validation rows, at each lambda.
        standard_errors: of that mean, over validation rows.
        seeds: of the heads behind each mean.
    """

    chosen: float
    best: float
    grid: list[float]
    accuracies: list[float]
    standard_errors: list[float]
    seeds: list[int]

    def to_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return asdict(self)


def choose_lambda(
    features: Rows,
    labels: Sequence[int] | Rows,
    spec: HeadSpec,
    config: CRConfig,
    arguments: SweepArguments | None = None,
    *,
    validation_features: Rows,
    validation_labels: Sequence[int] | Rows,
    grid: Sequence[float] = LAMBDA_GRID,
    seeds: Sequence[int] = (0, 1, 2),
    device: str | torch.device | None = None,
    group_size: int | None = None,
) -> LambdaChoice:
    """Choose lambda by the one-standard-error rule: the largest that is not clearly worse than the best.

    Args:
        spec: of every head but for its lambda and seed.
        grid: the lambdas; by default 8, from 0.001 to 0.215, three a decade.
        seeds: a head is trained for each, at each lambda.

    The other arguments are those of `train_heads`.

    Returns:
        The choice and its curve. A row on which a head's logits are not finite counts as wrong.

    Raises:
        ValueError: if the grid is empty or the number of seeds is 0.

    Source: Breiman et al. (1984), Classification and regression trees, section 3.4.3.
    """
    if not grid or not seeds:
        raise ValueError(f"grid={list(grid)} and seeds={list(seeds)} must not be empty")
    ascending = sorted(grid)
    specs = [replace(spec, dreg_lambda=value, seed=seed) for value in ascending for seed in seeds]
    results = train_heads(
        features,
        labels,
        specs,
        config,
        arguments,
        validation_features=validation_features,
        validation_labels=validation_labels,
        device=device,
        group_size=group_size,
    )
    logits = predict_heads(results, validation_features, device=device)
    correct = (logits.argmax(-1) == torch.as_tensor(validation_labels)) & torch.isfinite(logits).all(-1)
    per_row = correct.double().unflatten(0, (len(ascending), len(seeds))).mean(1)
    accuracies = per_row.mean(1)
    errors = per_row.std(1) / math.sqrt(per_row.shape[1])
    best = int(accuracies.argmax())
    chosen = int((accuracies >= accuracies[best] - errors[best]).nonzero().max())
    return LambdaChoice(
        ascending[chosen], ascending[best], ascending, accuracies.tolist(), errors.tolist(), list(seeds)
    )
