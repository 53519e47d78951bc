"""What every experiment shares: its options, the features of a recipe, heads trained on them, and the result file.

All heads on features are trained by `train`, so that an experiment trains what `cr-hf study` and `cr-hf train` would.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from cr_hf.evaluation import crossed_bootstrap
from cr_hf.files import write_json
from cr_hf.runs import Recipe, describe_data, describe_machine, load_recipe, override_recipe, sweep_head
from cr_hf.runs.choose_lambda import LambdaChoice, choose_dreg_lambda
from cr_hf.study.arms import Arm
from cr_hf.study.cells import StudyData, scaling, train_settings
from cr_hf.study.cells import subsets_of as subsets_of
from cr_hf.study.results import unpack_hits
from cr_hf.study.study import read_features
from cr_hf.training import HeadResult, Rows, predict_heads

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
RUNS = ROOT / "runs" / "experiments"
Hits = NDArray[np.float64]


class Verdict(StrEnum):
    """What was found of a claim; RESULTS.md explains the words."""

    REPRODUCED = "reproduced"
    IN_DIRECTION = "in direction only"
    NOT_REPRODUCED = "not reproduced"
    UNKNOWN = "definition unknown"
    NOT_TESTABLE = "not testable here"

    @classmethod
    def of(cls, certain: bool, in_direction: bool = False) -> Verdict:
        """The verdict on a claim that was looked at in the papers' setting."""
        return cls.REPRODUCED if certain else cls.IN_DIRECTION if in_direction else cls.NOT_REPRODUCED


@dataclass(frozen=True)
class Claim:
    """A claim of the papers, how it was looked at here, what was found, and the verdict, by a rule of the file."""

    claim: str
    protocol: str
    ours: str
    verdict: Verdict


@dataclass
class Regime:
    """What heads are trained on: splits and the recipe that all follow, and what a result file says of that."""

    data: StudyData
    about: dict[str, Any]


