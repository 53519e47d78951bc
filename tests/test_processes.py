"""Two processes on the CPU (gloo) give what one gives on the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from process_jobs import SINGLE, compare

from cr_hf.sampling import EpochBatchSampler

HERE = Path(__file__).resolve().parent
JOBS = ("head", "chain", "texts")


def launch(*command: str, processes: int = 2) -> None:
    """Run a Python program in several processes of this machine, as `accelerate launch` does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    options = [f"--nproc-per-node={processes}", "--standalone"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def both(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Results of one process with batches of 16, and of two with two micro-batches of 4 each."""
    folder, backbone = tmp_path_factory.mktemp("processes"), tiny_backbone("bert")
    divided = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    launch(str(HERE / "process_jobs.py"), str(folder), str(backbone), json.dumps(divided))
    whole = compare(tmp_path_factory.mktemp("single"), backbone, **SINGLE)
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


@pytest.mark.parametrize("rows", [16, 70, 33])
@pytest.mark.parametrize("by_length", [False, True])
def test_every_division_of_a_step_sees_the_same_rows(rows: int, by_length: bool) -> None:
    lengths = [1 + row * 7 % 13 for row in range(rows)] if by_length else None

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
    lengths = list(range(100))

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochBatchSampler(100, 8, seed=seed, lengths=lengths)
        sampler.epoch = epoch
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(5, 2)
    spread = [max(batch) - min(batch) for batch in order(1, 2)]
    assert max(spread) <= 8
