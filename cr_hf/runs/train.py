"""A recipe to a finished run directory: a head that was trained on features is mounted on its backbone first."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .. import __version__
from ..data import schema_of
from ..errors import RecipeError
from ..evaluation import Task
from ..features import check_encoder, classify_features
from ..files import read_json, write_json, writing
from ..modeling import CRPreTrainedModel
from ..training import CRTrainer, CRTrainingArguments, last_complete_checkpoint, merge_lora, show_epochs
from .answer import answer
from .build import note_cut_texts, training_arguments, trains_on_features
from .choose_lambda import LambdaChoice, kept_lambda
from .diagnose import reference_diagnostics
from .directory import (
    ADAPTER,
    CARD,
    EVAL_RESULTS,
    LAMBDA_PICTURE,
    PROBE,
    RECIPE,
    RESULTS,
    TABLE,
    TRAINER_STATE,
    check_directory,
    claim,
    open_directory,
    staged,
)
from .job import Job, phase
from .recipe import Recipe, override_recipe
from .results import describe_data, describe_machine, describe_model, input_probe, text_probe
from .search import check_search, check_values, search_settings

logger = logging.get_logger(__name__)


def train_recipe(recipe: Recipe, overwrite: bool = False, resume: bool = False) -> Path:
    """Train, evaluate and save what a recipe describes.

    Args:
        recipe: as `load_recipe` returns it.
        overwrite: replace an earlier run in the same directory.
        resume: continue an unfinished run from its last checkpoint; a run that was killed before its first checkpoint
            starts anew.

    Returns:
        The run directory. `results.json` is written last: if it is there, the run is finished and has its card. With
        `push_to_hub` in the recipe the run is published afterwards.

    Raises:
        CRError: before training wherever possible, with one line that names the mend.
    """
    started = time.perf_counter()
    run_dir = Path(recipe.output_dir)
    check_directory(recipe, overwrite, resume)
    arguments = training_arguments(recipe, run_dir)
    check_encoder(recipe.encoder, arguments.device)
    if recipe.search is not None:
        check_search(arguments)
    publish = _check_publishing(recipe, arguments)
    if resume and (run_dir / RESULTS).is_file():  # a run without its card, as earlier versions left it when killed
        if arguments.process_index == 0:
            with open_directory(recipe, overwrite, resume), writing(run_dir):
                _write_card(run_dir)
            publish()
        return run_dir
    with arguments.main_process_first(local=False, desc="reading the data"):
        dataset = recipe.read_data()
    if arguments.process_index == 0 and logging.is_progress_bar_enabled():
        print(*dataset.understood.lines(), sep="\n")
    job = Job.of(recipe, arguments, dataset)
    if arguments.process_index == 0:
        note_cut_texts(job.model, job.tokenizer, dataset)
    if recipe.search is not None:
        check_values(recipe, job.model.config)
    with contextlib.ExitStack() as stack:
        with arguments.main_process_first(local=False, desc="opening the run directory"):
            # Every process has read what is there, and only now does one of them write.
            if arguments.process_index == 0:
                stack.enter_context(open_directory(recipe, overwrite, resume))
        stack.enter_context(writing(run_dir))
        trials: list[Any] = []
        if recipe.search is not None:
            trials = search_settings(recipe, arguments, dataset)
            recipe = override_recipe(recipe, {**trials[0]["values"], "search": None})
            job = Job.of(recipe, training_arguments(recipe, run_dir), dataset)
        _train(job, resume, started, trials)
    if arguments.process_index == 0:
        publish()
    return run_dir


# The two imports that run upwards, and only when they are called: a run is finished with its card and its picture, and
# published if its recipe says so, whoever trains it.


def _check_publishing(recipe: Recipe, arguments: CRTrainingArguments) -> Callable[[], None]:
    """Refuse, before training, a recipe whose run could not be published afterwards; what publishes it then."""
    if not recipe.training.get("push_to_hub") or arguments.process_index > 0:
        return lambda: None
    from ..hub import check_access, publish_run

    run_dir = Path(recipe.output_dir)
    repo_id, token = str(arguments.hub_model_id or run_dir.name), arguments.hub_token
    if recipe.kind == "table" and not recipe.reads_images:
        raise RecipeError("push_to_hub: classifiers on a backbone alone are published, leave it out for a table")
    check_access(repo_id, token)

    def publish() -> None:
        published = publish_run(run_dir, repo_id, private=arguments.hub_private_repo, token=token)
        logger.warning(f"published and verified: {repo_id} at commit {published.commit[:12]}")

    return publish


def _write_card(run_dir: Path, folder: Path | None = None) -> None:
    """The card of a run, whose files may still stand in another folder, and the picture of how lambda was chosen."""
    from ..hub import write_card

    claim(run_dir, CARD, Path(EVAL_RESULTS).parts[0])
    write_card(run_dir, folder)
    choice = read_json((folder or run_dir) / RESULTS, "train the run again").get("lambda_choice")
    if choice and importlib.util.find_spec("matplotlib") is not None:
        from ..study import plot_lambda

        claim(run_dir, LAMBDA_PICTURE)
        plot_lambda(LambdaChoice(**choice), (folder or run_dir) / LAMBDA_PICTURE)


def _train(job: Job, resume: bool, started: float, trials: list[Any]) -> None:
    """Train, measure and save, in a run directory that stands open."""
    folder = str(job.arguments.output_dir)
    checkpoint = last_complete_checkpoint(folder) if resume else None
    trainer, splits = job.trainer()
    show_epochs(trainer)
    prepared = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except KeyboardInterrupt as stop:
        state, last = trainer.state, last_complete_checkpoint(folder)
        kept = "there is no checkpoint yet" if last is None else f"{last} is kept"
        raise KeyboardInterrupt(f"at step {state.global_step:,} of {state.max_steps:,}; {kept}") from stop
    seconds = {
        "seconds_preparing": round(prepared - started, 2),
        "seconds_training": round(time.perf_counter() - prepared, 2),
    }
    with phase("measure", job.arguments):
        _measure_and_save(job, trainer, splits, seconds, trials)


def _measure_and_save(
    job: Job, trainer: CRTrainer, splits: dict[str, Any], seconds: dict[str, float], trials: list[Any]
) -> None:
    recipe, run_dir, dataset = job.recipe, job.run_dir, job.dataset
    model = _finished_model(recipe, trainer, job.model)
    predictions: dict[str, Any] = {
        name: trainer.predict(split).predictions for name, split in splits.items() if name != "train"
    }
    state = trainer.state
    if trainer.is_world_process_zero():
        results: dict[str, Any] = {
            "cr_hf_version": __version__,
            "data": describe_data(recipe.data, dataset),
            "model": describe_model(model),
            "training": {
                "seed": recipe.seed,
                "epochs": state.epoch,
                "steps": state.global_step,
                "best_step": state.best_global_step,
                "best_metric": state.best_metric,
                **seconds,
            },
            "metrics": {
                name: Task.of(model.config).measure(logits, np.asarray(dataset[name]["label"][:]))
                for name, logits in predictions.items()
            },
            "diagnostics": reference_diagnostics(recipe, model.eval(), job.tokenizer, dataset, splits, predictions),
            "environment": {**describe_machine(trainer.args.device), "processes": trainer.args.world_size},
        }
        if recipe.chooses_lambda:
            results["lambda_choice"] = dataclasses.asdict(kept_lambda(trainer.args))
        if trials:
            results["search"] = {"metric": trainer.args.metric_for_best_model, "trials": trials}
        with staged(run_dir) as folder:
            recipe.save(folder / RECIPE)
            results["answer"] = answer(model, dataset, splits, predictions, sum(seconds.values()), folder)
            if recipe.kind == "table":
                write_json(folder / TABLE, dataclasses.asdict(schema_of(dataset["train"])))
            _save(job, folder, trainer, model.eval())
            write_json(folder / RESULTS, results)
            _write_card(run_dir, folder)
    trainer.accelerator.wait_for_everyone()


def _finished_model(recipe: Recipe, trainer: CRTrainer, model: CRPreTrainedModel) -> Any:
    """The classifier that was trained: the head back on its backbone, the adapters saved and then merged."""
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        # Every process holds a part of each tensor: together they make a whole model on the CPU.
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        whole: Any = type(trained)(trained.config)
        if state:
            whole.load_state_dict(state)
        trained = whole
    if recipe.lora_r is not None:
        if trainer.is_world_process_zero():
            claim(Path(recipe.output_dir), ADAPTER)
            trained.save_pretrained(Path(recipe.output_dir) / ADAPTER)
        model = merge_lora(trained)
        trainer.model = trainer.model_wrapped = model
    elif trains_on_features(recipe, model):
        model.classifier.load_state_dict(trained.classifier.state_dict())
    elif trained is not model:
        return trained
    return model


def _save(job: Job, folder: Path, trainer: CRTrainer, model: CRPreTrainedModel) -> None:
    model.save_pretrained(folder)
    if job.tokenizer is not None:
        job.tokenizer.save_pretrained(folder)
    if job.recipe.kind == "texts":
        probe = text_probe(model, job.tokenizer, job.recipe.data.text_pair_column is not None)
    elif job.recipe.reads_images:
        probe = input_probe(model, job.tokenizer([np.zeros((9, 9, 3), np.uint8)], return_tensors="pt"))
    else:
        made_up = np.random.default_rng(0).standard_normal((4, model.config.in_features), np.float32)
        probe = {"features": made_up.tolist(), "logits": classify_features(model, made_up).tolist()}
    write_json(folder / PROBE, probe)
    trainer.state.best_model_checkpoint = None
    write_json(folder / TRAINER_STATE, dataclasses.asdict(trainer.state))
