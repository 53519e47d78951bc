"""What a study found, as `study.json` and the files of its cells hold it."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation import CalibrationBin, Comparison, PairedDifference
from ..files import Json, html_table
from .arms import HEADS, Setting


@dataclass
class Tried:
    """A setting of a head, with mean and standard deviation over seeds of its dev accuracy."""

    setting: Setting
    dev_accuracy: float
    dev_deviation: float


@dataclass
class Cell:
    """One head at one fraction of the labels. A measure has one number a seed; what only networks have may be `None`.

    Args:
        rows: of training.
        tried: the settings, in the order of the head's.
        chosen: number of the setting with the best mean dev accuracy; all that follows is of that setting.
        dev_accuracies: accuracy on dev; with few labels that of cross-validation, of the setting that each seed chose.
        choices: number of the setting that each seed chose by cross-validation, and `chosen` the most frequent of
            them; `None` where dev chose one for all.
        test_accuracies: accuracy on test, as are the other measures.
        gradient_tail_ratios: 99th percentile over mean of the gradient norms; `peak_gradients` are the largest norms.
        non_linearities: 0 for a linear head.
        certified_accuracies: by radius in normalised features the share of 500 test rows, or fewer, that is right and
            stays so within it.
        margin_slopes: bound, everywhere, of the slope of the margin between two classes; infinite without tails.
        reliability: the bins of the calibration error, all seeds together.
        coefficients: polynomials of the first layer of the first seed, shape (degree + 1, units).
        parameters: how many a head has.
        overrides: keys of the recipe with which `cr-hf train` trains this; `None` where no recipe can, and in studies
            of version 0.1.0. `study.json` also has the whole command, for seed 0.
        dev_error: standard error, over seeds and dev rows, of the difference in dev accuracy from the best head
            at this fraction; `None` with few labels, where each seed has rows of its own, and in older studies.
        accuracy_interval: of the mean test accuracy, 95 %, by bootstrap over seeds and test rows.
        hits: whether each seed was right on each test row, shape (seeds, rows); in the cell's own file alone, as are
            `dev_hits`.
        seconds: of training; in the cell's own file alone.
    """

    rows: int
    tried: list[Tried]
    chosen: int
    dev_accuracies: list[float]
    test_accuracies: list[float]
    gradient_tail_ratios: list[float] | None = None
    peak_gradients: list[float] | None = None
    non_linearities: list[float] | None = None
    certified_accuracies: dict[str, list[float]] | None = None
    margin_slopes: list[float] | None = None
    expected_calibration_errors: list[float] | None = None
    reliability: list[CalibrationBin] | None = None
    coefficients: list[list[float]] | None = None
    parameters: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    overrides: dict[str, Any] | None = None
    choices: list[int] | None = None
    dev_error: float | None = None
    accuracy_interval: tuple[float, float] = (np.nan, np.nan)
    hits: NDArray[np.bool_] | None = None
    dev_hits: NDArray[np.bool_] | None = None
    seconds: float = 0.0

    @property
    def setting(self) -> Setting:
        """The setting that was chosen on dev."""
        return self.tried[self.chosen].setting

    def per_seed(self, measure: str) -> NDArray[np.float64]:
        """A measure seed by seed; NaN where a head diverged, or is no network and has no such measure."""
        return np.array(getattr(self, measure) or [np.nan] * len(self.test_accuracies), dtype=np.float64)

    def command(self, seed: int) -> str | None:
        """The command that trains this head with this seed; `None` where no recipe can.

        It gives the same head unless the recipe limits its training rows itself, splits validation or test off them,
        or replaces missing values: `train` then does so after taking its part of the rows, a study before.
        """
        if self.overrides is None:
            return None
        seeds = {"seed": seed} | ({"data.seed": seed} if "data.train_fraction" in self.overrides else {})
        return f"cr-hf train RECIPE {override_words({**self.overrides, **seeds})}"

    def to_json(self, is_own_file: bool = False) -> Json:
        """As `study.json` has it, or with what is in the cell's own file alone."""
        tried = [
            {**one.setting, "dev_accuracy": one.dev_accuracy, "dev_deviation": one.dev_deviation} for one in self.tried
        ]
        own = {**asdict(self), "tried": tried, "command": self.command(0)}
        packed = {name: None if (hits := own.pop(name)) is None else pack_hits(hits) for name in ("hits", "dev_hits")}
        seconds = own.pop("seconds")
        return {**own, **packed, "seconds": seconds} if is_own_file else own

    @classmethod
    def from_json(cls, values: Json) -> Cell:
        """The inverse of `to_json`; also reads the cells of version 0.1.0."""
        own = {item.name: values[item.name] for item in fields(cls) if values.get(item.name) is not None}
        settings = [dict(one) for one in own["tried"]]
        own["tried"] = [Tried(one, one.pop("dev_accuracy"), one.pop("dev_deviation")) for one in settings]
        if "reliability" in own:
            own["reliability"] = [CalibrationBin(**found) for found in own["reliability"]]
        own |= {name: unpack_hits(own[name]) for name in ("hits", "dev_hits") if name in own}
        return cls(**own)


