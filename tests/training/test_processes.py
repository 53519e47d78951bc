"""Two processes on the CPU (gloo) give what one gives on the same global batch."""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate.commands.launch
import numpy as np
import pytest
import torch
from children import Child, fork_workers, run_command, start_together
from process_jobs import SINGLE, compare, train_sharded
from safetensors.torch import load_file

from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.training.sampling import EpochBatchSampler

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("head", "chain", "texts")


@pytest.fixture(scope="module")
def both(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Results of one process with batches of 16, and of two with two micro-batches of 4 each."""
    folder, backbone = tmp_path_factory.mktemp("processes"), tiny_backbone("bert")

    def divided() -> None:
        results = compare(folder, backbone, per_device_train_batch_size=4, gradient_accumulation_steps=2)
        if os.environ["RANK"] == "0":
            torch.save(results, folder / "results.pt")

    children = start_together(divided)
    whole = compare(tmp_path_factory.mktemp("single"), backbone, **SINGLE)
    for ended in [child.wait() for child in children]:
        assert ended.code == 0, ended.errors[-4000:]
    return whole, torch.load(folder / "results.pt", weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_losses_gradient_norms_and_dreg_are_those_of_one_process(both: tuple[Any, Any], job: str) -> None:
    whole, divided = (results[job]["logs"] for results in both)
    assert len(whole) == len(divided) >= 5
    for one, other in zip(whole, divided, strict=True):
        for name in ("loss", "grad_norm", "task_loss", "dreg", "dreg_layer_1", "dreg_readout", "dreg_lambda"):
            assert one[name] == pytest.approx(other[name], rel=1e-6), name


@pytest.mark.slow
def test_sharded_weights_killed_and_resumed_are_those_of_one_process(
    both: tuple[Any, Any], tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    backbone, whole = tiny_backbone("bert"), both[0]["texts"]
    for killed in (True, False):
        children = start_together(partial(train_sharded, tmp_path, backbone, killed))
        for ended in [child.wait() for child in children]:
            assert ended.code == (-signal.SIGKILL if killed else 0), ended.errors[-4000:]
    divided = torch.load(tmp_path / "results.pt")
    for one, other in zip(whole["logs"], divided["logs"], strict=True):
        for name in ("loss", "grad_norm", "dreg", "dreg_layer_1", "dreg_readout"):
            assert one[name] == pytest.approx(other[name], rel=1e-6), name
    for name, value in whole["weights"].items():
        torch.testing.assert_close(divided["weights"][name].to(value.dtype), value, rtol=1e-6, atol=1e-7)
    numbers = sum(value.numel() for name, value in whole["weights"].items() if "feature_norm" not in name)
    assert 0.5 <= divided["held"] / numbers < 0.52  # tensors of odd length are divided unevenly


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_final_weights_and_statistics_are_those_of_one_process(both: tuple[Any, Any], job: str) -> None:
    whole, divided = (results[job]["weights"] for results in both)
    for name, value in whole.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_predictions_come_once_and_in_order(both: tuple[Any, Any], job: str) -> None:
    whole, divided = (torch.from_numpy(results[job]["predictions"]) for results in both)
    torch.testing.assert_close(divided, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_gradient_tail_ratio_is_that_of_one_process(both: tuple[Any, Any], job: str) -> None:
    whole, divided = (results[job]["tail_ratio"] for results in both)
    assert whole > 1
    assert divided == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("rows", [16, 70, 33])
@pytest.mark.parametrize("by_length", [False, True])
def test_every_division_of_a_step_sees_the_same_rows(rows: int, by_length: bool) -> None:
    lengths = np.array([1 + row * 7 % 13 for row in range(rows)]) if by_length else None

    def steps(batch_size: int, accumulation: int, processes: int) -> list[set[int]]:
        samplers = [
            EpochBatchSampler(rows, batch_size, accumulation, 5, lengths=lengths, processes=processes, process=process)
            for process in range(processes)
        ]
        for sampler in samplers:
            sampler.epoch = 3
        batches = [list(sampler) for sampler in samplers]
        assert {len(own) for own in batches} == {len(samplers[0])}
        return [
            {row for own in batches for batch in own[start : start + accumulation] for row in batch}
            for start in range(0, len(samplers[0]), accumulation)
        ]

    whole = steps(16, 1, 1)
    assert sorted(row for step in whole for row in step) == list(range(rows))
    assert steps(4, 4, 1) == whole
    halves = steps(4, 2, 2)
    for step, divided in zip(whole, halves, strict=False):
        assert divided == step or (len(step) % 2 and divided < step and len(step - divided) == 1)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.arange(100)

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochBatchSampler(100, 8, seed=seed, lengths=lengths)
        sampler.epoch = epoch
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(5, 2)
    spread = [max(batch) - min(batch) for batch in order(1, 2)]
    assert max(spread) <= 8


@pytest.mark.slow
def test_the_command_line_and_accelerate_launch_are_the_same_run(
    tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    recipe, configs = ROOT / "recipes" / "demo.yaml", ROOT / "configs" / "accelerate"
    values = ["data.max_train_samples=60", "data.max_eval_samples=31", "num_train_epochs=2", "hidden_sizes=[8]"]
    values += ["dropout=0", "optim=sgd", "use_cpu=true", f"backbone={tiny_backbone('bert')}"]
    train = ["train", str(recipe), *values, "per_device_train_batch_size=8"]

    def launch(configuration: str, folder: str) -> None:
        options = ["--main_process_port=0", "--config_file", str(configs / configuration), "-m", "cr_hf.cli"]
        fork_workers()
        sys.argv = ["accelerate", *options, *train, f"output_dir={tmp_path / folder}"]
        accelerate.commands.launch.main()

    for folder, ended in (
        ("flag", run_command([*train, "--num-processes", "2", f"output_dir={tmp_path / 'flag'}"], tmp_path)),
        ("launch", Child(lambda: launch("ddp.yaml", "launch")).wait()),
        ("sharded", Child(lambda: launch("fsdp2.yaml", "sharded")).wait()),
    ):
        assert ended.code == 0, ended.errors[-3000:]
        assert ended.output.count("Saved in") == 1
        assert ended.errors.count("on the CPU every process holds the whole model") == (folder == "sharded")
    train_recipe(load_recipe(recipe, [*values, "per_device_train_batch_size=16", f"output_dir={tmp_path / 'single'}"]))
    files = [tmp_path / name / "model.safetensors" for name in ("flag", "launch", "sharded", "single")]
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    one, other = load_file(files[0]), load_file(files[3])
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-6)
    results = [json.loads((file.parent / "results.json").read_text()) for file in files]
    assert [result["environment"]["processes"] for result in results] == [2, 2, 2, 1]
    assert results[0]["metrics"]["test"]["accuracy"] == results[3]["metrics"]["test"]["accuracy"]


def test_a_bad_recipe_starts_no_process(tmp_path: Path) -> None:
    ended = run_command(["train", "none.yaml", "--num-processes", "2"], tmp_path)
    assert ended.code == 2
    assert "is not a file" in ended.errors
