"""Checkpoints that are whole or not there: staged, renamed, and checked before a run goes on from them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging

from .. import register_auto_classes
from ..errors import CheckpointError
from ..files import check_ordinary, read_json, write_text
from ..modeling import CRForFeatureClassification, CRForSequenceClassification, sha256_of

logger = logging.get_logger(__name__)

STAGING = "unfinished"
"""Folder in which a checkpoint is written before it gets its name."""
STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
SHARDED_WEIGHTS, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
FEATURES = "features.sha256"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
CHECKSUMS = "SHA256SUMS"
"""Checksums of a checkpoint's files, as `sha256sum --check` reads them; older checkpoints have none."""


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint that an exact resume can start from, `None` if there is none.

    Torn ones, as an interrupted copy leaves them, are passed over.
    """
    from transformers.trainer_utils import sort_checkpoints  # with peft half a second: a prediction need not wait

    for path in map(Path, reversed(sort_checkpoints(str(folder)))):
        damage = damage_of(path)
        if damage is None:
            return path
        logger.warning_once(f"{path} is passed over: {damage}")
    return None


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from, `None` if nothing does."""
    is_sharded = (checkpoint / SHARDED_WEIGHTS).is_dir()  # torch's own format; it writes its metadata last
    archives = [path.name for path in checkpoint.glob("rng_state*.pth")] or ["rng_state.pth"]
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
    """The checkpoint that a resume by so many processes starts from: `asked`, or with `True` the newest in `folder`.

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


def check_fits(checkpoint: str | Path, model: nn.Module) -> None:
    """Refuse a checkpoint of another model before it is loaded; sharded checkpoints are left to torch.

    Raises:
        CheckpointError: naming the first tensor that is missing or has another shape.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    is_adapter = isinstance(model, PeftModel)
    file = Path(checkpoint) / WEIGHTS[is_adapter]
    if not file.is_file():
        return
    wanted: dict[str, Tensor] = get_peft_model_state_dict(model) if is_adapter else model.state_dict()
    with safe_open(file, framework="pt") as tensors:
        saved = {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    # A head-only model leaves out its backbone.
    left_out = getattr(model, "_keys_to_ignore_on_save", None) or ()
    missing = [name for name in wanted if name not in saved and name not in left_out]
    mend = "resume from a checkpoint of this very model"
    if missing and not getattr(model, "_tied_weights_keys", None):
        raise CheckpointError(f"{checkpoint} lacks {len(missing)} tensors of the model, {missing[0]} first: {mend}")
    for name, value in wanted.items():
        shape = list(value.shape)
        if saved.get(name, shape) != shape:
            raise CheckpointError(f"{checkpoint} has {name} of shape {saved[name]}, the model needs {shape}: {mend}")


def check_same_features(folder: Path, features: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse to go on from checkpoints of other features: the backbone, or the rows, may have changed since a kill.

    Args:
        folder: where the checkpoints are; a hash of what they were trained on is kept there.
        features: of the training rows, shape (rows, in_features).
        labels: of the same rows.

    Raises:
        CheckpointError: if the hash is another one.
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


def load_model(
    run_dir: Path, is_table: bool = False, model_class: Any = CRForSequenceClassification
) -> tuple[Any, Any]:
    """Model and tokenizer (or processor) of a folder that may come from anywhere; the run of a table has no tokenizer.

    Raises:
        CheckpointError: if they are damaged, not safetensors, not finite, not fitted, or need code of their own.
    """
    register_auto_classes()  # the tokenizer looks the configuration up
    path, mend = run_dir / "config.json", "copy it again, or train it anew"
    config = read_json(path, mend)
    kind = config.get("model_type")
    if kind != "cr":
        raise CheckpointError(f"{path} is not of a CR model (model_type={kind!r}): give the directory of a run")
    if config.get("quantization_config"):
        raise CheckpointError(f"{path} has a quantization_config, which no run has: {mend}")
    try:
        for path in run_dir.iterdir():
            check_ordinary(path)
        model = (CRForFeatureClassification if is_table else model_class).from_pretrained(run_dir)
        processor = None if is_table else getattr(transformers, model_class.auto_processor)
        tokenizer = processor and processor.from_pretrained(run_dir, trust_remote_code=False)
    except Exception as error:  # the files may hold anything, and tokenizers raises nothing narrower
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{run_dir} cannot be loaded ({cause}): {mend}") from error
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{run_dir}: {name} is not finite: the weights are damaged, copy them or train anew")
    if not model.is_fitted:
        raise CheckpointError(f"{run_dir} was saved before its feature statistics were fitted: train it anew")
    return model, tokenizer
