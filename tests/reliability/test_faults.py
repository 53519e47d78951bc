"""A sample of the faults that `tests/support/soak.py` tries in full."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import hostile
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


def test_the_committed_soak_tried_everything_and_lost_nothing() -> None:
    soak = Path(__file__).parents[2] / "experiments" / "results" / "soak.json"
    parts = json.loads(soak.read_text(encoding="utf-8"))["parts"]
    tried = {part: {case["case"] for case in found["cases"]} for part, found in parts.items()}
    assert tried == {"hostile": set(hostile.CASES), "faults": {f"{name}: {kind}" for name, kind in CASES}}
    assert [part["lost"] for part in parts.values()] == [0, 0]
