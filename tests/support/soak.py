"""Everything that the package is to survive, in full; the tests try a sample of it.

The cases are those of `hostile.py`, `faults.py` and `long_use.py`. `make soak` runs it, with what it needs in the
environment. Writes experiments/results/soak.json, in which parts that are not asked for stay as they are.
"""

from __future__ import annotations

import conftest  # isort: skip, before anything of Hugging Face: it turns the network off

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faults
import hostile
import long_use
import torch
from children import Child
from packaging.requirements import Requirement
from transformers import AutoModel

from cr_hf.files import write_json
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.results import describe_machine
from cr_hf.runs.train import train_recipe

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("report", "images", "test")
TESTS = ("modeling", "evaluation", "training", "data", "runs")
COUNTS = ("tried", "survived", "lost")
PARTS = ("hostile", "faults", "long_use", "lower_bounds")


def make_backbone(folder: Path) -> Path:
    """A tiny encoder with random weights and its tokenizer."""
    torch.manual_seed(0)
    AutoModel.from_config(conftest.BACKBONES["bert"]()).save_pretrained(folder)
    conftest.build_tokenizer("bert").save_pretrained(folder)
    return folder


def attempt(call: Callable[[], str]) -> str:
    """What broke a promise, an exception included."""
    try:
        return call()
    except Exception as error:
        return f"crashed: {error!r}"


def count(name: str, problems: list[str]) -> dict[str, Any]:
    """Tried, survived and lost of one case."""
    lost = [problem for problem in problems if problem]
    for problem in lost:
        print(f"LOST {name}: {problem}", flush=True)
    counts = {"case": name, "tried": len(problems), "survived": len(problems) - len(lost), "lost": len(lost)}
    print(counts, flush=True)
    return {**counts, "problems": lost} if lost else counts


def total(cases: list[dict[str, Any]], started: float) -> dict[str, Any]:
    """The part of a report that is made of these cases."""
    sums = {name: sum(case[name] for case in cases) for name in COUNTS}
    return {**sums, "seconds": round(time.monotonic() - started), "cases": cases}


def try_hostile(folder: Path) -> dict[str, Any]:
    """Every checkpoint and recipe that was made to do harm."""
    started, cases = time.monotonic(), []
    values = [f"backbone={make_backbone(folder / 'backbone')}", f"output_dir={folder / 'run'}", *long_use.TINY]
    run = train_recipe(load_recipe(long_use.DEMO, values))
    for number, (name, case) in enumerate(hostile.CASES.items()):
        place = folder / f"case-{number}"
        place.mkdir()
        cases.append(count(name, [attempt(lambda case=case, place=place: hostile.try_case(case, run, place))]))
    return total(cases, started)


def try_faults(folder: Path, times: int, only: str, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Every fault of encoding, training and studies: SIGKILL so many times, the others a quarter of that.

    Only faults whose name holds `only` are tried; of the others the cases `before` stay.
    """
    started, cases = time.monotonic(), [case for case in before if only and only not in case["case"]]
    jobs = {kind: job(make_backbone(folder / kind / "backbone"), folder / kind) for kind, job in faults.JOBS.items()}
    for job in jobs.values():
        job.run_whole()
    for name, (fault, kinds) in faults.FAULTS.items():
        for kind in kinds if only in name else ():
            problems = [
                attempt(lambda f=fault, k=kind, n=number, name=name: f(jobs[k], random.Random(f"{name} {k} {n}")))
                for number in range(times if fault is faults.kill else max(1, times // 4))
            ]
            cases.append(count(f"{name}: {kind}", problems))
    return total(cases, started)


def try_long_use(folder: Path, predictions: int, cycles: int, calls: int) -> dict[str, Any]:
    """Long use in a process of its own."""
    backbone, written = make_backbone(folder / "backbone"), folder / "long_use.json"
    ended = Child(lambda: write_json(written, long_use.use(backbone, folder, predictions, cycles, calls))).wait()
    if ended.code:
        raise SystemExit(ended.errors[-3000:])
    return json.loads(written.read_text(encoding="utf-8"))


def lower_bounds() -> dict[str, str]:
    """The least versions that pyproject.toml declares, by package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for name in GROUPS for line in project["optional-dependencies"][name])]
    found = {}
    for requirement in map(Requirement, lines):
        (least,) = (one.version for one in requirement.specifier if one.operator == ">=")
        found[requirement.name] = least
    return found


def try_lower_bounds(environment: Path) -> dict[str, Any]:
    """The declared lower bounds, installed and tested. On x86_64 that torch is a CUDA build of several GB."""
    started, declared = time.monotonic(), lower_bounds()
    if not (environment / "bin" / "python").exists():
        venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    pins = [f"{name}=={version}" for name, version in declared.items()]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
    versions = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listed.stdout)}
    folders = [f"tests/{name}" for name in TESTS]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow", *folders],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-5000:])
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout)}
    return {
        "declared": declared,
        "installed": {name: versions[name.lower()] for name in declared},
        "python": platform.python_version(),
        "tests": counts,
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts that were asked for, all by default, and merge them into the report."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--times", type=int, default=20, help="kills of each job; other faults a quarter of it")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--predictions", type=int, default=200_000)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--venv", type=Path, help="folder for the lower bounds, kept")
    parser.add_argument("--output", type=Path, default=ROOT / "experiments" / "results" / "soak.json")
    asked = parser.parse_args(argv)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    report = json.loads(asked.output.read_text(encoding="utf-8")) if asked.output.is_file() else {"parts": {}}
    report["environment"] = {**describe_machine(), "system": platform.platform(), "cores": os.cpu_count()}
    for part in asked.parts:
        with tempfile.TemporaryDirectory(prefix="cr_hf_soak_") as scratch:
            folder = Path(scratch)
            if part == "hostile":
                report["parts"][part] = try_hostile(folder)
            elif part == "faults":
                report["parts"][part] = try_faults(
                    folder, asked.times, asked.only, report["parts"].get(part, {}).get("cases", [])
                )
            elif part == "long_use":
                report[part] = try_long_use(folder, asked.predictions, asked.cycles, calls=2000)
            else:
                report[part] = try_lower_bounds(asked.venv or folder / "venv")
        write_json(asked.output, report)
    for name, part in report["parts"].items():
        print(name, {count: part[count] for count in COUNTS})
    sys.exit(any(part["lost"] for part in report["parts"].values()))


if __name__ == "__main__":
    main()
