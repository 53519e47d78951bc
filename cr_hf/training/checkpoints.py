"""Checkpoints that are either whole or not there: staged, renamed, and checked before they are resumed from."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging

from .. import register_auto_classes
from ..errors import CheckpointError
from ..files import check_ordinary, read_json, read_text, sha256_of, write_text
from ..modeling import CRForFeatureClassification, CRForSequenceClassification

logger = logging.get_logger(__name__)

STAGING = "unfinished"
"""Where a checkpoint is written before it gets its name; no name that a resume would look at."""
STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
SHARDED_WEIGHTS, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
FEATURES = "features.sha256"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
CHECKSUMS = "SHA256SUMS"
"""Of every file of a checkpoint, in the form that `sha256sum --check` reads; older checkpoints have none."""


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint that an exact resume can start from.

    Args:
        folder: where the checkpoints are.

    Returns:
        Its path, or `None` if there is none. Torn ones, as an interrupted copy leaves them, are passed over.
    """
    found = {}
    for path in Path(folder).glob("checkpoint-*") if Path(folder).is_dir() else ():
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if step and path.is_dir():
            found[int(step[1])] = path
    for _, path in sorted(found.items(), reverse=True):
        damage = damage_of(path)
        if damage is None:
            return path
        logger.warning_once(f"{path} is passed over: {damage}")
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is as it was saved and holds all that an exact resume needs."""
    return damage_of(checkpoint) is None


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from, `None` if nothing does."""
    random_states = list(checkpoint.glob("rng_state*.pth"))
    archives = [path.name for path in random_states] or ["rng_state.pth"]
    is_sharded = (checkpoint / SHARDED_WEIGHTS).is_dir()  # torch's own format; it writes its metadata last
    archives += [] if is_sharded else [OPTIMIZER, SCHEDULER]
    parts = [f"{name}/.metadata" for name in (SHARDED_WEIGHTS, SHARDED_OPTIMIZER)] if is_sharded else []
    try:
        changed = changed_file(checkpoint)
        if changed is not None:
            return f"{changed} is not as it was saved"
        missing = [name for name in archives if not zipfile.is_zipfile(checkpoint / name)]
        missing += [name for name in parts if not (checkpoint / name).is_file()]
        if missing:
            return f"{missing[0]} is missing or torn"
        read_json(checkpoint / STATE, "it is torn")
        weights = [checkpoint / name for name in WEIGHTS if (checkpoint / name).is_file()]
        if not is_sharded and not any(_are_finite(file) for file in weights):
            return "its weights are missing or not finite"
    except (OSError, CheckpointError, SafetensorError) as error:
        return str(error)
    return None


