"""Publish a run on the Hub, or write what would be published to a folder: checked before anything is sent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..errors import PublishError
from ..files import write_json
from ..modeling import CRBackboneModel, CRForSequenceClassification
from ..runs import CARD, PROBE, RESULTS, describe_trainer, input_probe, text_probe
from .card import write_card
from .demo import write_space
from .export import (
    ALLOWED,
    check_folder,
    check_loads,
    export_run,
    require_empty,
    require_results,
    training_texts,
)
from .upload import Published, check_access, check_name, upload

EXPORTED = ("configuration_cr.py", PROBE, CARD)
"""A folder that holds all of these is the result of an earlier dry run."""
BY_HAND = ("LICENSE", ".gitattributes")
"""They may be published, but no export writes them."""


def publish_run(
    run_dir: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    tag: str | None = None,
    head_only: bool | None = None,
    license: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> Published:
    """Publish a finished run.

    Args:
        run_dir: the finished run directory.
        repo_id: `namespace/name`; made if it does not exist.
        private: of a repository that is made; by default what the account says.
        tag: put on the commit.
        head_only: leave the frozen backbone out; by default as the run was saved.
        license: of the model, for the card.
        token: by default the one that is logged in.
        message: of the commit.

    Returns:
        What stands on the Hub, downloaded again and found equal.

    Raises:
        CheckpointError: if the run is not finished.
        PublishError: saying what was published, what was not, and the mend.
    """
    run_dir = Path(run_dir)
    require_results(run_dir)
    token = check_access(repo_id, token, tag)
    with tempfile.TemporaryDirectory() as scratch:
        folder = dry_run(run_dir, repo_id, Path(scratch) / "repository", head_only=head_only, license=license)

        def add_text_by_hand(card: str | None) -> None:
            if card is not None:
                write_card(run_dir, folder, name=repo_id, license=license, published=card)
                check_folder(folder, training_texts(run_dir))

        return upload(
            folder,
            repo_id,
            private=private,
            tag=tag,
            token=token,
            message=message,
            before=add_text_by_hand,
            after=check_loads,
        )


def publish_space(model: str, space: str, *, private: bool | None = None) -> Published:
    """Publish the page to try a published model on as a Space; `check_demo` says before whether it can be shown.

    Args:
        model: `namespace/name` of the model on the Hub.
        space: `namespace/name` of the Space; made if it does not exist.
        private: of a Space that is made.

    Returns:
        What stands on the Hub, downloaded again and found equal.

    Raises:
        PublishError: as `publish_run` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_space(model, Path(scratch) / "space")
        return upload(folder, space, kind="space", private=private, message="Publish a page to try a model on")


def publish_trainer(trainer: Any, repo_id: str, **options: Any) -> Published:
    """Publish what a `CRTrainer` has trained; options are those of `publish_run`.

    Raises:
        PublishError: if the model has no backbone, is not trained or without tokenizer, and as `publish_run` does.
    """
    model, processor = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    if not isinstance(model, CRBackboneModel):
        raise PublishError(
            f"{repo_id}: {type(model).__name__} is no classifier on a backbone of this package: nothing "
            "was published; mount the head on its backbone, or merge the adapter with merge_and_unload(), first"
        )
    if not trainer.state.global_step:
        raise PublishError(f"{repo_id}: nothing was published: the model is not trained yet, call train() first")
    if processor is None:
        raise PublishError(f"{repo_id}: nothing was published: give CRTrainer a processing_class (the tokenizer)")
    is_text = isinstance(model, CRForSequenceClassification)
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        model.save_pretrained(run_dir)
        processor.save_pretrained(run_dir)
        first: Any = {} if is_text else next(iter(trainer.get_train_dataloader()))
        write_json(run_dir / PROBE, text_probe(model, processor) if is_text else input_probe(model, first))
        write_json(run_dir / RESULTS, describe_trainer(trainer, model))
        return publish_run(run_dir, repo_id, **options)


def dry_run(run_dir: str | Path, repo_id: str, folder: Path, **options: Any) -> Path:
    """Write the repository to a folder and check it, upload nothing.

    Args:
        run_dir: the finished run directory.
        repo_id: `namespace/name`.
        folder: a new or empty one, or that of an earlier dry run, whose files are replaced; text that was written by
            hand in its card is kept.
        **options: `head_only` and `license`, see `publish_run`.

    Raises:
        PublishError: if the folder holds anything else, naming it, or as `export_run` does.
    """
    check_name(repo_id)
    earlier = _earlier_files(folder)
    card = (folder / CARD).read_text(encoding="utf-8") if earlier else None
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    # Beside it, so that the checked folder gets its name in one step, and a refusal leaves nothing.
    with tempfile.TemporaryDirectory(prefix=".cr-hf-", dir=place) as scratch:
        made = export_run(run_dir, Path(scratch) / "repository", name=repo_id, published_card=card, **options)
        check_loads(made)
        for path in earlier:
            path.unlink()
        for inner in {path.parent for path in earlier} - {folder}:
            inner.rmdir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.replace(folder)
    return folder


def _earlier_files(folder: Path) -> list[Path]:
    """The files of an earlier dry run in a folder; none if it is new or empty.

    Raises:
        PublishError: naming the first thing that a dry run does not write.
    """
    if folder.is_symlink() or not all((folder / name).is_file() for name in EXPORTED):
        require_empty(folder)
        return []
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not ALLOWED.fullmatch(name) or name in BY_HAND:
            raise PublishError(f"{folder} holds {name}, which no dry run wrote: choose another folder")
    return files
