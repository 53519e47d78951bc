"""What a GPU is measured by runs, small, on the CPU."""

from __future__ import annotations

import pytest
import torch

from experiments.runner import ROOT


def test_every_row_runs_small_on_the_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(torch, "compile", lambda function: function)  # what it costs on a CPU is measured elsewhere
    from bench_gpu import main

    main(["--rehearse"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(set(rows)) == 8
    if not torch.cuda.is_available():
        main([])
        assert "no GPU" in capsys.readouterr().out
