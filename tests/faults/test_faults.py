"""A sample of the faults that `benchmarks/soak.py` tries in full."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import FAULTS, JOBS, Job

CASES = [(name, kind) for name, (_, kinds) in FAULTS.items() for kind in kinds]


@pytest.fixture(scope="module")
def jobs(tiny_backbone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(tiny_backbone("bert"), folder / "backbone")
    ready: dict[str, Job] = {}

    def job(kind: str) -> Job:
        if kind not in ready:
            ready[kind] = JOBS[kind](folder / "backbone", folder)
            ready[kind].run_whole()
        return ready[kind]

    return job


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}: {kind}" for name, kind in CASES])
def test_nothing_is_lost(name: str, kind: str, jobs: Callable[[str], Job]) -> None:
    attempt, _ = FAULTS[name]
    assert attempt(jobs(kind), random.Random(name + kind)) == ""
