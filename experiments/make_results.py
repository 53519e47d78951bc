"""Write RESULTS.md from the committed results alone, or check that it agrees (`--check`).

Every claim of the papers is a row: what it says, how it was looked at, what was found, and a verdict. A result file
brings its rows in `claims`, with the `rule` of its verdicts; those of studies and regimes are made here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cr_hf.study import Study
from cr_hf.study.tables import (
    accuracy_rows,
    claims,
    comparison_rows,
    markdown_table,
    spread,
    tail_ratio_rows,
)

from .runner import difference_text
from .update_readme import ORDERED, ROOT, read, regime

PATH = ROOT / "RESULTS.md"
HEAD = """# What ChainzRule and DREG do, measured

Made by `make results` from `experiments/results/*.json` and `benchmarks/results/*.json` alone; each file is written by
the command named beside it. The verdicts are given by rules, which stand beside them.

- **reproduced**: the claim holds here, by the margin that the rule asks for.
- **in direction only**: the sign is right, the size or the certainty is not.
- **not reproduced**: it was looked at in the same setting and is not there.
- **definition not public**: the papers do not say what was measured; ours is shown.
- **not testable here**: the data or the model could not be had.

None of the papers' code, splits or settings are public, so a number that differs may mean another protocol.
"""


def percent(values: Any, digits: int = 1) -> str:
    """Mean and standard deviation of shares, in percent."""
    return spread(100 * np.asarray(values), digits)


def share_text(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f}"


# ---- claims whose result files are tables of runs ----


def sst5_frozen() -> dict[str, str]:
    """The accuracy of the papers' SST-5 head, reproduced if the mean with all labels is no lower."""
    study = read("sst5_study")
    cells = {float(name): entry["heads"]["cr+dreg"]["test_accuracies"] for name, entry in study["fractions"].items()}
    return {
        "claim": "SST-5 frozen: 46.20 ± 0.37 %",
        "protocol": f"frozen all-MiniLM-L6-v2, two layers of 128, {study['seeds']} seeds, four settings a head and "
        "fraction chosen on dev; another encoder than the papers', so the level is not comparable",
        "ours": "; ".join(f"{percent(values)} % with {share:.0%} of the labels" for share, values in cells.items()),
        "verdict": "reproduced" if np.mean(cells[1.0]) >= 0.462 else "not reproduced",
    }


def dreg_helps() -> dict[str, str]:
    """Reproduced if claimed at every fraction against the GELU MLP; in direction only if the mean is higher at all."""
    study = read("sst5_study")
    found = {
        float(name): part
        for name, entry in study["fractions"].items()
        for part in entry["comparisons"]
        if (part["head"], part["reference"]) == ("cr+dreg", "mlp-gelu")
    }
    if all(part["claimed"] and part["difference"] > 0 for part in found.values()):
        verdict = "reproduced"
    else:
        higher = all(part["difference"] > 0 for part in found.values())
        verdict = "in direction only" if higher else "not reproduced"
    return {
        "claim": "SST-5 frozen: CR with DREG is more accurate than an ordinary head of equal size",
        "protocol": f"the same study; paired differences, crossed bootstrap, Holm over {study['tests']} tests",
        "ours": "; ".join(
            f"{difference_text(part)} points over the GELU MLP with {share:.0%} of the labels"
            for share, part in found.items()
        ),
        "verdict": verdict,
    }


def sst5_finetuned() -> dict[str, str]:
    """The difference on another backbone can hold in direction only: its mean above 0."""
    found = read("sst5_finetune")
    means = {arm: 100 * values["test"]["accuracy"]["mean"] for arm, values in found["arms"].items()}
    pair = found["test_accuracy_differences"].get("cr+dreg - linear")
    interval = "" if pair is None else " [{:+.2f}, {:+.2f}]".format(*(100 * end for end in pair["interval"]))
    return {
        "claim": "SST-5 fine-tuned (BERT-base): 55.79 % against 54.9 % of a linear head",
        "protocol": f"every layer of all-MiniLM-L6-v2 trains, 3 epochs, {found['seeds']} paired seeds; BERT-base "
        "could not be had, so only the direction is looked at",
        "ours": f"CR with DREG {means['cr+dreg']:.2f} %, linear {means['linear']:.2f} %: "
        f"{means['cr+dreg'] - means['linear']:+.2f} points{interval}",
        "verdict": "in direction only" if means["cr+dreg"] > means["linear"] else "not reproduced",
    }


