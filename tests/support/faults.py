"""Faults of encoding, training and studies: what they left goes on to the same result, or one clear error is told.

`tests/reliability/test_faults.py` tries a sample of them, `tests/support/soak.py` all.
"""

import contextlib
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import Child, Ended, one_line
from fault_jobs import OUT, TEXTS, Encoding, Job, Study, Training
from safetensors.torch import load_file, save_file

import cr_hf.features.encode
import cr_hf.training.trainer
from cr_hf import CRForSequenceClassification
from cr_hf.features.encode import encode_texts
from cr_hf.training.checkpoints import damage_of, last_complete_checkpoint, write_checksums

# ---- each fault returns what broke a promise, empty if nothing did ----


def kill(job: Job, moments: random.Random) -> str:
    """SIGKILL at a random moment."""
    place = job.new_place()
    child = job.start(place)
    time.sleep(moments.uniform(0.02, 1.0) * job.seconds)
    child.kill()
    return job.goes_on(place)


def kill_often(job: Job, moments: random.Random) -> str:
    """SIGKILL at three random moments, one after another."""
    place = job.new_place()
    for _ in range(3):
        if not job.is_finished(place):
            child = job.start(place)
            time.sleep(moments.uniform(0.3, 1.0) * job.seconds)
            child.kill()
    return job.goes_on(place)


def refused(ended: Ended) -> str:
    """What is wrong with how an error was told; empty if it is one clear line, or nothing went wrong."""
    line = one_line(ended)
    return "" if ended.code == 0 or not line.startswith("[") else line


def full_disk(job: Job, moments: random.Random) -> str:
    """No file can grow above a random size."""
    place = job.new_place()
    size = int(np.exp(moments.uniform(np.log(8_000), np.log(130_000))))
    problem = refused(job.start(place, file_size=size).wait())
    return f"{problem} (files of {size} bytes)" if problem else job.goes_on(place)


def read_only(job: Job, moments: random.Random) -> str:
    """The folder forbids writing, from the start or after a kill."""
    place = job.new_place()
    if moments.random() < 0.5:
        child = job.start(place)
        time.sleep(moments.uniform(0.5, 0.9) * job.seconds)
        child.kill()
    finished = job.is_finished(place)
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    files = [path for path in place.rglob("*") if path.is_file()]
    for path in (*folders, *files):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    ended = job.start(place, obeys=True).wait()
    for path in (*folders, *files):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    if ended.code == 0 and not finished and not isinstance(job, Encoding):
        return "it wrote where it must not"
    return refused(ended) or job.goes_on(place)


def two_processes(job: Job, moments: random.Random) -> str:
    """The same command twice at once."""
    place = job.new_place()
    children = [job.start(place)]
    time.sleep(moments.uniform(0.0, 0.7) * job.seconds)
    children.append(job.start(place))
    both = [child.wait() for child in children]
    if all(ended.code for ended in both):
        return f"neither went on: {one_line(both[0])} | {one_line(both[1])}"
    return refused(both[0]) or refused(both[1]) or job.goes_on(place)


def damaged_cache(job: Job, moments: random.Random) -> str:
    """Bytes of kept features change, or are cut off."""
    place = job.new_place()
    job.start(place).wait()
    (path,) = place.glob("*/*.npy")
    content = bytearray(path.read_bytes())
    at = moments.randrange(len(content))
    if moments.random() < 0.3:
        content = content[:at]
    else:
        content[at] ^= moments.randrange(1, 256)
    path.write_bytes(content)
    return job.goes_on(place)


