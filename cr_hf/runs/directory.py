"""The directory of a run: what its files are called, which of them are the run's own, and how a run starts in it.

A run notes the names of its files before it writes them, in `run_files.json`: only these are ever removed again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import CheckpointError, CRError, DataError, FeatureCacheError, RecipeError
from ..files import PART, locked, read_json, write_json, write_text
from .recipe import Recipe, load_recipe, load_yaml

RECIPE, RESULTS, PROBE, CARD = "recipe.yaml", "results.json", "probe.json", "README.md"
CARD_BEGINS, CARD_ENDS = "<!-- cr-hf begin", "<!-- cr-hf end -->"
"""Around what is generated in a card: the rest was written by hand."""
GENERATED = {"library_name", "pipeline_tag", "metrics", "base_model", "base_model_revision", "datasets", "model-index"}
"""Keys of a card's metadata that tell what was trained; the others, licence and tags, say, may be by hand."""
TABLE = "table.json"
"""How the run of a table reads its rows: columns, and medians of training rows for missing values."""
TRAINER_STATE, LAMBDA_PICTURE, EVAL_RESULTS = "trainer_state.json", "lambda.png", ".eval_results/cr_hf.yaml"
OWN_FILES = "run_files.json"
ERRORS = "worst_errors.jsonl"
"""Texts that were classified wrong. It stays with the run: nothing of it stands in a card or is published."""
CHECKPOINTS, STAGED = "checkpoints", "unfinished"
"""What resuming needs; and the finished model until all of it is written."""
ADAPTER, BASE = "adapter", "base"
"""Folders of a run with LoRA: the adapter, and the classifier that it was trained on."""
TOKENIZER_FILES = re.compile(
    r"(tokenizer(_config)?|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|.*\.model"
    r"|chat_template\.jinja"
)
_MODEL = rf"(generation_)?config\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|{TOKENIZER_FILES.pattern}"
_FINISHED = rf"{_MODEL}|recipe\.yaml|(results|probe|table|trainer_state|{Path(OWN_FILES).stem})\.json|README\.md"
_FINISHED = rf"({_FINISHED}|lambda\.png|worst_errors\.jsonl|\.eval_results/(cr_hf\.yaml)?)"
_SAVED = rf"({_MODEL}|adapter_(config\.json|model\.safetensors)|README\.md|SHA256SUMS|training_args\.\w+"
_SAVED += r"|(optimizer|scheduler|scaler|rng_state|trainer_state)\w*\.\w+|(pytorch_model|optimizer)\w*/[\w.]*)"
KNOWN = re.compile(
    rf"{_FINISHED}|{STAGED}/{_FINISHED}?|({ADAPTER}|{BASE})/{_SAVED}?"
    rf"|{CHECKPOINTS}/(features\.sha256|(lambda_choice|search)\.json|(checkpoint-\d+|unfinished)/{_SAVED}?)?"
)
"""Every path that a run can write in its directory; folders end in a slash."""


def claim(run_dir: Path, *names: str) -> None:
    """Note, before they are written, names that the run writes in its directory.

    Raises:
        CheckpointError: if one of them is there already and is not the run's.
    """
    own = _own_names(run_dir)
    for name in names:
        if name not in own and os.path.lexists(run_dir / name):
            raise CheckpointError(f"{run_dir / name} was not written by the run: move it away, then use --resume")
    if not own.issuperset(names):
        write_json(run_dir / OWN_FILES, {"files": sorted({*own, *names})})


@contextlib.contextmanager
def staged(run_dir: Path) -> Iterator[Path]:
    """A folder whose files move into the run directory at the end, `results.json` last: if it is there, all are."""
    folder = run_dir / STAGED
    claim(run_dir, STAGED)
    folder.mkdir(exist_ok=True)  # it may be there from a run that was killed
    yield folder
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == RESULTS)
    names = [path.relative_to(folder) for path in files]
    claim(run_dir, *{name.parts[0] for name in names})
    for name in names:
        (run_dir / name).parent.mkdir(exist_ok=True)
        os.replace(folder / name, run_dir / name)
    _empty(folder)
    folder.rmdir()


def _own_names(run_dir: Path) -> set[str]:
    """Names of the files and folders in the directory that are the run's; empty if no run is there."""
    if (run_dir / OWN_FILES).is_file():
        names = read_json(run_dir / OWN_FILES, "remove it, and keep the directory").get("files")
        return {str(name) for name in names} if isinstance(names, list) else set()
    # A run of an earlier version kept no list. Its recipe is known by its form, which nobody writes by hand.
    try:
        text = (run_dir / RECIPE).read_text(encoding="utf-8")
        is_run = text == load_recipe(run_dir / RECIPE).to_yaml()
    except (OSError, UnicodeDecodeError, CRError):
        return set()
    return {path.name for path in run_dir.iterdir()} if is_run else set()


def _foreign_file(run_dir: Path) -> str | None:
    """The first file or folder in the directory that no run wrote; a link or a mount never belongs to a run."""
    own = _own_names(run_dir) | {OWN_FILES}
    for folder, folders, files in os.walk(run_dir):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            relative = path.relative_to(run_dir)
            is_own = relative.parts[0] in own or PART.fullmatch(name) is not None
            known = KNOWN.fullmatch(f"{relative.as_posix()}{'/' * path.is_dir()}") or PART.fullmatch(name)
            if not is_own or not known or path.is_symlink() or path.is_mount():
                return relative.as_posix()
    return None