def write_checksums(checkpoint: Path) -> None:
    """Note the SHA-256 of every file of a checkpoint beside them."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(checkpoint).as_posix()}\n" for path in files]
    write_text(checkpoint / CHECKSUMS, "".join(lines))


def changed_file(checkpoint: Path) -> str | None:
    """The first file that is missing or differs from its checksum, `None` if there is none."""
    path = checkpoint / CHECKSUMS
    if not path.is_file():
        return None
    for line in path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n"):
        digest, _, name = line.partition("  ")
        file = checkpoint / name
        if not name or not file.is_file() or sha256_of(file) != digest:
            return name or CHECKSUMS
    return None


def _are_finite(file: Path) -> bool:
    with safe_open(file, framework="pt") as tensors:
        names = list(tensors.keys())
        return bool(names) and all(bool(tensors.get_tensor(name).isfinite().all()) for name in names)


def checkpoint_to_resume(asked: str | bool, folder: str, processes: int) -> Path:
    """The checkpoint that a resume starts from.

    Args:
        asked: its path, or `True` for the newest complete one.
        folder: where the checkpoints are.
        processes: how many resume.

    Raises:
        CheckpointError: if there is none, it is torn, or another number of processes saved it.
    """
    chosen = last_complete_checkpoint(folder) if asked is True else Path(str(asked))
    if chosen is None:
        raise CheckpointError(f"{folder} holds no complete checkpoint to resume from: train anew")
    damage = damage_of(chosen)
    if damage is not None:
        raise CheckpointError(
            f"{chosen} is no complete checkpoint ({damage}): resume from an earlier one (resume_from_checkpoint=True "
            "finds it)"
        )
    saved = len(list(chosen.glob("rng_state_*.pth"))) or 1
    if saved != processes:
        raise CheckpointError(
            f"{chosen} was saved by {saved} processes and cannot be resumed exactly by {processes}: start {saved}"
        )
    return chosen


def stopped_early(checkpoint: Path) -> bool:
    """Whether early stopping had ended the run when it was saved."""
    state = read_json(checkpoint / STATE, "resume from an earlier checkpoint")
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return bool(control.get("should_training_stop")) and state["global_step"] < state["max_steps"]


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes of the tensors of a safetensors file, without reading them."""
    with safe_open(file, framework="pt") as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def left_out(model: nn.Module) -> set[str]:
    """Tensors that a checkpoint of this model need not have: the backbone's, if the model is head-only."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def check_fits(checkpoint: str | Path, model: nn.Module) -> None:
    """Refuse a checkpoint of another model before it is loaded.

    Args:
        checkpoint: its folder; sharded checkpoints are left to torch.
        model: what it would be loaded into.

    Raises:
        CheckpointError: naming the first tensor that is missing or has another shape.
    """
    is_adapter = isinstance(model, PeftModel)
    file = Path(checkpoint) / WEIGHTS[is_adapter]
    if not file.is_file():
        return
    wanted: dict[str, Any] = get_peft_model_state_dict(model) if is_adapter else model.state_dict()
    saved = tensor_shapes(file)
    missing = [name for name in wanted if name not in saved and name not in left_out(model)]
    tied = getattr(model, "_tied_weights_keys", None)
    if missing and not tied:
        raise CheckpointError(
            f"{checkpoint} lacks {len(missing)} tensors of the model, {missing[0]} first: resume from a checkpoint of "
            "this very model"
        )
    for name, value in wanted.items():
        if name in saved and saved[name] != list(value.shape):
            raise CheckpointError(
                f"{checkpoint} has {name} of shape {saved[name]}, the model needs {list(value.shape)}: resume from a "
                "checkpoint of this very model"
            )


def check_same_features(folder: Path, features: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse to go on from checkpoints of other features: the backbone, or the rows, may have changed since a kill.

    Args:
        folder: where the checkpoints are; what they were trained on is noted there.
        features: of the training rows.
        labels: of the same rows.

    Raises:
        CheckpointError: if they are not those of the checkpoints.
    """
    digest = hashlib.sha256(np.ascontiguousarray(labels).data)
    kept_in = getattr(features, "filename", None)
    # The cache names them by a hash of all that they depend on.
    digest.update(Path(kept_in).parent.name.encode() if kept_in else np.ascontiguousarray(features).data)
    path = folder / FEATURES
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before == digest.hexdigest():
        return
    if before and last_complete_checkpoint(folder):
        raise CheckpointError(
            f"{folder} was trained on other features, since the backbone or the data changed: put them back, or train "
            "anew with --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(digest.hexdigest(), encoding="utf-8")


def check_config(folder: Path) -> None:
    """Refuse a configuration that is no CR classifier's before anything is built from it.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    path = folder / "config.json"
    try:
        config = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again, or train it anew") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "cr":
        raise CheckpointError(f"{path} is not of a CR model (model_type={kind!r}): give the directory of a run")
    if config.get("quantization_config"):
        raise CheckpointError(f"{path} has a quantization_config, which no run has: copy it again, or train it anew")


def load_model(run_dir: Path, is_table: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer of a folder that may come from anywhere; the run of a table has no tokenizer.

    Raises:
        CheckpointError: if they are damaged, not safetensors, or need code of their own.
    """
    register_auto_classes()  # the tokenizer looks the configuration up
    check_config(run_dir)
    try:
        for path in run_dir.iterdir():
            check_ordinary(path)
        model = (CRForFeatureClassification if is_table else CRForSequenceClassification).from_pretrained(run_dir)
        tokenizer = None if is_table else AutoTokenizer.from_pretrained(run_dir, trust_remote_code=False)
    except Exception as error:  # the files may hold anything, and tokenizers raises nothing narrower
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{run_dir} cannot be loaded ({cause}): copy it again, or train it anew") from error
    check_weights(run_dir, model)
    return model, tokenizer


@torch.no_grad()
def check_weights(place: Path, model: nn.Module) -> None:
    """Refuse weights that could only predict nonsense.

    Raises:
        CheckpointError: naming the first tensor that is not finite, or if the head was never fitted.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{place}: {name} is not finite: the weights are damaged, copy them or train anew")
    if not model.is_fitted:
        raise CheckpointError(f"{place} was saved before its feature statistics were fitted: train it anew")


def publish(staged: Path, final: Path) -> None:
    """Give a staged checkpoint its checksums and its name, in one step; an older one of that name is replaced."""
    write_checksums(staged)
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
