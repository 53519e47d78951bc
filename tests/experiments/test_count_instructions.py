"""The committed counts of instructions are of the workloads that there are."""

from __future__ import annotations

import json

from benchmarks.count_instructions import BASELINE, workloads


def test_every_workload_runs_and_has_a_committed_count() -> None:
    work = workloads()
    for call in work.values():
        call()
    assert set(json.loads(BASELINE.read_text())["instructions"]) == set(work)