@contextlib.contextmanager
def another_backbone(folder: Path) -> Iterator[None]:
    """Other weights in the place of a backbone's, for a while."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    weights = {name: value * 1.5 for name, value in load_file(path).items()}
    try:
        save_file(weights, path, metadata={"format": "pt"})
        yield
    finally:
        path.write_bytes(content)


def _drop_features_of_now(job: Encoding, place: Path) -> bool:
    """Remove what was kept of the backbone that is there now; whether there was exactly that."""
    fresh = encode_texts(*job.model_and_tokenizer(), TEXTS, cache_dir=False)
    found = [path.parent for path in place.glob("*/*.npy") if np.allclose(np.load(path), fresh, atol=1e-4)]
    for folder in found:
        shutil.rmtree(folder)
    return len(found) == 1


def replaced_backbone(job: Job, moments: random.Random) -> str:
    """Half-way, the weights of the backbone become others."""
    place = job.new_place()
    child = job.start(place)
    time.sleep(moments.uniform(0.3, 1.0) * job.seconds)
    child.kill()
    finished, began = job.is_finished(place), last_complete_checkpoint(place / OUT / "checkpoints") is not None
    with another_backbone(job.backbone):
        ended = job.start(place).wait()
        if isinstance(job, Encoding) and not _drop_features_of_now(job, place):
            return f"no features of the backbone that is there: {ended.errors[-1000:]}"
    if isinstance(job, Encoding):
        return job.goes_on(place)
    if began and not finished and ended.code == 0:
        return "it went on with another backbone"
    if ended.code == 0:
        return ""  # it had not begun to train: it is a run of the other backbone
    return refused(ended) or job.goes_on(place)


# ---- injected NaN, in training ----


def nan_in_a_gradient(job: Job, moments: random.Random) -> str:
    """From some step on, a gradient is NaN."""
    step = moments.randrange(1, 45)
    real = cr_hf.training.trainer.CRTrainer.training_step

    def spoiled(trainer: Any, model: Any, *rest: Any, **more: Any) -> Any:
        loss = real(trainer, model, *rest, **more)
        if trainer.state.global_step == step:
            next(value for value in model.parameters() if value.grad is not None).grad[0] = float("nan")
        return loss

    return _spoil(job, lambda: setattr(cr_hf.training.trainer.CRTrainer, "training_step", spoiled))


def nan_in_a_weight(job: Job, moments: random.Random) -> str:
    """After some step, a weight is NaN."""
    step = moments.randrange(1, 45)
    real = cr_hf.training.trainer.CRTrainer.training_step

    def spoiled(trainer: Any, model: Any, *rest: Any, **more: Any) -> Any:
        if trainer.state.global_step == step:
            with torch.no_grad():
                next(model.parameters())[0] = float("nan")
        return real(trainer, model, *rest, **more)

    return _spoil(job, lambda: setattr(cr_hf.training.trainer.CRTrainer, "training_step", spoiled))


def nan_in_a_feature(job: Job, moments: random.Random) -> str:
    """The backbone gives NaN for some text."""
    row = moments.randrange(100)
    real = CRForSequenceClassification.get_features

    def spoiled(model: Any, **inputs: Any) -> Any:
        features = real(model, **inputs)
        features[row % len(features), 0] = float("nan")
        return features

    def install() -> None:
        CRForSequenceClassification.get_features = spoiled  # type: ignore[method-assign]
        cr_hf.features.encode.default_cache_dir = lambda: job.folder / f"nan-{job.tries}"

    return _spoil(job, install)


def _spoil(job: Job, install: Callable[[], None]) -> str:
    """Train with a fault that is installed in the child alone."""
    place = job.new_place()
    ended = Spoiled(job, install).start(place).wait()
    if ended.code == 0:
        return "NaN was not noticed"
    return refused(ended) or job.goes_on(place)


@dataclass
class Spoiled:
    """A job whose child does something first."""

    job: Job
    install: Callable[[], None]

    def start(self, place: Path) -> Child:
        """Begin it."""
        import cr_hf.cli

        real = cr_hf.cli.main

        def main() -> None:
            self.install()
            real()

        cr_hf.cli.main = main  # type: ignore[assignment]
        try:
            return self.job.start(place)
        finally:
            cr_hf.cli.main = real  # type: ignore[assignment]


def _killed_with_two_checkpoints(job: Job) -> tuple[Path, Path]:
    """Where the try is, and its newest checkpoint."""
    place = job.new_place()
    child = job.start(place)
    folder = place / OUT / "checkpoints"
    while len(list(folder.glob("checkpoint-*"))) < 2 and not job.is_finished(place):
        time.sleep(0.005)
    child.kill()
    return place, max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


def flipped_bit(job: Job, moments: random.Random) -> str:
    """Killed, and one bit of a file of the newest checkpoint is another: an earlier one is whole."""
    place, newest = _killed_with_two_checkpoints(job)
    if job.is_finished(place):
        return job.goes_on(place)
    path = moments.choice(sorted(path for path in newest.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(content)
    if damage_of(newest) is None:
        return f"a bit of {path.name} was not noticed"
    return job.goes_on(place, loads=False)


def nan_in_a_checkpoint(job: Job, moments: random.Random) -> str:
    """Killed, and a number of the newest checkpoint is NaN: an earlier one is whole."""
    place, newest = _killed_with_two_checkpoints(job)
    if job.is_finished(place):
        return job.goes_on(place)
    weights = load_file(newest / "model.safetensors")
    name = moments.choice([name for name, value in weights.items() if value.is_floating_point()])
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, newest / "model.safetensors", metadata={"format": "pt"})
    write_checksums(newest)
    if damage_of(newest) is None:
        return "NaN was not noticed"
    return job.goes_on(place, loads=False)


JOBS: dict[str, type[Job]] = {"encoding": Encoding, "training": Training, "study": Study}
FAULTS: dict[str, tuple[Callable[[Job, random.Random], str], tuple[str, ...]]] = {
    "SIGKILL at a random moment": (kill, ("encoding", "training", "study")),
    "SIGKILL three times": (kill_often, ("encoding", "training", "study")),
    "full disk (file size limit)": (full_disk, ("encoding", "training", "study")),
    "read-only folder": (read_only, ("encoding", "training", "study")),
    "two processes in one folder": (two_processes, ("encoding", "training", "study")),
    "damaged cache shard": (damaged_cache, ("encoding",)),
    "backbone replaced": (replaced_backbone, ("encoding", "training", "study")),
    "NaN in a gradient": (nan_in_a_gradient, ("training",)),
    "NaN in a weight": (nan_in_a_weight, ("training",)),
    "NaN in a checkpoint": (nan_in_a_checkpoint, ("training",)),
    "a flipped bit in a checkpoint": (flipped_bit, ("training",)),
    "NaN in a feature": (nan_in_a_feature, ("training", "study")),
}