def start(
    argv: Sequence[str] | None,
    name: str,
    doc: str | None,
    data: str | None = None,
    seeds: int | None = None,
    more: Callable[[argparse.ArgumentParser], object] | None = None,
) -> argparse.Namespace:
    """Parse the options of an experiment, and compute with one thread, so that no result depends on the cores.

    Args:
        argv: the options; `None` for those of the command line.
        name: of the experiment's module, and of its result file.
        doc: of the module.
        data: the folder's name below `../shared/data`; `None` (default) for an experiment without such data.
        seeds: how many by default; `None` (default) for an experiment without seeds.
        more: adds options of the experiment's own.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    output = RESULTS / f"{name}.json"
    parser.add_argument("--output", type=Path, default=output, help=f"by default {output.relative_to(ROOT)}")
    parser.set_defaults(regime=name)
    if more is not None:
        more(parser)
    if data is not None:
        parser.add_argument(
            "--data", metavar="FOLDER", default=f"../shared/data/{data}", help="by default %(default)s"
        )
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the recipe")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help="by default %(default)s")
    options = parser.parse_intermixed_args(argv)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    return options


def recipe_of(name: str, options: argparse.Namespace, *overrides: str) -> Recipe:
    """A recipe of this repository on the data of the options, whose own overrides come last."""
    values = [f"data.dir={options.data}", *overrides, *options.overrides]
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", values)


def read_regime(name: str, options: argparse.Namespace, *overrides: str) -> Regime:
    """The features of a recipe of this repository, frozen or of a table."""
    recipe = recipe_of(name, options, *overrides)
    dataset, data = read_features(recipe)
    about = {
        "recipe": f"recipes/{name}.yaml",
        "data": describe_data(recipe.data, dataset),
        "training": recipe.training,
        "hidden_sizes": data.config.hidden_sizes,
    }
    return Regime(data, about)


def train(
    regime: Regime,
    arm: Arm,
    settings: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    subsets: Sequence[NDArray[np.int64]],
    fraction: float = 1.0,
) -> list[list[HeadResult]]:
    """For every setting a head of every seed: the one place where experiments train heads on features.

    Seed s trains on the rows `subsets[s]`. Fewer labels get more epochs and smaller batches, as in a study.
    """
    scaled = scaling(regime.data.recipe, len(subsets[0]), fraction)
    return train_settings(arm, settings, seeds, subsets, regime.data, scaled)


def choose(
    regime: Regime, arm: Arm, subsets: Sequence[NDArray[np.int64]], fraction: float = 1.0
) -> tuple[list[HeadResult], dict[str, Any]]:
    """All settings of an arm with one seed a subset; the one with the best mean dev accuracy is kept.

    Returns:
        Its heads, one a seed, and what a result file says of the choice.
    """
    heads = train(regime, arm, arm.settings, range(len(subsets)), subsets, fraction)
    dev = [float(np.mean([head.accuracy for head in own])) for own in heads]
    chosen = int(np.argmax(dev))
    kept, tried = heads[chosen], zip(arm.settings, dev, strict=True)
    return kept, {
        "hidden_sizes": kept[0].config.hidden_sizes,
        "parameters": sum(value.numel() for value in kept[0].head().parameters()),
        "setting": arm.settings[chosen],
        "tried": [{**setting, "dev_accuracy": mean} for setting, mean in tried],
        "dev_accuracies": [head.accuracy for head in kept],
        "best_epochs": [head.best_epoch for head in kept],
    }


def pick_lambda(regime: Regime, subset: NDArray[np.int64], fraction: float) -> LambdaChoice:
    """The lambda that `dreg_lambda: auto` would choose for these training rows."""
    data = regime.data
    scaled = override_recipe(data.recipe, scaling(data.recipe, len(subset), fraction))
    features, labels = data.train
    return choose_dreg_lambda(sweep_head(scaled, data.config), (features[subset], labels[subset]), data.validation)


def noise_of(regime: Regime) -> NDArray[np.float32]:
    """Gaussian noise on the test features, of one deviation of a feature over the training rows."""
    noise = np.random.default_rng(0).standard_normal(regime.data.test[0].shape, dtype=np.float32)
    return noise * np.asarray(regime.data.train[0]).std(0)


def hits_of(heads: Sequence[HeadResult], features: Rows, labels: NDArray[np.int64]) -> Hits:
    """1 where a head is right, else 0, shape (len(heads), rows)."""
    return (predict_heads(heads, features, batch_size=1024).argmax(-1).numpy() == labels).astype(np.float64)


def hits_of_runs(runs: Sequence[dict[str, Any]]) -> Hits:
    """The hits that runs hold packed, one row a run, shape (len(runs), rows)."""
    return np.concatenate([unpack_hits(run["hits"]) for run in runs]).astype(np.float64)


def compare(first: Hits, second: Hits) -> dict[str, Any]:
    """Mean difference of paired hits (seeds, rows), its 95 % interval by the crossed bootstrap, and seeds won."""
    difference = np.asarray(first, np.float64) - second
    return {
        "difference": float(difference.mean()),
        "interval": crossed_bootstrap([difference])[0, 0].tolist(),
        "seeds_won": int((difference.mean(1) > 0).sum()),
    }


def part(options: argparse.Namespace, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of an experiment: read where it was finished before with the same options, else made and kept.

    Parts are kept in runs/experiments: remove the folder of an experiment to have everything made again.
    """
    path = RUNS / options.regime / f"{name.replace(', ', '-')}.json"
    asked = {name: str(value) for name, value in vars(options).items() if name not in ("seeds", "output")}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["options"] == asked:
            return kept["part"]
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"options": asked, "part": found})
    return found


def write_result(options: argparse.Namespace, *, claims: Sequence[Claim] = (), **found: Any) -> None:
    """Write the result file: what was found, with the environment and the seconds of CPU that it took."""
    write_json(
        options.output,
        {
            "regime": options.regime,
            **({"seeds": options.seeds} if hasattr(options, "seeds") else {}),
            "claims": [asdict(claim) for claim in claims],
            "environment": describe_machine(),
            "cpu_seconds": round(time.process_time()),
            **found,
        },
    )
    for claim in claims:
        print(f"{claim.claim}: {claim.verdict}. {claim.ours}")


def interval_text(value: float, interval: Sequence[float], digits: int = 2) -> str:
    """A difference of shares and its interval, in points."""
    low, high = interval
    return f"{100 * value:+.{digits}f} [{100 * low:+.{digits}f}, {100 * high:+.{digits}f}]"
