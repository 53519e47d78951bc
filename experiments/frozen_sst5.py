"""What the scripts on frozen SST-5 features share: the recipe's features, and heads chosen on dev."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cr_hf.data.splits import stratified_order
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.results import describe_data, describe_machine
from cr_hf.study.arms import Head
from cr_hf.study.cells import Plan, StudyData, best_setting, train_settings
from cr_hf.study.study import plan_of, read_features
from cr_hf.training.sweep import HeadResult, SweepArguments

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
DATA = "../shared/data/sst5"


def load(data_dir: str, seeds: int, overrides: tuple[str, ...] = ()) -> tuple[StudyData, Plan, dict[str, Any]]:
    """Features of recipes/sst5_frozen.yaml, how its heads are trained, and what a result file says of both."""
    recipe = load_recipe(
        ROOT / "recipes" / "sst5_frozen.yaml", [f"data.dir={data_dir}", "backbone=offline", *overrides]
    )
    dataset, config, data = read_features(recipe)
    about = {
        "recipe": "recipes/sst5_frozen.yaml",
        "data": describe_data(recipe.data, dataset),
        "hidden_sizes": config.hidden_sizes,
        "environment": describe_machine(),
    }
    return data, plan_of(recipe, config, seeds, seeds), about


def subsets_of(labels: NDArray[np.int64], size: int, seeds: int) -> list[NDArray[np.int64]]:
    """Each seed's own stratified rows."""
    return [np.sort(stratified_order(labels, seed)[:size]) for seed in range(seeds)]


def choose_setting(
    head: Head, data: StudyData, plan: Plan, subsets: list[NDArray[np.int64]], arguments: SweepArguments
) -> tuple[list[HeadResult], dict[str, Any]]:
    """Every setting with every seed; the heads of the one with the best mean dev accuracy, and what was tried."""
    results = train_settings(head, head.settings, range(plan.seeds), subsets, data, plan, arguments)
    kept, chosen, dev = best_setting(results, len(head.settings))
    means = dev.mean(1).tolist()
    tried = [{**setting, "dev_accuracy": mean} for setting, mean in zip(head.settings, means, strict=True)]
    return kept, {
        "setting": head.settings[chosen],
        "tried": tried,
        "parameters": sum(value.numel() for value in results[0].head().parameters()),
    }
