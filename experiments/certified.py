"""Clean against certified accuracy of heads on frozen SST-5: which is most accurate where its answer cannot be moved?

A row counts as certified at a radius if its class is right and no normalised features within that L2 distance have
another class, by the local certificate of `cr_hf.modeling.certificates`. Every family of heads tries equally many
settings; one is chosen on dev by `RULE`, then trained with all seeds and compared on test in `COMPARISONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cr_hf.evaluation import compare_all, crossed_bootstrap, margin_slope_bound
from cr_hf.evaluation.lipschitz import CERTIFIED_AT as RADII
from cr_hf.modeling import certified_radius
from cr_hf.study.arms import HEADS, NO_DREG, Arm
from cr_hf.study.results import pack_hits, unpack_hits
from cr_hf.training import HeadResult, Rows

from .runner import Regime, hits_of, part, read_regime, start, subsets_of, train, write_result

SEARCH_SEEDS = 3
SLACK = 0.005
RULE = (
    "the setting with the highest mean certified accuracy over the radii on dev, among those whose clean dev "
    f"accuracy is at most {100 * SLACK:g} points below the highest of all families; where a family has none, its "
    "setting with the highest clean dev accuracy"
)
LAMBDAS = (0.005, 0.01, 0.014, 0.02, 0.028, 0.04)
DREG_SETTINGS = tuple(
    {"dreg_mode": mode, "dreg_lambda": value, "dropout": 0.3} for mode, value in product(("layer", "worst"), LAMBDAS)
)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
PLAIN_SETTINGS = tuple(
    {"dropout": dropout, "learning_rate": rate} for dropout, rate in product((0.1, 0.3, 0.5), RATES)
)
LINEAR_SETTINGS = tuple(
    {**setting, "learning_rate": rate} for setting, rate in product(HEADS["linear"].settings, (1e-3, 3e-3))
)


def _family(activation: str, settings: Sequence[dict[str, Any]], penalty: str | None = None) -> Arm:
    without = {} if "dreg_lambda" in settings[0] else NO_DREG
    return Arm("", {"activation": activation, **without}, tuple(settings), penalty)


FAMILIES = {
    "cr+dreg": _family("polynomial", DREG_SETTINGS),
    "gelu+dreg": _family("gelu", DREG_SETTINGS),
    "relu+dreg": _family("relu", DREG_SETTINGS),
    "tanh+dreg": _family("tanh", DREG_SETTINGS),
    "gelu+spectral-norm": _family("gelu", PLAIN_SETTINGS, "spectral_norm"),
    "relu+spectral-norm": _family("relu", PLAIN_SETTINGS, "spectral_norm"),
    "mlp-gelu": _family("gelu", PLAIN_SETTINGS),
    "mlp-relu": _family("relu", PLAIN_SETTINGS),
    "linear+dreg": replace(HEADS["linear"], settings=LINEAR_SETTINGS),
}
OURS = "cr+dreg"
# The clean accuracy and the certified accuracy at every radius, of ours against each other family.
COMPARISONS = tuple((OURS, other) for other in FAMILIES if other != OURS)


def measured_hits(heads: Sequence[HeadResult], features: Rows, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 where a head is right and certified, else 0, shape (1 + radii, heads, rows); the first is of radius 0."""
    right = hits_of(heads, features, labels)
    rows = torch.from_numpy(np.array(features))
    radii = np.stack([certified_radius(head.head(), rows).cpu().numpy() for head in heads])
    return np.stack([right, *(right * (radii >= radius) for radius in RADII)])


def choose(tried: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """The number of the chosen setting of every family, by `RULE`."""
    highest = max(one["dev"][0] for own in tried.values() for one in own)
    chosen = {}
    for name, own in tried.items():
        kept = [index for index, one in enumerate(own) if one["dev"][0] >= highest - SLACK]
        certified = [float(np.mean(one["dev"][1:])) for one in own]
        chosen[name] = max(kept, key=certified.__getitem__) if kept else int(np.argmax([one["dev"][0] for one in own]))
    return chosen


def search(arm: Arm, regime: Regime) -> dict[str, Any]:
    """Every setting of a family: clean and certified accuracies on dev, means over seeds."""
    subsets = subsets_of(regime.data.train[1], 1.0, SEARCH_SEEDS)
    every = train(regime, arm, arm.settings, range(SEARCH_SEEDS), subsets)
    dev = [measured_hits(heads, *regime.data.validation).mean((1, 2)).tolist() for heads in every]
    return {"tried": [{"setting": setting, "dev": one} for setting, one in zip(arm.settings, dev, strict=True)]}


def measure(arm: Arm, setting: dict[str, Any], regime: Regime, seeds: int) -> dict[str, Any]:
    """The chosen setting of a family with all seeds on test; hits are packed, radius by radius."""
    subsets = subsets_of(regime.data.train[1], 1.0, seeds)
    (heads,) = train(regime, arm, [setting], range(seeds), subsets)
    hits = measured_hits(heads, *regime.data.test)
    slopes = [margin_slope_bound(head.head()) for head in heads]
    return {"setting": setting, "margin_slopes": slopes, "hits": [pack_hits(one > 0) for one in hits]}


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/certified.json."""
    options = start(argv, "certified", __doc__, "sst5", seeds=20)
    regime = read_regime("sst5_frozen", options, "backbone=offline")
    tried = {
        name: part(options, f"search-{name}", partial(search, arm, regime))["tried"] for name, arm in FAMILIES.items()
    }
    chosen, hits, families = choose(tried), {}, {}
    for name, arm in FAMILIES.items():
        setting = arm.settings[chosen[name]]
        own = part(options, f"test-{name}", partial(measure, arm, setting, regime, options.seeds))
        hits[name] = np.stack([unpack_hits(one) for one in own.pop("hits")]).astype(np.float64)
        means, intervals = hits[name].mean((1, 2)), crossed_bootstrap(list(hits[name]))[:, 0]
        families[name] = {**own, "test": means.tolist(), "intervals": intervals.tolist(), "tried": tried[name]}
        print(name, setting, np.round(means, 4), np.mean(own["margin_slopes"]), flush=True)
    compared = []
    for ours, other in COMPARISONS:
        compared += [(ours, other, at) for at in range(1 + len(RADII))]
    found = compare_all([hits[ours][at] - hits[other][at] for ours, other, at in compared])
    rows = [
        {"head": ours, "reference": other, "radius": (0.0, *RADII)[at], **asdict(one)}
        for (ours, other, at), one in zip(compared, found, strict=True)
    ]
    write_result(options, **regime.about, rule=RULE, radii=RADII, families=families, comparisons=rows)


if __name__ == "__main__":
    main()