def _empty(folder: Path) -> None:
    """Remove what a folder holds; a link is never followed."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(place, name).unlink()
        for name in folders:
            Path(place, name).rmdir()


def check_directory(recipe: Recipe, overwrite: bool, resume: bool) -> None:
    """Refuse to touch what is not ours, or what is finished. Nothing is written: every process may look.

    Args:
        recipe: of the run to start.
        overwrite: a run that is there may be replaced.
        resume: it is to be continued.

    Raises:
        RecipeError: naming the directory, what it holds and the mend.
    """
    run_dir = Path(recipe.output_dir)
    if overwrite and resume:
        raise RecipeError("--overwrite and --resume contradict each other: give one of them")
    if re.search("[\0\ud800-\udfff]", recipe.output_dir):
        raise RecipeError(f"output_dir={recipe.output_dir!a} cannot be written: choose another output_dir")
    if run_dir.exists() and not run_dir.is_dir():
        raise RecipeError(f"output_dir={run_dir} is a file: choose another output_dir")
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if not _own_names(run_dir):
        raise RecipeError(f"output_dir={run_dir} holds other files and no run: choose another output_dir")
    if resume and (run_dir / RESULTS).is_file() and (run_dir / CARD).is_file():
        raise RecipeError(
            f"the run in {run_dir} is finished, there is nothing to resume: use --overwrite to train anew"
        )
    if overwrite:
        _check_removable(run_dir)
    elif not resume:
        finished = (run_dir / RESULTS).is_file()
        kind = "a finished run: use --overwrite" if finished else "an unfinished run: use --resume or --overwrite"
        raise RecipeError(f"output_dir={run_dir} holds {kind}, or choose another output_dir")
    elif (run_dir / RECIPE).is_file():
        before = load_recipe(run_dir / RECIPE).to_dict()
        changed = sorted(key for key in before | recipe.to_dict() if before.get(key) != recipe.to_dict().get(key))
        if changed:
            raise RecipeError(
                f"{run_dir} was started with another {changed[0]}: resume with the same recipe, or use --overwrite"
            )


def _check_removable(run_dir: Path) -> None:
    """Refuse to overwrite a run beside which something else stands."""
    if run_dir.is_symlink():
        raise RecipeError(f"output_dir={run_dir} is a link: give the directory itself to overwrite the run in it")
    if run_dir.resolve() in Path.cwd().parents:
        raise RecipeError(f"output_dir={run_dir} holds the folder you work in: leave it to overwrite the run")
    foreign = _foreign_file(run_dir)
    card = (run_dir / CARD).read_text(encoding="utf-8", errors="replace") if (run_dir / CARD).is_file() else ""
    generated = rf"\A---\n.*?\n---\n|{CARD_BEGINS}.*?{CARD_ENDS}"
    if foreign is None and re.sub(generated, "", card, flags=re.DOTALL).strip():
        foreign = f"text of your own in {CARD}"
    if foreign is not None:
        raise RecipeError(
            f"output_dir={run_dir} holds {foreign}, which the run did not write: move it away, or choose another "
            "output_dir"
        )


def _metadata_by_hand(run_dir: Path) -> dict[str, Any]:
    """What a user may have added to the metadata of a run's card."""
    card = (run_dir / CARD).read_text(encoding="utf-8", errors="replace") if (run_dir / CARD).is_file() else ""
    head = re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)
    try:
        values = load_yaml(head[1]) if head else {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{run_dir / CARD}: its metadata are not valid YAML: mend them, they are kept") from error
    return {key: value for key, value in values.items() if key not in GENERATED} if isinstance(values, dict) else {}


def check_finished(run_dir: Path) -> None:
    """Refuse a directory that holds no finished run.

    Raises:
        CheckpointError: saying what it holds and the mend.
    """
    if not (run_dir / RESULTS).is_file():
        state = "is not finished: continue it with --resume" if (run_dir / RECIPE).is_file() else "is no run directory"
        raise CheckpointError(f"{run_dir} {state} (a finished run holds {RESULTS})")


@contextlib.contextmanager
def open_directory(recipe: Recipe, overwrite: bool, resume: bool) -> Iterator[None]:
    """Start the run, or go on with it, and hold its directory against other processes until it is left.

    The recipe is written first, so that an interrupted run is recognised. What was checked before is checked again,
    because another process may have been faster. A run that is refused before its first checkpoint leaves nothing.

    Raises:
        RecipeError: if the directory cannot be made or written, or another process trains there.
    """
    run_dir = Path(recipe.output_dir)
    with contextlib.ExitStack() as stack:
        try:
            made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
            run_dir.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(locked(run_dir)):
                raise RecipeError(
                    f"another process works in {run_dir}: wait until it has ended, or choose another folder"
                )
            check_directory(recipe, overwrite, resume)
            metadata = _metadata_by_hand(run_dir) if overwrite else {}
            if overwrite:
                _empty(run_dir)
            claim(run_dir, OWN_FILES, RECIPE, CHECKPOINTS, *([CARD] if metadata else []))
            if metadata:
                write_text(
                    run_dir / CARD, f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n"
                )
            if not (run_dir / RECIPE).is_file():
                recipe.save(run_dir / RECIPE)
        except OSError as error:
            raise RecipeError(
                f"output_dir={run_dir} cannot be written ({error.strerror}): choose another output_dir"
            ) from error
        try:
            yield
        except (RecipeError, DataError, FeatureCacheError):
            if not resume and not any((run_dir / CHECKPOINTS).glob("checkpoint-*")) and not _foreign_file(run_dir):
                _empty(run_dir)
                for folder in made:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise
