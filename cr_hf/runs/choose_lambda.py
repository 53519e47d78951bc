"""The automatic lambda: a grid of lambdas trained at once, and the one-standard-error rule on validation rows."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SchedulerType
from transformers.utils import logging

from ..errors import RecipeError
from ..files import write_json
from ..modeling import CRConfig
from ..training import (
    METRICS,
    CRTrainingArguments,
    HeadSpec,
    Rows,
    SweepArguments,
    normalized_class_weights,
    predict_heads,
    train_heads,
)
from .recipe import Recipe

logger = logging.get_logger(__name__)

LAMBDA_GRID = tuple(10 ** (-3 + exponent / 3) for exponent in range(8))
SEEDS = (0, 1, 2)
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
    seeds: Sequence[int] = SEEDS,
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


def lambda_of_run(
    recipe: Recipe,
    arguments: CRTrainingArguments,
    config: CRConfig,
    train: tuple[Rows, Rows],
    validation: tuple[Rows, Rows],
) -> LambdaChoice:
    """The lambda of a run with `dreg_lambda: auto`, chosen by heads trained as the run will train its own.

    It is kept beside the checkpoints: the first process chooses, and the others, and a resumed run, read it.

    Args:
        recipe: of the run.
        arguments: of the run.
        config: of its head.
        train: features, shape (rows, in_features), and class indices, shape (rows,).
        validation: likewise.

    Raises:
        RecipeError: if the run trains with what a sweep does not have.
    """
    kept = Path(str(arguments.output_dir)) / KEPT
    with arguments.main_process_first(local=False, desc="choosing lambda"):
        if not kept.is_file():
            spec, config, shared = _as_a_sweep(recipe, arguments, config, np.asarray(train[1]))
            logger.warning(f"dreg_lambda: auto trains {len(LAMBDA_GRID)} lambdas x {len(SEEDS)} seeds at once")
            try:
                choice = choose_lambda(
                    *train, spec, config, shared, validation_features=validation[0], validation_labels=validation[1],
                    device=arguments.device,
                )  # fmt: skip
            except ValueError as error:
                raise RecipeError(f"dreg_lambda: auto cannot train this recipe: {error}") from error
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, choice.to_dict())
    return kept_lambda(arguments)


def kept_lambda(arguments: CRTrainingArguments) -> LambdaChoice:
    """The choice that `lambda_of_run` kept."""
    kept = Path(str(arguments.output_dir)) / KEPT
    return LambdaChoice(**json.loads(kept.read_text(encoding="utf-8")))


def _as_a_sweep(
    recipe: Recipe, arguments: CRTrainingArguments, config: CRConfig, labels: np.ndarray
) -> tuple[HeadSpec, CRConfig, SweepArguments]:
    """What `CRTrainer` would do with the arguments, in the words of a sweep; early stopping counts epochs."""
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    epochs = arguments.num_train_epochs
    if arguments.max_steps > 0:
        epochs = arguments.max_steps * batch_size / len(labels)
    config = copy.deepcopy(config)
    config.label_smoothing = arguments.label_smoothing_factor
    if arguments.class_weights is not None:
        counts = np.bincount(labels, minlength=int(config.num_labels or 0)).tolist()
        config.class_weights = normalized_class_weights(arguments.class_weights, counts)
    rate, head_rate = arguments.learning_rate, arguments.head_learning_rate
    spec = HeadSpec(
        dreg_lambda_end=arguments.dreg_lambda_end,
        dreg_schedule=arguments.dreg_schedule,
        dreg_warmup_steps=arguments.dreg_warmup_steps,
        learning_rate=rate if head_rate is None else head_rate,
        threshold_learning_rate=arguments.threshold_learning_rate,
        weight_decay=arguments.weight_decay,
        dropout=config.dropout,
    )
    metric = str(arguments.metric_for_best_model).removeprefix("eval_")
    shared = SweepArguments(
        num_train_epochs=max(1, math.ceil(epochs)),
        batch_size=batch_size,
        lr_scheduler_type=SchedulerType(arguments.lr_scheduler_type).value,
        warmup_steps=arguments.warmup_steps,
        max_grad_norm=arguments.max_grad_norm,
        metric_for_best_model=metric if metric in METRICS else "accuracy",
        load_best_model_at_end=arguments.load_best_model_at_end,
        early_stopping_patience=recipe.early_stopping_patience,
    )
    return spec, config, shared
