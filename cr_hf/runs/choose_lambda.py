"""The automatic lambda: a grid of lambdas trained at once, and the one-standard-error rule on validation rows."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from ..errors import RecipeError
from ..evaluation import Task
from ..files import read_json, write_json
from ..modeling import CRConfig
from ..training import CRTrainingArguments, Rows, SweepHead, predict_heads, train_heads
from .build import sweep_head
from .recipe import Recipe

logger = logging.get_logger(__name__)

LAMBDA_GRID = tuple(10 ** (-3 + exponent / 3) for exponent in range(8))
SEEDS = 3
KEPT = "lambda_choice.json"


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


def choose_dreg_lambda(
    head: SweepHead,
    train: tuple[Rows, Rows],
    validation: tuple[Rows, Rows],
    grid: Sequence[float] = LAMBDA_GRID,
    seeds: int = SEEDS,
    weights: NDArray[np.floating] | None = None,
) -> LambdaChoice:
    """Choose lambda by the one-standard-error rule: the largest that is not clearly worse than the best.

    Args:
        head: how every head is trained, but for its lambda and seed.
        train: features, shape (rows, in_features), and class indices, shape (rows,), or targets.
        validation: likewise.
        grid: the lambdas; by default 8, from 0.001 to 0.215, three a decade.
        seeds: how many heads are trained at each lambda, 3 by default; the first has that of `head`.
        weights: of the training rows, see `train_heads`.

    Returns:
        The choice and its curve. A row on which a head's logits are not finite counts as wrong. For numbers, minus the
        squared error stands in the place of accuracy.

    Raises:
        ValueError: if the grid is empty, the number of seeds is 0, or a sweep cannot train the head.

    Source: Breiman et al. (1984), Classification and regression trees, section 3.4.3.
    """
    if not grid or seeds < 1:
        raise ValueError(f"grid={list(grid)} and {seeds=} must not be empty")
    ascending, used = sorted(grid), [head.arguments.seed + number for number in range(seeds)]
    heads = [_with(head, value, seed) for value in ascending for seed in used]
    features, targets = train
    held_out: dict[str, Any] = {"validation_features": validation[0], "validation_labels": validation[1]}
    logits = predict_heads(train_heads(features, targets, heads, **held_out, weights=weights), validation[0])
    task, labels = Task.of(head.config), np.asarray(validation[1])
    if task.is_regression:
        errors_of_rows = (logits - torch.as_tensor(labels).view(logits.shape[1:])).double().square().mean(-1)
        scores = -errors_of_rows.nan_to_num(math.inf)
    else:
        scores = (torch.from_numpy(task.right_rows(logits.numpy(), labels)) & torch.isfinite(logits).all(-1)).double()
    per_row = scores.unflatten(0, (len(ascending), seeds)).mean(1)
    accuracies = per_row.mean(1)
    errors = per_row.std(1) / math.sqrt(per_row.shape[1])
    best = int(accuracies.argmax())
    chosen = int((accuracies >= accuracies[best] - errors[best]).nonzero().max())
    return LambdaChoice(ascending[chosen], ascending[best], ascending, accuracies.tolist(), errors.tolist(), used)


def _with(head: SweepHead, dreg_lambda: float, seed: int) -> SweepHead:
    config, arguments = copy.copy(head.config), copy.copy(head.arguments)
    config.dreg_lambda, arguments.dreg_lambda, arguments.seed = dreg_lambda, None, seed
    return dataclasses.replace(head, config=config, arguments=arguments)


def lambda_of_run(
    recipe: Recipe,
    arguments: CRTrainingArguments,
    config: CRConfig,
    train: tuple[Rows, Rows],
    validation: tuple[Rows, Rows],
) -> LambdaChoice:
    """The lambda of a run with `dreg_lambda: auto`, by `choose_dreg_lambda`.

    It is kept beside the checkpoints: the first process chooses, and the others, and a resumed run, read it.

    Raises:
        RecipeError: if the run trains with what a sweep does not have.
    """
    kept = Path(str(arguments.output_dir)) / KEPT
    with arguments.main_process_first(local=False, desc="choosing lambda"):
        if not kept.is_file():
            logger.warning(f"dreg_lambda: auto trains {len(LAMBDA_GRID)} lambdas x {SEEDS} seeds at once")
            try:
                choice = choose_dreg_lambda(sweep_head(recipe, config), train, validation)
            except ValueError as error:
                raise RecipeError(f"dreg_lambda: auto cannot train this recipe: {error}") from error
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, asdict(choice))
    return kept_lambda(arguments)


def kept_lambda(arguments: CRTrainingArguments) -> LambdaChoice:
    """The choice that `lambda_of_run` kept."""
    kept = Path(str(arguments.output_dir)) / KEPT
    return LambdaChoice(**read_json(kept, "train the run anew with --overwrite"))
