"""The tables and pictures of what the heads' stability was measured to be, each made from a committed result file.

The pictures are written to docs/images by `python -m experiments.stability`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cr_hf.study.pictures import COLOURS, MARKERS, STYLE

from .runner import ROOT, interval_text
from .short_tables import SETS, advice
from .tables import paragraphs, points, read, table

IMAGES = ROOT / "docs" / "images"
SHOWN_RADIUS = 1.0
SHOWN_FAMILIES = ("cr+dreg", "gelu+dreg", "relu+dreg", "mlp-gelu", "mlp-relu", "linear+dreg")
TAILS = {"sst5_frozen": "SST-5", "pima": "Pima", "mnist": "MNIST"}
SHOWN_SHOTS = ("nearest-centroid", "logistic-regression", "ridge+soft", "mlp-gelu", "mlp-gelu+soft", "cr+dreg+soft")


def image(name: str, text: str) -> str:
    """A picture in Markdown, its path from the repository's root."""
    return f"![{text}](docs/images/{name}.png)"


# ---- certified accuracy ----


def certified() -> str:
    """Clean and certified accuracy of every family's chosen setting, and ours against each other."""
    found = read("certified")
    radii = [f"{radius:g}" for radius in found["radii"]]
    rows = [
        [name, _words(one["setting"]), f"{np.mean(one['margin_slopes']):.2f}", *map(points, one["test"])]
        for name, one in found["families"].items()
    ]
    lines = [
        [
            f"{one['head']} minus {one['reference']}",
            f"{one['radius']:g}" if one["radius"] else "clean",
            *_lead(one),
        ]
        for one in found["comparisons"]
    ]
    header = ["family", "chosen on dev", "margin's slope at most", "clean accuracy in %"]
    return paragraphs(
        image("certified", "Certified accuracy against the radius, and against clean accuracy"),
        table([*header, *(f"certified at {radius}" for radius in radii)], rows),
        f"Seeds: {found['seeds']}. {found['rule'].capitalize()}.",
        table(["difference", "radius", "points, corrected interval", "claimed"], lines),
    )


def _words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('dreg_')} {value}" for name, value in setting.items())


