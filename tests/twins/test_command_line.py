"""From Python and from the command line: the same files, the same numbers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cr_hf.cli
from cr_hf.runs import Run, diagnose_run, evaluate_run, load_recipe, predict_run, train_recipe
from cr_hf.study import run_study, write_report

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=60", "data.max_eval_samples=30", "num_train_epochs=1", "hidden_sizes=[4]"]
TINY += ["use_cpu=true", "disable_tqdm=true", "dreg_lambda=auto"]
TEXTS = ["a gorgeous, witty film", "boring", "so bad"]

TinyBackbone = Callable[..., Path]


def command(*arguments: object) -> None:
    """Run `cr-hf` in this process, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cr-hf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
    assert not stopped.value.code


def without(values: Any, *names: str) -> Any:
    """JSON without the keys that a clock decides."""
    if isinstance(values, dict):
        return {key: without(value, *names) for key, value in values.items() if key not in names}
    return [without(value, *names) for value in values] if isinstance(values, list) else values


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run, by a call and by a command."""
    called, commanded = (tmp_path_factory.mktemp(name) / "run" for name in ("called", "commanded"))
    overrides = [f"backbone={tiny_backbone('bert')}", *TINY]
    train_recipe(load_recipe(RECIPE, [*overrides, f"output_dir={called}"]))
    command("train", RECIPE, *overrides, f"output_dir={commanded}")
    return called, commanded


def test_train(runs: tuple[Path, Path]) -> None:
    called, commanded = runs
    names = sorted(path.relative_to(called).as_posix() for path in called.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(commanded).as_posix() for path in commanded.rglob("*") if path.is_file())
    assert {"README.md", "results.json", "run_files.json"} <= set(names)
    for name in ("model.safetensors", "config.json", "probe.json", "tokenizer.json", "run_files.json"):
        assert (called / name).read_bytes() == (commanded / name).read_bytes(), name
    clocks = ("seconds_preparing", "seconds_training")
    assert without(read(called / "results.json"), *clocks) == without(read(commanded / "results.json"), *clocks)
    cards = [(run / "README.md").read_text(encoding="utf-8").splitlines() for run in runs]
    assert [line for line in cards[0] if " s of training" not in line] == [
        line for line in cards[1] if " s of training" not in line
    ]


def test_evaluate(runs: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    command("evaluate", runs[0], "data.max_eval_samples=20", "--perturb", "typos", "--seed", 3, "--output", output)
    assert read(output) == evaluate_run(runs[0], "test", {"max_eval_samples": 20}, ["typos"], 3)


@pytest.mark.parametrize("options", [[], ["--radius"]], ids=str)
def test_predict(options: list[str], runs: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command("predict", runs[0], *TEXTS, *options, "--output", output)
    run = Run(runs[0])
    expected = [
        {
            **found.record,
            "label": run.task.label_of(found.scores),
            **({"radius": found.radius} if options else {}),
            "probabilities": dict(zip(run.task.label_names, found.scores, strict=True)),
        }
        for found in predict_run(run, TEXTS, radius=bool(options))
    ]
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] == expected


def test_diagnose(runs: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    command("diagnose", runs[0], *TEXTS, "--output", output)
    run = Run(runs[0])
    assert read(output) == {**run.reference, "new_texts": json.loads(json.dumps(diagnose_run(run, TEXTS)))}


def test_study(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    overrides = [f"backbone={tiny_backbone('bert')}", *TINY[:-1]]
    called, commanded = tmp_path / "called", tmp_path / "commanded"
    found = run_study(load_recipe(RECIPE, overrides), ["linear", "cr"], [1.0], 2, called, search_seeds=2)
    write_report(found, called)
    asked = ["--heads", "linear,cr", "--fractions", "1", "--seeds", "2", "--search-seeds", "2"]
    command("study", RECIPE, *overrides, *asked, "--output", commanded)
    assert {path.name for path in called.iterdir()} == {path.name for path in commanded.iterdir()}
    clocks = ("seconds_training", "seconds")
    assert without(read(called / "study.json"), *clocks) == without(read(commanded / "study.json"), *clocks)
