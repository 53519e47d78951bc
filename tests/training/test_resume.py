"""A run that SIGKILL ended, at whatever moment, and that was resumed, ends with the weights of one never stopped."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from children import Child, start_together
from process_jobs import early_stopping_trainer
from safetensors.torch import load_file, save_file

from cr_hf import CRTrainer
from cr_hf.errors import CheckpointError, RecipeError
from cr_hf.runs.directory import open_directory
from cr_hf.runs.recipe import Recipe, load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.training.checkpoints import check_same_features, damage_of, last_complete_checkpoint, write_checksums

TinyBackbone = Callable[..., Path]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY = ["data.name=embedded", "data.label_names=null", "data.max_train_samples=60", "data.max_eval_samples=30"]
TINY += ["hidden_sizes=[8]", "use_cpu=true", "dropout=0.3", "disable_tqdm=true", "num_train_epochs=4"]
TINY += ["eval_strategy=steps", "save_strategy=steps", "eval_steps=3", "save_steps=3", "warmup_steps=2"]
TINY += ["per_device_train_batch_size=16", "early_stopping_patience=2", "dreg_schedule=linear"]


def recipe_of(kind: str, folder: Path, backbone: Path) -> Recipe:
    name = {"frozen": "demo", "fine-tuned": "sst5_finetune", "lora": "sst5_lora"}[kind]
    more = ["lora_r=2"] if kind == "lora" else []
    return load_recipe(RECIPES / f"{name}.yaml", [f"backbone={backbone}", f"output_dir={folder}", *TINY, *more])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "fine-tuned", "lora"])
def test_killed_at_random_moments(kind: str, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    backbone = tiny_backbone("bert")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.perf_counter()
    train_recipe(recipe_of(kind, whole, backbone))
    duration = time.perf_counter() - started
    moments, recipe = random.Random(7), recipe_of(kind, broken, backbone)
    for _ in range(5):
        child = Child(lambda: train_recipe(recipe, resume=True))
        time.sleep(moments.uniform(0.3, 0.9) * duration)
        child.kill()
    if not (broken / "results.json").is_file():
        train_recipe(recipe, resume=True)
    for name in (
        "model.safetensors",
        "trainer_state.json",
        *(["adapter/adapter_model.safetensors"] * (kind == "lora")),
    ):
        one, other = ((folder / name).read_bytes() for folder in (whole, broken))
        if name == "trainer_state.json":
            continue
        assert one == other, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CRTrainer:
    """A run that was never stopped but by early stopping."""
    trainer = early_stopping_trainer(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("call", [1, 2, 5, 6])
def test_killed_while_a_checkpoint_is_written(call: int, whole: CRTrainer, tmp_path: Path) -> None:
    """Each checkpoint calls torch.save three times: optimizer, schedule, random state."""
    save, calls = torch.save, []

    def killing(value: object, file: str) -> None:
        calls.append(file)
        if len(calls) == call:
            Path(file).write_bytes(b"PK torn")
            os.kill(os.getpid(), signal.SIGKILL)
        save(value, file)

    def train() -> None:
        torch.save = killing
        early_stopping_trainer(tmp_path / "broken").train()

    assert Child(train).wait().code == -signal.SIGKILL
    last = last_complete_checkpoint(tmp_path / "broken")
    assert (last is None) == (call <= 3)
    assert_resumes_to(whole, tmp_path / "broken", resume=last is not None)


def assert_resumes_to(whole: CRTrainer, folder: Path, resume: bool = True) -> None:
    resumed = early_stopping_trainer(folder)
    resumed.train(resume_from_checkpoint=resume or None)
    assert resumed.state.global_step == whole.state.global_step
    assert resumed.state.best_metric == whole.state.best_metric
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_killed_after_early_stopping_had_ended_it(whole: CRTrainer, tmp_path: Path) -> None:
    """The checkpoint of the last evaluation is saved, the best one not yet loaded back."""
    assert whole.state.global_step < whole.state.max_steps

    def train() -> None:
        trainer = early_stopping_trainer(tmp_path / "broken")
        trainer._load_best_model = lambda: os.kill(os.getpid(), signal.SIGKILL)
        trainer.train()

    assert Child(train).wait().code == -signal.SIGKILL
    assert_resumes_to(whole, tmp_path / "broken")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, of step 9 and 18."""
    folder = tmp_path_factory.mktemp("checkpoints")
    early_stopping_trainer(folder, num_train_epochs=2, save_total_limit=5).train()
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_torn_checkpoint_is_passed_over(name: str, checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    steps = sorted(int(path.name.partition("-")[2]) for path in tmp_path.glob("checkpoint-*"))
    torn = tmp_path / f"checkpoint-{steps[-1]}"
    assert last_complete_checkpoint(tmp_path) == torn
    content = (torn / name).read_bytes()
    (torn / name).write_bytes(content[: len(content) // 2])
    assert damage_of(torn) is not None
    assert last_complete_checkpoint(tmp_path) == tmp_path / f"checkpoint-{steps[-2]}"
    with pytest.raises(CheckpointError, match="is no complete checkpoint"):
        early_stopping_trainer(tmp_path).train(resume_from_checkpoint=str(torn))


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"]
)
def test_one_flipped_bit_is_noticed(
    name: str, checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loaded as it is, each of these files would give other weights, or none."""
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    earlier, last = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    content = bytearray((last / name).read_bytes())
    content[len(content) // 2] ^= 1
    (last / name).write_bytes(content)
    assert last_complete_checkpoint(tmp_path) == earlier
    assert f"{last} is passed over: {name} is not as it was saved" in caplog.messages
    with pytest.raises(CheckpointError, match=rf"checkpoint-\d+ is no complete checkpoint \({re.escape(name)} is not"):
        early_stopping_trainer(tmp_path).train(resume_from_checkpoint=str(last))


def test_a_flipped_bit_of_the_best_weights_is_noticed(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    trainer = early_stopping_trainer(tmp_path)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-9")
    trainer._load_best_model()
    content = bytearray((tmp_path / "checkpoint-9" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "checkpoint-9" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-9: model\.safetensors is not as it was saved"):
        trainer._load_best_model()


def test_a_checkpoint_without_checksums_is_read(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "checkpoint-9", tmp_path / "checkpoint-9")
    (tmp_path / "checkpoint-9" / "SHA256SUMS").unlink()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-9"


def test_a_checkpoint_with_nan_is_passed_over(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    earlier, last = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    weights = load_file(last / "model.safetensors")
    weights["classifier.readout.bias"][0] = float("nan")
    save_file(weights, last / "model.safetensors", metadata={"format": "pt"})
    write_checksums(last)
    assert last_complete_checkpoint(tmp_path) == earlier


def test_checkpoints_of_other_features_are_refused(tmp_path: Path) -> None:
    features, labels = np.ones((4, 2), np.float32), np.arange(4)
    check_same_features(tmp_path, features, labels)
    check_same_features(tmp_path, features + 1, labels)  # no checkpoint yet: it starts anew
    early_stopping_trainer(tmp_path, num_train_epochs=1).train()
    check_same_features(tmp_path, features + 1, labels)
    for other in ((features, labels), (features + 1, labels[::-1])):
        with pytest.raises(CheckpointError, match="was trained on other features, since the backbone or the data"):
            check_same_features(tmp_path, *other)


def test_one_process_at_a_time_trains_in_a_directory(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    recipe = recipe_of("frozen", tmp_path / "run", tiny_backbone("bert"))
    with (
        open_directory(recipe, overwrite=False, resume=False),
        pytest.raises(RecipeError, match="another process works in"),
        open_directory(recipe, overwrite=False, resume=True),
    ):
        pass
    with open_directory(recipe, overwrite=False, resume=True):
        pass


def test_a_checkpoint_of_another_shape_is_one_line(tmp_path: Path) -> None:
    early_stopping_trainer(tmp_path, num_train_epochs=1).train()
    other = early_stopping_trainer(tmp_path)
    other.model.classifier.readout = torch.nn.Linear(8, 4)
    with pytest.raises(
        CheckpointError, match=r"has classifier\.readout\.weight of shape \[3, 8\].*needs \[4, 8\]"
    ) as e:
        other.train(resume_from_checkpoint=True)
    assert "\n" not in str(e.value)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    trainer = early_stopping_trainer(tmp_path, num_train_epochs=1)
    trainer.train()
    checkpoint = last_complete_checkpoint(tmp_path)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state_1.pth").write_bytes((checkpoint / "rng_state_0.pth").read_bytes())
    write_checksums(checkpoint)
    with pytest.raises(CheckpointError, match="was saved by 2 processes and cannot be resumed exactly by 1"):
        early_stopping_trainer(tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_two_processes_killed_while_they_save(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    def start(name: str, resume: bool = False) -> list[Child]:
        recipe = recipe_of("fine-tuned", tmp_path / name, tiny_backbone("bert"))
        return start_together(lambda: train_recipe(recipe, resume=resume))

    broken = start("broken")
    staged = tmp_path / "broken" / "checkpoints" / "unfinished" / "checkpoint-6"
    until = time.monotonic() + 300
    while not staged.exists() and time.monotonic() < until:
        time.sleep(0.001)
    for child in broken:
        os.kill(child.pid, signal.SIGKILL)
    for child in broken:
        child.wait()
    assert not (tmp_path / "broken" / "results.json").exists()
    for children in (start("broken", resume=True), start("whole")):
        for ended in [child.wait() for child in children]:
            assert ended.code == 0, ended.errors[-3000:]
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == other