@dataclass(frozen=True)
class Compared(PairedDifference, Comparison):
    """A declared comparison and what was found."""


@dataclass
class Fraction:
    """The heads at one fraction of the labels, and the declared comparisons between them."""

    heads: dict[str, Cell]
    comparisons: list[Compared]


@dataclass
class Study:
    """A finished study, as `study.json` holds it.

    Args:
        data: returned by `runs.describe_data`.
        features: `in_features`, `pooling` and `feature_layers`.
        hidden_sizes: of a network, unless its head says otherwise.
        seeds: how many, from 0; the first `search_seeds` chose the setting.
        fingerprint: SHA-256 of all that the study was made from.
        environment: the machine, and the seconds of training.
        tests: comparisons times fractions, for the corrections.
        least_wilcoxon_p: the lowest p that so many seeds can give.
        fractions: by the share of the labels, written as a number.
        is_few: whether `fractions` stand for labels a class and not for shares of them.
        simpler: heads without a hidden layer at the largest fraction: test accuracy minus that of the recommended
            head, and the ends of its 95 % interval over seeds and test rows.
    """

    data: Json
    features: Json
    hidden_sizes: list[int]
    seeds: int
    search_seeds: int
    resamples: int
    comparisons: list[Comparison]
    fingerprint: str
    environment: Json
    tests: int
    least_wilcoxon_p: float
    fractions: dict[str, Fraction]
    is_few: bool = False
    simpler: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def chosen_by(self) -> str:
        """What chose the settings, as an adjective of accuracy."""
        return "cross-validated" if self.is_few else "dev"

    def amount(self, fraction: str | None = None) -> str:
        """A fraction in words, by default the largest: "5% of the labels" or "8 labels a class"."""
        name = self.largest_fraction if fraction is None else fraction
        return f"{float(name):g} labels a class" if self.is_few else f"{100 * float(name):g}% of the labels"

    @property
    def data_notes(self) -> list[str]:
        """What loading noted, such as rows of test that also stand in train, a sentence each."""
        noted = (self.data.get("understood") or {}).get("notes", [])
        return [f"Noted in the data: {note}." for note in noted]

    @property
    def largest_fraction(self) -> str:
        """The name of the largest fraction of the labels."""
        return max(self.fractions, key=float)

    @property
    def largest(self) -> dict[str, Cell]:
        """The cells of the largest fraction, by head in the order they were given."""
        return self.fractions[self.largest_fraction].heads

    def _repr_html_(self) -> str:
        """What a notebook shows: test accuracies of heads by fractions."""
        from .tables import accuracy_rows  # it imports this module

        return html_table(accuracy_rows(self))

    def to_json(self) -> Json:
        """The content of `study.json`."""
        own = asdict(self)
        for name, fraction in self.fractions.items():
            own["fractions"][name]["heads"] = {head: cell.to_json() for head, cell in fraction.heads.items()}
        return own

    @classmethod
    def from_json(cls, values: Json) -> Study:
        """The inverse of `to_json`; also reads the studies of version 0.1.0."""
        own = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        own["comparisons"] = [Comparison(**pair) for pair in own["comparisons"]]
        own["fractions"] = {
            name: Fraction(
                {head: Cell.from_json(cell) for head, cell in found["heads"].items()},
                [Compared(**one) for one in found["comparisons"]],
            )
            for name, found in own["fractions"].items()
        }
        return cls(**own)


def pack_hits(hits: NDArray[np.bool_]) -> Json:
    """Hits of shape (seeds, rows) as text, one bit each."""
    return {"shape": list(hits.shape), "bits": base64.b64encode(np.packbits(hits).tobytes()).decode()}


def unpack_hits(packed: Json) -> NDArray[np.bool_]:
    """The inverse of `pack_hits`."""
    seeds, rows = packed["shape"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["bits"]), np.uint8), count=seeds * rows)
    return bits.reshape(seeds, rows).astype(bool)


def recipe_words(head: str, setting: Setting) -> str | None:
    """A head and its setting as overrides of a recipe; `None` where it is something that no recipe has."""
    arm = HEADS[head]
    return override_words({**arm.overrides, **setting}) if arm.is_recipe else None


def override_words(overrides: dict[str, Any]) -> str:
    """Overrides as words of a command line."""
    # JSON is YAML, and text needs no quotes there.
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in overrides.items()}
    return " ".join(f"{name}={''.join(value.split())}" for name, value in words.items())
