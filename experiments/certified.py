"""Clean against certified accuracy of heads on frozen SST-5: which is most accurate where its answer cannot be moved?

A row counts as certified at a radius if its class is right and no normalised features within that L2 distance have
another class, by the local certificate of `cr_hf.modeling.certificates`. Every family of heads tries equally many
settings; one is chosen on dev by `RULE`, then trained with all seeds and compared on test in `COMPARISONS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cr_hf.evaluation import compare_all, crossed_bootstrap
from cr_hf.modeling import certified_radius
from cr_hf.study.arms import HEADS, NO_DREG, Arm
from cr_hf.training import HeadResult, Rows

from .polynomial_range import margin_slope
from .runner import hits_of, read_regime, start, subsets_of, train, write_result

RADII = (0.1, 0.2, 0.5, 1.0)
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
    {"dreg_lambda": value, "learning_rate": rate} for value, rate in product(LAMBDAS, (3e-4, 1e-3))
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
    "linear+dreg": replace(HEADS["linear"], overrides={"hidden_sizes": []}, settings=LINEAR_SETTINGS),
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


def main(argv: Sequence[str] | None = None) -> None:
    """Write experiments/results/certified.json."""
    options = start(argv, "certified", __doc__, "sst5", seeds=20)
    regime = read_regime("sst5_frozen", options, "backbone=offline")
    data = regime.data
    subsets = subsets_of(data.train[1], 1.0, options.seeds)
    tried: dict[str, list[dict[str, Any]]] = {}
    for name, arm in FAMILIES.items():
        heads = train(regime, arm, arm.settings, range(SEARCH_SEEDS), subsets)
        tried[name] = []
        for index, setting in enumerate(arm.settings):
            own = heads[index * SEARCH_SEEDS : (index + 1) * SEARCH_SEEDS]
            dev = measured_hits(own, *data.validation).mean((1, 2)).tolist()
            tried[name].append({"setting": setting, "dev": dev})
            print(name, setting, np.round(dev, 4), flush=True)
    chosen, hits, families = choose(tried), {}, {}
    for name, arm in FAMILIES.items():
        heads = train(regime, arm, arm.settings[chosen[name] : chosen[name] + 1], range(options.seeds), subsets)
        hits[name] = measured_hits(heads, *data.test)
        families[name] = {
            "setting": arm.settings[chosen[name]],
            "margin_slopes": [margin_slope(head) for head in heads],
            "test": hits[name].mean((1, 2)).tolist(),
            "intervals": crossed_bootstrap(list(hits[name]))[:, 0].tolist(),
            "tried": tried[name],
        }
        print(name, families[name]["setting"], families[name]["test"], np.mean(families[name]["margin_slopes"]))
    differences = [hits[ours][at] - hits[other][at] for ours, other in COMPARISONS for at in range(1 + len(RADII))]
    names = [(*pair, radius) for pair in COMPARISONS for radius in (0.0, *RADII)]
    compared = [
        {"head": ours, "reference": other, "radius": radius, **asdict(found)}
        for (ours, other, radius), found in zip(names, compare_all(differences), strict=True)
    ]
    write_result(options, **regime.about, rule=RULE, radii=RADII, families=families, comparisons=compared)


if __name__ == "__main__":
    main()
