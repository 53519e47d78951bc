"""The short tables of README.md and docs/: CR with DREG against what people would take instead, heads of a study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cr_hf.study.arms import HEADS

from .runner import interval_text
from .tables import paragraphs, percent, points, read, study, table

OURS = "cr+dreg"
OF_STUDY = {"linear": "linear probe", "logistic-regression": "logistic regression", "mlp-gelu": "GELU MLP"}
OF_STUDY["gelu+dreg"] = "GELU MLP with DREG"
OF_TABLES = ("logistic regression", "SVM", "XGBoost")
SETS = {"sst5": "SST-5", "yelp": "Yelp", "mnist": "MNIST, pixels"}


def heads() -> str:
    """What `cr-hf study --heads` can name."""
    return table(["`--heads`", "what it is"], [[f"`{name}`", arm.description] for name, arm in HEADS.items()])


def why_not() -> str:
    """CR with DREG against linear probes, ordinary heads, XGBoost, and a linear head that is fine-tuned."""
    rows = [*_of_study(), *_of_shots(), *_of_pima(), *_of_finetuning()]
    return table(["data", "instead of CR + DREG", "its accuracy in %", "ours", "ours minus it, points [95 %]"], rows)


def _of_study() -> Iterator[list[str]]:
    for share, title in (("0.05", "SST-5, 5 % of the labels"), ("1.0", "SST-5, all labels")):
        part = study().fractions[share]
        pairs = {(one.head, one.reference): one for one in part.comparisons}
        for name, peer in OF_STUDY.items():
            if name in part.heads:
                pair = pairs.get((OURS, name))
                lead = "" if pair is None else interval_text(pair.difference, pair.interval)
                theirs, ours = (percent(part.heads[head].test_accuracies) for head in (name, OURS))
                yield [title, peer, theirs, ours, lead]


def _of_shots() -> Iterator[list[str]]:
    for row in read("few_labels")["cells"]:
        if row["shots"] in (8, 32):
            pair = row["strongest"]
            theirs, ours = (points(row["heads"][pair[side]]["test_accuracy"]) for side in ("other", "ours"))
            title = f"{SETS[row['set']]}, {row['shots']} labels a class"
            lead = interval_text(pair["difference"], pair["interval"])
            yield [title, pair["other"], theirs, f"{ours} ({pair['ours']})", lead]


def _of_pima() -> Iterator[list[str]]:
    part = read("pima")["repeated 5-fold"]["1.0"]
    for one in part["comparisons"]:
        if one["reference"] in OF_TABLES:
            theirs, ours = (percent(part["arms"][arm]["accuracies"]) for arm in (one["reference"], OURS))
            lead = interval_text(one["difference"], (one["interval_low"], one["interval_high"]))
            yield ["Pima diabetes, a table", one["reference"], theirs, ours, lead]


def _of_finetuning() -> Iterator[list[str]]:
    found = read("sst5_finetune")
    theirs, ours = (found["arms"][arm]["test"]["accuracy"] for arm in ("linear", OURS))
    pair = found["test_accuracy_differences"][f"{OURS} - linear"]
    cells = [f"{points(one['mean'])} ± {points(one['std'])}" for one in (theirs, ours)]
    yield ["SST-5, every layer trains", "linear head", *cells, interval_text(pair["difference"], pair["interval"])]


def few_labels() -> str:
    """Every head by set and labels a class, and the advice."""
    found = read("few_labels")
    parts = []
    for name, title in SETS.items():
        rows = [row for row in found["cells"] if row["set"] == name]
        heads = [[head, *(points(row["heads"][head]["test_accuracy"]) for row in rows)] for head in rows[0]["heads"]]
        parts.append(table([f"{title}, accuracy in %", *(f"{row['shots']} a class" for row in rows)], heads))
    return paragraphs(*parts, advice())


def advice() -> str:
    """One sentence a number of labels."""
    return "\n".join(f"- {one['sentence']}" for one in read("few_labels")["advice"])


def certified() -> str:
    """Clean and certified accuracy of every family."""
    found = read("certified")
    rows = [
        [name, *map(points, family["test"]), f"{np.mean(family['margin_slopes']):.2f}"]
        for name, family in found["families"].items()
    ]
    radii = [f"certified at {radius:g}" for radius in found["radii"]]
    return paragraphs(
        "SST-5, frozen encoder, all labels; in percent of the test rows (`python -m experiments.certified`).",
        table(["head", "clean accuracy", *radii, "slope of the margin"], rows),
        f"The setting of each head is {found['rule']}.",
    )


def encoders() -> str:
    """What encoding costs with each encoder, and the features on disk."""
    found, trained = read("encoding"), read("encoders")
    rows: dict[str, list[str]] = {}
    for row in found["rows"]:
        hours = 650_000 * row["milliseconds_ours"] / row["texts"] / 3.6e6
        cells = [f"{row['milliseconds_ours'] / row['texts']:.1f} s", f"{hours:.1f} h"]
        runs = trained["runs"].get(row["encoder"], [])
        accuracy = percent([run["test_accuracy"] for run in runs]) if runs else ""
        rows.setdefault(row["encoder"], [*cells, f"{row['seconds_making_graphs']:.0f} s", accuracy])
    gigabytes = [f"{650_000 * 4 * width / 1e9:.1f} GB" for width in (384, 7 * 384)]
    return paragraphs(
        table(
            ["encoder", "1,000 texts", "650,000 texts", "first, to make the graph", "test accuracy, %"],
            [[f"`{name}`", *cells] for name, cells in rows.items()],
        ),
        f"SST-5's sentences, MiniLM of 6 layers, {found['environment']['threads']} thread of a "
        f"{found['environment']['device']}. Features of 650,000 texts take {gigabytes[0]} on disk, "
        f"{gigabytes[1]} with `feature_layers: all`. Accuracy: `{trained['recipe']}`, "
        f"{trained['seeds']} seeds, the rows of train encoded so.",
    )
