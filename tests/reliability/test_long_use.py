"""A little of the long use that `tests/support/soak.py` measures in full."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from long_use import slope

SUPPORT = Path(__file__).resolve().parents[1] / "support"
# In a process of its own: what other tests have begun there grows beside it.
# oneDNN keeps what it has compiled for each new shape, up to a limit that is far from here.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from long_use import use
with torch.backends.mkldnn.flags(enabled=False):
    found = use(Path(sys.argv[1]), Path(sys.argv[2]), predictions=2000, cycles=3, calls=100)
print(json.dumps(found))
"""


def test_nothing_leaks_and_threads_agree(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tiny_backbone("bert")), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("predictions", "train_save_load_cycles"):
        before, after = found[name]["open_files"]
        assert after <= before
        assert found[name]["temporary_files_left"] == []
    memory = found["predictions"]["memory"]
    assert memory["interval_low"] <= 500, "bytes a prediction"
    assert found["threads"] == {**found["threads"], "threads": 8, "calls": 100, "differing": 0}


def test_a_leak_has_a_slope() -> None:
    steps = list(range(0, 1000, 10))
    found = slope(steps, [10**6 + 64 * step + step % 7 for step in steps])
    assert found["interval_low"] <= 64 <= found["interval_high"]
    assert found["bytes_a_step"] == pytest.approx(64, abs=0.1)
    flat = slope(steps, [10**6 + step % 7 for step in steps])
    assert flat["interval_low"] <= 0 <= flat["interval_high"]
