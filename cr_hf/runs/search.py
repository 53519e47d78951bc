"""The `search:` block of a recipe: settings are tried by optuna, and the best of them is what the run trains."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from ..errors import NonFiniteError, RecipeError
from ..files import Json, read_json, write_json
from ..modeling import CRConfig
from ..training import CRTrainingArguments
from .build import sweep_head, training_arguments
from .job import Job
from .keys import TRIALS, as_number, searched_values
from .recipe import WHOLE, Recipe, override_recipe

KEPT = "search.json"
# A trial leaves nothing behind but its score.
OF_A_TRIAL = {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False, "report_to": "none"}
OF_A_TRIAL |= {"disable_tqdm": True, "search": None}


def check_search(arguments: CRTrainingArguments) -> None:
    """Refuse, before any data are read, what cannot be searched.

    Raises:
        RecipeError: naming the mend.
    """
    if arguments.world_size > 1:
        raise RecipeError("search: runs in one process: leave --num-processes out, and train what it finds with it")
    if arguments.eval_strategy == "no":
        raise RecipeError("search: needs evaluations: set eval_strategy to epoch or steps")
    if importlib.util.find_spec("optuna") is None:
        raise RecipeError("search: needs optuna: pip install 'cr-hf[search]'")


def check_values(recipe: Recipe, config: CRConfig) -> None:
    """Refuse, before the first trial, a value that no head or trainer of this recipe takes.

    Raises:
        RecipeError: naming the value.
    """
    for key, value in searched_values(recipe.search or {}, set(recipe.search or {}), "search"):
        sweep_head(recipe, config, {key: value, "search": None})


def search_settings(recipe: Recipe, arguments: CRTrainingArguments, dataset: Any) -> list[Json]:
    """Try settings, each once. Features of a frozen backbone are encoded by the first trial that reads them.

    Args:
        recipe: with a `search:` block.
        arguments: of the run. The trials are kept beside its checkpoints: a search that was stopped goes on.
        dataset: the splits.

    Returns:
        The trials, best first: their `values`, and their `score`, the best validation metric of all evaluations;
        `None` for those that ended in NaN.

    Raises:
        RecipeError: if a trial cannot be trained, or none has a score.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    more, kept = bool(arguments.greater_is_better), Path(str(arguments.output_dir)) / KEPT
    sampler = optuna.samplers.TPESampler(seed=recipe.seed)
    study = optuna.create_study(sampler=sampler, direction="maximize" if more else "minimize")
    before = read_json(kept, "train the run anew with --overwrite")["trials"] if kept.is_file() else []
    known = {json.dumps(trial["values"]): trial["score"] for trial in before}
    kept.parent.mkdir(parents=True, exist_ok=True)
    space, trials = dict(recipe.search or {}), dict[str, Json]()
    for number in range(space.pop("trials", TRIALS)):
        asked = study.ask()
        values = {key: _suggest(asked, key, wanted) for key, wanted in space.items()}
        name = json.dumps(values)
        if name not in known:
            known[name] = None
            with contextlib.suppress(NonFiniteError):
                known[name] = _score(recipe, values, arguments, dataset)
            if logging.is_progress_bar_enabled():
                score = known[name]
                print(f"trial {number + 1}: {'not finite' if score is None else f'{score:.4g}'} {name}")
            write_json(kept, {"trials": [*trials.values(), {"values": values, "score": known[name]}]})
        trials[name] = {"values": values, "score": known[name]}
        study.tell(asked, known[name], optuna.trial.TrialState.FAIL if known[name] is None else None)
    found = [trial for trial in trials.values() if trial["score"] is not None]
    if not found:
        raise RecipeError("search: every trial ended in numbers that are not finite: lower learning_rate")
    failed = [trial for trial in trials.values() if trial["score"] is None]
    return [*sorted(found, key=lambda trial: trial["score"], reverse=more), *failed]


def _score(recipe: Recipe, values: Json, arguments: CRTrainingArguments, dataset: Any) -> float:
    metric = f"eval_{str(arguments.metric_for_best_model or 'loss').removeprefix('eval_')}"
    with tempfile.TemporaryDirectory() as folder:
        own = override_recipe(recipe, {**values, **OF_A_TRIAL, "output_dir": folder})
        arguments = training_arguments(own, Path(folder))
        trainer, _ = Job.of(own, arguments, dataset).trainer()
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    scores = [entry[metric] for entry in trainer.state.log_history if metric in entry]
    return float(max(scores) if arguments.greater_is_better else min(scores))


def _suggest(trial: Any, key: str, wanted: Any) -> Any:
    if isinstance(wanted, list):
        return wanted[trial.suggest_categorical(key, range(len(wanted)))]
    low, high, log = as_number(wanted["low"]), as_number(wanted["high"]), bool(wanted.get("log"))
    # Between 0 and 1 there is no other whole number: such a range is one of fractions.
    is_whole = isinstance(low, int) and isinstance(high, int) and (high > 1 or key in WHOLE)
    return trial.suggest_int(key, low, high, log=log) if is_whole else trial.suggest_float(key, low, high, log=log)