@matplotlib.rc_context(STYLE)
def draw_certified() -> Figure:
    """Left, accuracy that is certified within a radius, on test; right, what the tried settings reach on dev."""
    found = read("certified")
    radii = [0.0, *found["radii"]]
    at = radii.index(SHOWN_RADIUS)
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(SHOWN_FAMILIES):
        one, look = found["families"][name], {"color": COLOURS[number], "marker": MARKERS[number]}
        low, high = 100 * np.array(one["intervals"]).T
        means, beside = 100 * np.array(one["test"]), 0.008 * (number - len(SHOWN_FAMILIES) / 2)
        left.errorbar(np.add(radii, beside), means, yerr=[means - low, high - means], capsize=2, label=name, **look)
        tried = 100 * np.array([each["dev"] for each in one["tried"]])[:, [0, at]]
        better = (tried[:, None] >= tried).all(2) & (tried[:, None] > tried).any(2)
        front = tried[~better.any(0)]
        clean, kept = front[front[:, 0].argsort()].T
        right.plot(clean, kept, **look)
    left.set(xlabel="radius in normalised features (L2)", ylabel="certified test accuracy in %")
    right.set(xlabel="clean dev accuracy in %", ylabel=f"certified at {SHOWN_RADIUS:g}, dev, in %", xlim=(42, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


# ---- the range ----


def polynomial_range() -> str:
    """Accuracy on dev and certified slope of every range, over four data sets."""
    found = read("polynomial_range")
    rows = []
    for one in found["ranges"]:
        reach = f"**{one['polynomial_range']:g}**" if one["chosen"] else f"{one['polynomial_range']:g}"
        rows.append([reach, f"{100 * one['dev_accuracy']:.2f}", f"{one['margin_slope']:.2f}"])
    header = ["linear tails begin at", "dev accuracy in %, mean of the sets", "margin's slope at most, geometric mean"]
    return paragraphs(table(header, rows), f"Chosen: {found['rule']}. Data sets: {', '.join(found['sets'])}.")


# ---- few labels ----


def few_labels() -> str:
    """Every head at every number of labels, the declared comparisons, and the advice."""
    found = read("few_labels")
    parts = [image("few_labels", "Test accuracy against the number of labels a class")]
    for name in dict.fromkeys(row["set"] for row in found["cells"]):
        cells = [row for row in found["cells"] if row["set"] == name]
        rows = [[head, *(_with_interval(row["heads"][head]) for row in cells)] for head in cells[0]["heads"]]
        parts.append(table([f"{SETS[name]}, labels a class", *(str(row["shots"]) for row in cells)], rows))
    lines, strongest = [], []
    for row in found["cells"]:
        place, heads, pair = [SETS[row["set"]], str(row["shots"])], row["heads"], row["strongest"]
        chosen = [points(row[side]["test_accuracy"]) for side in ("ours", "others")]
        lines.append([*place, *chosen, *_lead(row["ours_minus_best_other"])])
        named = [f"{pair[side]} {points(heads[pair[side]]['test_accuracy'])}" for side in ("ours", "other")]
        strongest.append([*place, *named, interval_text(pair["difference"], pair["corrected_interval"])])
    lines += [["SST-5 and Yelp", shots, "", "", *_lead(one)] for shots, one in found["pooled"].items()]
    difference = "difference in points, corrected interval"
    header = ["chosen in each subset by its cross-validation", "labels a class", "best of CR and DREG", "best other"]
    parts.append(table([*header, difference, "claimed"], lines))
    header = ["the strongest on test, not declared", "labels a class", "CR and DREG", "other", difference]
    return paragraphs(*parts, table(header, strongest), advice(), f"{found['rule']}")


def _with_interval(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"{points(one['test_accuracy'])} [{points(low)}, {points(high)}]"


def _lead(one: dict[str, Any]) -> list[str]:
    return [interval_text(one["difference"], one["corrected_interval"]), "yes" if one["claimed"] else "no"]


@matplotlib.rc_context(STYLE)
def draw_few_labels() -> Figure:
    """Test accuracy against labels a class, one panel a data set, some heads."""
    found = read("few_labels")["cells"]
    names = list(dict.fromkeys(row["set"] for row in found))
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    panels = figure.subplots(1, len(names))
    for axes, name in zip(panels, names, strict=True):
        cells = [row for row in found if row["set"] == name]
        heads = [head for head in SHOWN_SHOTS if head in cells[0]["heads"]]
        heads += ["cr+dreg"] if name == "mnist" else []
        for head in heads:
            number = [*SHOWN_SHOTS, "cr+dreg"].index(head)
            values = np.array(
                [[row["heads"][head]["test_accuracy"], *row["heads"][head]["interval"]] for row in cells]
            )
            means, low, high = 100 * values.T
            shots = np.array([row["shots"] for row in cells]) * 1.03 ** (number - 3)
            look = {"color": COLOURS[number], "marker": MARKERS[number]}
            axes.errorbar(shots, means, yerr=[means - low, high - means], capsize=2, label=head, **look)
        ticks = [row["shots"] for row in cells]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, map(str, ticks))
        axes.set(title=SETS[name], xlabel="labels a class")
    panels[0].set_ylabel("test accuracy in %")
    handles = {text: one for axes in panels for one, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


# ---- the tail ratio ----


def tail_ratio() -> str:
    """What the tail ratio and the certified radius say of the accuracy under noise."""
    found = read("tail_ratio")
    names = {"tail_ratio": "gradient tail ratio", "median_radius": "median certified radius"}
    columns = list(next(iter(found["predictors"].values()))["tail_ratio"])
    rows = [
        [TAILS[name], names[measured], *(f"{own[column]:+.2f}" for column in columns)]
        for name, part in found["predictors"].items()
        for measured, own in part.items()
    ]
    header = ["rank correlation over all heads", "with", *(column.replace("_at_", ", noise ") for column in columns)]
    text = (
        "A line goes from no DREG to 64 times the recipe's lambda; a tail ratio near 1 is that of a function that "
        "hardly moves. What two measures without labels say of the accuracy under noise on the features, and of what "
        "the noise takes away, as rank correlations over all heads of a set:"
    )
    return paragraphs(image("tail_ratio", "Test accuracy against the gradient tail ratio"), text, table(header, rows))


@matplotlib.rc_context(STYLE)
def draw_tail_ratio() -> Figure:
    """Test accuracy against the tail ratio, one line a kind of head from no lambda to a large one."""
    sets = read("tail_ratio")["sets"]
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    panels = figure.subplots(1, len(sets))
    for axes, (name, found) in zip(panels, sets.items(), strict=True):
        for number, kind in enumerate(dict.fromkeys(one["kind"] for one in found)):
            own = [one for one in found if one["kind"] == kind]
            look = {"color": COLOURS[number], "marker": MARKERS[number]}
            axes.plot([one["tail_ratio"] for one in own], [100 * one["accuracy"] for one in own], label=kind, **look)
        axes.axvline(1.02, color=STYLE["text.color"], linestyle=":")
        axes.set(title=TAILS[name], xlabel="gradient tail ratio")
    panels[0].set_ylabel("test accuracy in %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


# ---- directions of damage ----


def noise_directions() -> str:
    """DREG with and without the penalty along the directions of damage."""
    found = read("noise_directions")
    rows = [
        [
            name,
            _words(one["tried"][one["chosen"]]["setting"]),
            points(one["accuracy"]),
            points(one["damaged_accuracy"]),
        ]
        for name, one in found["heads"].items()
    ]
    lines = [[name, *_lead(one)] for name, one in found["comparisons"].items()]
    return paragraphs(
        table(["head", "chosen on dev", "test accuracy in %", "of damaged texts in %"], rows),
        table(["along noise minus plain", "points, corrected interval", "claimed"], lines),
        "What is not claimed has no place in the package: the penalty is the experiment's own.",
    )


PICTURES: dict[str, Callable[[], Figure]] = {
    "certified": draw_certified,
    "few_labels": draw_few_labels,
    "tail_ratio": draw_tail_ratio,
}


def main() -> None:
    """Write docs/images/*.png."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().savefig(IMAGES / f"{name}.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