def yelp() -> dict[str, str]:
    """The claim is on 650,000 rows."""
    parts = []
    for found in (read("yelp_static"), read("yelp_static_pool")):
        arms = (
            f"{name} {100 * values['test']['accuracy']['mean']:.1f} % with {values['parameters_head']:,} parameters"
            for name, values in found["arms"].items()
            if name.startswith("cr+dreg")
        )
        parts.append(f"{found['data']['rows']['train']:,} rows, {found['seeds']} seeds: {', '.join(arms)}")
    return {
        "claim": "Yelp Full, ordinal: 70.17 % with 3.2M parameters, against a ten-model mean of 66.35 %",
        "protocol": "word vectors learned from scratch on a sample in place of 650,000 rows, "
        "the first 5,000 test rows",
        "ours": "; ".join(parts),
        "verdict": "not testable here",
    }


def inference_cost() -> dict[str, str]:
    """Reproduced if the head takes at most 1 % of a forward pass of the encoder."""
    rows = [row for row in read("model_step")["rows"] if row["name"].startswith("inference")]
    shares = [f"{row['ratio']:.2%} with {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in rows]
    return {
        "claim": "Standard inference cost",
        "protocol": "time in the head over the whole forward pass of MiniLM, measured in turn in one process",
        "ours": f"of the time {' and '.join(shares)}",
        "verdict": "reproduced" if max(row["ratio"] for row in rows) <= 0.01 else "not reproduced",
    }


# ---- tables ----


def sst5_study_table() -> str:
    """Accuracy, differences and tail ratios of the study."""
    study = Study.from_json(read("sst5_study"))
    tables = (markdown_table(rows(study)) for rows in (accuracy_rows, comparison_rows, tail_ratio_rows))
    return "\n\n".join([*tables, *claims(study)])


def pima_table() -> str:
    """Accuracy of every arm at every share, and on the random splits."""
    found = read("pima")
    folds, splits = found["repeated 5-fold"], found["repeated 80/20"]["arms"]
    rows = [
        [
            arm,
            *(percent(entry["arms"][arm]["accuracies"]) for entry in folds.values()),
            percent(splits[arm]["accuracies"]),
        ]
        for arm in splits
    ]
    columns = ["test accuracy in %", *(f"{float(share):.0%} of the training rows" for share in folds), "80/20 splits"]
    lines = [
        [share, part["reference"], f"{100 * part['difference']:+.2f}",
         f"{100 * part['interval_low']:+.2f} to {100 * part['interval_high']:+.2f}", f"{part['p_holm']:.2f}"]
        for share, entry in ((f"{float(name):.0%}", entry) for name, entry in folds.items())
        for part in entry["comparisons"]
    ]  # fmt: skip
    differences = ["training rows", "cr+dreg minus", "points", "95 % interval", "p after Holm"]
    return markdown_table([columns, *rows]) + "\n\n" + markdown_table([differences, *lines])


def mnist_table() -> str:
    """Accuracy and peak gradient by size."""
    arms = read("mnist")["arms"]
    rows = [
        [str(record["hidden_sizes"][0]), arm, f"{record['parameters']:,}", percent(record["test_accuracies"], 2),
         spread(record["peak_gradients"])]
        for arm, records in arms.items() for record in records
    ]  # fmt: skip
    return markdown_table([["units", "head", "parameters", "test accuracy in %", "peak gradient"], *rows])


def cifar_table() -> str:
    """Accuracy on clean and corrupted images."""
    rows = [
        [
            arm,
            f"{record['parameters']:,}",
            percent(record["test_accuracies"]),
            percent(record["mean_corruption_accuracies"]),
        ]
        for arm, record in read("cifar10c")["arms"].items()
    ]
    return markdown_table([["head", "parameters", "clean accuracy in %", "mean corruption accuracy in %"], *rows])


def penalty_table() -> str:
    """Heads with their penalties: accuracy, under noise, tail ratio, curvature."""
    heads = read("general_penalty")["heads"]
    noises = list(next(iter(heads.values()))["noise_accuracies"])
    rows = [
        [name, ", ".join(f"{key} {value:g}" for key, value in record["setting"].items()),
         *(percent(values) for values in (record["test_accuracies"], *record["noise_accuracies"].values())),
         spread(record["gradient_tail_ratios"], 2), spread(record["curvatures"], 2)]
        for name, record in heads.items()
    ]  # fmt: skip
    columns = ["head", "chosen on dev", "test accuracy in %", *(f"noise {noise}" for noise in noises)]
    return markdown_table([[*columns, "gradient tail ratio", "curvature"], *rows])


def robustness_table() -> str:
    """Damaged texts, noise, attacks and slopes, head by head."""
    heads = read("sst5_robustness")["heads"]
    first = next(iter(heads.values()))
    kinds = list(first["texts"]["kinds"])
    texts = [
        [name, share_text(part["texts"]["clean_accuracy"]),
         *(share_text(part["texts"]["kinds"][kind]["mean_accuracy"]) for kind in kinds),
         share_text(part["texts"]["mean_accuracy"])]
        for name, part in heads.items()
    ]  # fmt: skip
    tables = [markdown_table([["accuracy in %, texts", "as they are", *kinds, "mean of the damaged"], *texts])]
    noise = [[name, *(share_text(one) for one in part["noise"]["accuracies"])] for name, part in heads.items()]
    tables.append(
        markdown_table([["accuracy in %, noise", *(f"{one:g}" for one in first["noise"]["deviations"])], *noise])
    )
    ways = ("noise", "transfer", "attack")
    for norm in first["attacks"]:
        radii = first["attacks"][norm]["radii"]
        rows = [
            [name, *(
                " / ".join(map(share_text, point))
                for point in zip(*(curve[f"{kind}_accuracies"] for kind in ways), strict=True)
            )]
            for name, curve in ((name, part["attacks"][norm]) for name, part in heads.items())
        ]  # fmt: skip
        tables.append(
            markdown_table([[f"{norm}: noise / transfer / attack", *(f"{radius:g}" for radius in radii)], *rows])
        )
    slopes = [
        [name, *(spread(part[key]) for key in ("largest_slopes_found", "lipschitz_bounds"))]
        for name, part in heads.items()
    ]
    return "\n\n".join(
        [*tables, markdown_table([["slope by normalised features", "largest found", "certified bound"], *slopes])]
    )


def schedule_table() -> str:
    """The best three schedules on dev at every noise."""
    rows = []
    for entry in read("schedules")["noises"]:
        best = sorted(entry["tried"], key=lambda tried: -tried["dev_accuracy"])[:3]
        names = [
            f"{one['dreg_schedule']} {one['dreg_lambda']:g}"
            + (f" to {one['dreg_lambda_end']:g}" if "dreg_lambda_end" in one else "")
            + f" ({100 * one['dev_accuracy']:.2f})"
            for one in best
        ]
        rows.append([f"{entry['noise']:g}", *names, percent(entry["test_accuracies"])])
    return markdown_table(
        [["noise", "best on dev (accuracy in %)", "second", "third", "test accuracy of the best"], *rows]
    )


def phrases_table() -> str:
    """Sentences alone and all phrases."""
    found = read("sst5_phrases")
    rows = [
        [kind, f"{found['rows'][kind]:,}", arm, percent(record["test_accuracies"])]
        for kind in ("sentences", "phrases")
        for arm, record in found[kind].items()
    ]
    return markdown_table([["trained on", "rows", "head", "test accuracy in %"], *rows])


def soak_table() -> str:
    """Faults and hostile files by case, and what long use and the lower bounds of the dependencies showed."""
    found = read("soak")
    rows = [
        [f"{name}: {case['case']}", *(str(case[key]) for key in ("tried", "survived", "lost"))]
        for name, part in found["parts"].items()
        for case in (part["cases"] if name != "hostile" else [{"case": "all", **part}])
    ]
    lines = [markdown_table([["what was tried", "tried", "survived", "lost"], *rows])]
    for name, title in (
        ("predictions", "predictions"),
        ("train_save_load_cycles", "cycles of training, saving, loading"),
    ):
        part = found["long_use"][name]
        memory = part["memory"]
        low, high = memory["interval_low"], memory["interval_high"]
        lines.append(
            f"{part['steps']:,} {title} in one process: {memory['bytes_a_step']:+,.1f} bytes each (95 % interval "
            f"{low:+,.1f} to {high:+,.1f}), {memory['bytes_last'] / 1e6:.1f} MB at the end after "
            f"{memory['bytes_first'] / 1e6:.1f} MB; open files {part['open_files'][0]} before and "
            f"{part['open_files'][1]} after, {len(part['temporary_files_left'])} temporary files left."
        )
    lines.append(
        "oneDNN's cache of kernels was held to 16 shapes (`ONEDNN_PRIMITIVE_CACHE_CAPACITY`): by default it "
        "grows until it holds 1,024, which is no leak but would hide one."
    )
    threads, bounds = found["long_use"]["threads"], found["lower_bounds"]["installed"]
    lines.append(
        f"{threads['predictions']:,} predictions from {threads['threads']} threads: {threads['differing']} differ."
    )
    lines.append(
        f"Tested with the lowest versions allowed: {', '.join(f'{name} {one}' for name, one in bounds.items())}."
    )
    return "\n\n".join(lines)


SECTIONS: list[tuple[str, str, str, Callable[[], str]]] = [
    ("SST-5, frozen encoder", "sst5_study", "cr-hf study", sst5_study_table),
    ("SST-5, all labelled phrases", "sst5_phrases", "python -m experiments.sst5_phrases", phrases_table),
    ("SST-5, fine-tuned", "sst5_finetune", "python -m experiments.regimes sst5_finetune",
     lambda: regime("sst5_finetune", {"calibration error": "expected_calibration_error"})),
    ("SST-5, robustness", "sst5_robustness", "python -m experiments.sst5_robustness", robustness_table),
    ("Yelp Full, a sample, word vectors", "yelp_static", "python -m experiments.regimes yelp_static",
     lambda: regime("yelp_static", ORDERED)),
    ("Yelp Full, a larger sample, word vectors", "yelp_static_pool", "python -m experiments.regimes yelp_static_pool",
     lambda: regime("yelp_static_pool", ORDERED)),
    ("Pima diabetes", "pima", "python -m experiments.pima", pima_table),
    ("MNIST", "mnist", "python -m experiments.mnist", mnist_table),
    ("CIFAR-10-C, a subset", "cifar10c", "python -m experiments.cifar10c", cifar_table),
    ("Schedules of lambda under noise", "schedules", "python -m experiments.schedules", schedule_table),
    ("DREG as a general penalty", "general_penalty", "python -m experiments.general_penalty", penalty_table),
    ("Reliability", "soak", "make soak", soak_table),
]  # fmt: skip
MADE_HERE: dict[str, list[Callable[[], dict[str, str]]]] = {
    "sst5_study": [sst5_frozen, dreg_helps],
    "sst5_finetune": [sst5_finetuned],
    "yelp_static": [yelp],
}


def claims_of(name: str) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a result file, each with the rule of its verdict."""
    for make in MADE_HERE.get(name, []):
        yield make(), " ".join((make.__doc__ or "").split())
    found = read(name)
    for row in found.get("claims", []):
        yield row, found.get("rule", "")


def render() -> str:
    """RESULTS.md as the result files have it."""
    summary, parts = [], []
    for title, name, script, make_table in SECTIONS:
        rows = list(claims_of(name))
        summary += [[row["claim"], row["ours"], f"**{row['verdict']}**"] for row, _ in rows]
        lines = [f"## {title}", f"From `experiments/results/{name}.json` (`{script}`)."]
        if not rows and "protocol" in read(name):
            lines.append(read(name)["protocol"])
        for row, _ in rows:
            lines.append(
                f"**{row['claim']}**: {row['verdict']}.\n\n- Protocol: {row['protocol']}.\n- Ours: {row['ours']}."
            )
        # A file has one rule for all of its claims.
        rules = [rule.rstrip(".") for rule in dict.fromkeys(rule for _, rule in rows) if rule]
        lines += [f"Rule: {rule}." for rule in rules]
        parts.append("\n\n".join([*lines, make_table()]))
    cost = inference_cost()
    summary.append([cost["claim"], cost["ours"] + f": {cost['protocol']}", f"**{cost['verdict']}**"])
    return "\n".join(
        [HEAD, markdown_table([["claim", "found here", "verdict"], *summary]), "", "\n\n".join(parts), ""]
    )


def main() -> int:
    """Write RESULTS.md; with `--check` only say whether it is up to date."""
    after = render()
    if "--check" in sys.argv:
        same = PATH.exists() and PATH.read_text(encoding="utf-8") == after
        if not same:
            print("RESULTS.md disagrees with experiments/results: run make results")
        return int(not same)
    PATH.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
