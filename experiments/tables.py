"""The tables of RESULTS.md, README.md and docs/, each made from a committed result file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cr_hf.files import markdown_table
from cr_hf.runs import comparison_lines, diagnostic_rows
from cr_hf.study import Study
from cr_hf.study.tables import accuracy_rows, claims, comparison_rows, recommendation, spread, tail_ratio_rows

from .runner import RESULTS, ROOT, interval_text

SPEED = ROOT / "benchmarks" / "results"
SPEED_FILES = ("head_step", "model_step", "sweep", "encoding", "ten_seeds", "start", "estimator", "certificate")
ORDERED = {"mean absolute error": "mean_absolute_error", "quadratic weighted kappa": "quadratic_weighted_kappa"}
SPLITS = ("validation", "test")
FINETUNED = {"macro F1": "macro_f1", "calibration error": "expected_calibration_error"}
DIAGNOSTICS = (
    "rows",
    "gradient tail ratio, margin",
    "of a linear head, margin",
    "non-linearity",
    "peak gradient, margin",
    "largest slope found, logits",
    "Lipschitz bound, logits",
    "expected calibration error",
    "temperature",
)
CACHE_NOTE = (
    "oneDNN's cache of kernels was held to 16 shapes (`ONEDNN_PRIMITIVE_CACHE_CAPACITY`): by default it grows until "
    "it holds 1,024, which is no leak but would hide one."
)


def read(name: str) -> dict[str, Any]:
    """A committed result file, of an experiment or of a measurement of speed."""
    (path,) = (folder / f"{name}.json" for folder in (RESULTS, SPEED) if (folder / f"{name}.json").exists())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return markdown_table([header, *rows])


def paragraphs(*parts: str) -> str:
    """Parts that are not empty, with an empty line between them."""
    return "\n\n".join(part for part in parts if part)


def percent(values: ArrayLike, digits: int = 1) -> str:
    """Mean and standard deviation of shares, in percent."""
    return spread(100 * np.asarray(values), digits)


def points(share: float) -> str:
    """A share in percent, for a table whose header says so."""
    return f"{100 * share:.1f}"


def differences(pairs: dict[str, dict[str, Any]]) -> str:
    """Paired differences of accuracy; of one seed there are none."""
    rows = [[name, interval_text(pair["difference"], pair["interval"])] for name, pair in pairs.items()]
    return table(["difference of accuracy", "points [95 %]"], rows) if rows else ""


# ---- SST-5 ----


def study() -> Study:
    """The committed study of heads on frozen SST-5."""
    return Study.from_json(read("sst5_study"))


def sst5_study(with_tail_ratios: bool = False) -> str:
    """Heads and comparisons on frozen SST-5 features."""
    found = study()
    kinds = [accuracy_rows, comparison_rows, *([tail_ratio_rows] if with_tail_ratios else [])]
    return paragraphs(*(markdown_table(make(found)) for make in kinds), *claims(found))


def study_advice() -> str:
    """The recommendation that the study of SST-5 ends in."""
    return f"> {recommendation(study()).text}"


def sst5_seeds() -> str:
    """The recipe as shipped, trained by `cr-hf train` with ten seeds."""
    found = read("sst5_seeds")
    test = 100 * np.array([run["test_accuracy"] for run in found["runs"]])
    machine = found["environment"]
    return (
        f"`recipes/sst5_frozen.yaml` as shipped, {len(test)} seeds: test accuracy **{spread(test, 2)} %** "
        f"({test.min():.2f} to {test.max():.2f}); a seed trains in {found['median_seconds_training']:.1f} s "
        f"({machine['device']}, threads: {machine['threads']})."
    )


def auto_lambda() -> str:
    """What `dreg_lambda: auto` picks, and the paired difference from the fixed default on test."""
    found = read("auto_lambda")
    rows = []
    for share, part in found["fractions"].items():
        picks = ", ".join(f"{choice['chosen']:.3g}" for choice in part["choices"])
        one = part["auto_minus_fixed"]
        rows.append([f"{float(share):.0%}", picks, interval_text(one["difference"], one["interval"])])
    header = ["share of the labels", "lambda picked, by seed", "auto minus fixed, points [95 %]"]
    return paragraphs(table(header, rows), f"Fixed: {found['fixed']}. Seeds: {found['seeds']}.")


def sst5_phrases() -> str:
    """Sentences alone and all phrases."""
    found = read("sst5_phrases")
    rows = [
        [kind, f"{found['rows'][kind]:,}", arm, percent(record["test_accuracies"])]
        for kind in ("sentences", "phrases")
        for arm, record in found[kind].items()
    ]
    return table(["trained on", "rows", "head", "test accuracy in %"], rows)


def sst5_robustness() -> str:
    """Damaged texts, noise, attacks and slopes, head by head."""
    heads = read("sst5_robustness")["heads"]
    first = next(iter(heads.values()))
    kinds = list(first["texts"]["kinds"])
    texts, noise, slopes = [], [], []
    for name, part in heads.items():
        damaged = [part["texts"]["kinds"][kind]["mean_accuracy"] for kind in kinds]
        accuracies = [part["texts"]["clean_accuracy"], *damaged, part["texts"]["mean_accuracy"]]
        texts.append([name, *map(points, accuracies)])
        noise.append([name, *map(points, part["noise"]["accuracies"])])
        slopes.append([name, spread(part["largest_slopes_found"]), spread(part["lipschitz_bounds"])])
    deviations = [f"{one:g}" for one in first["noise"]["deviations"]]
    tables = [
        table(["accuracy in %, texts", "as they are", *kinds, "mean of the damaged"], texts),
        table(["accuracy in %, noise", *deviations], noise),
    ]
    for norm, curves in first["attacks"].items():
        rows = []
        for name, part in heads.items():
            ways = [part["attacks"][norm][f"{way}_accuracies"] for way in ("noise", "transfer", "attack")]
            rows.append([name, *(" / ".join(map(points, point)) for point in zip(*ways, strict=True))])
        radii = [f"{radius:g}" for radius in curves["radii"]]
        tables.append(table([f"{norm}: noise / transfer / attack", *radii], rows))
    return paragraphs(*tables, table(["slope by normalised features", "largest found", "certified bound"], slopes))


def sst5_diagnostics() -> str:
    """What `cr-hf diagnose` says of a run, and of damaged texts beside it; a few of its lines."""
    found = read("sst5_diagnostics")
    columns = {**found["splits"], f"test with {found['damage']['kind']}": found["new_texts"]}
    every = ([name.strip(), *cells] for name, *cells in diagnostic_rows(columns, found["output"]))
    rows = [row for row in every if row[0] in DIAGNOSTICS]
    return paragraphs(table(["", *columns], rows), *comparison_lines(found["new_texts"], "texts"))


# ---- regimes ----


def regime(name: str, metrics: dict[str, str]) -> str:
    """Arms of a regime of `regimes.py`: test metrics (by column, beside accuracy), and the paired differences."""
    found = read(name)
    rows = []
    for arm, values in found["arms"].items():
        test = values["test"]
        accuracy = points(test["accuracy"]["mean"])
        if found["seeds"] > 1:
            accuracy += f" ± {points(test['accuracy']['std'])}"
        others = [f"{test[key]['mean']:.3f}" for key in metrics.values()]
        rows.append([arm, f"{values['parameters_head']:,}", accuracy, *others])
    header = ["arm", "head parameters", "accuracy in %", *metrics]
    return paragraphs(
        table(header, rows), differences(found["test_accuracy_differences"]), f"Seeds: {found['seeds']}."
    )


def single_score() -> str:
    """What one score can say of a bag of words."""
    found = read("single_score")
    return (
        f"For scale, TF-IDF of the same texts, {found['rows']} validation rows: logistic regression with a direction "
        f"a class gets {points(found['direction_a_class'])} %, one ridge score with the cuts fitted to it "
        f"{points(max(found['one_score'].values()))} %."
    )


def ordinal_losses() -> str:
    """Losses of ordered classes on one body, by set."""
    found = read("ordinal_losses")
    columns = {
        "mean absolute error of the median class": "mean_absolute_error",
        "quadratic weighted kappa": "quadratic_weighted_kappa",
        "kappa of the median class": "quadratic_weighted_kappa_of_median",
    }
    parts = []
    for title, methods in found["runs"].items():
        rows = []
        for method, runs in methods.items():
            dev, test = ({name: [one[split][name] for one in runs] for name in runs[0][split]} for split in SPLITS)
            accuracies = [points(np.mean(dev["accuracy"])), percent(test["accuracy"])]
            rows.append([method, *accuracies, *(f"{np.mean(test[name]):.3f}" for name in columns.values())])
        parts.append(table([title, "accuracy on validation", "accuracy in %", *columns], rows))
    pairs = found["test_accuracy_differences"]
    rows = [
        [name, *(interval_text(one["difference"], one["interval"]) for one in (pairs[title][name] for title in pairs))]
        for name in next(iter(pairs.values()))
    ]
    parts.append(table(["difference of accuracy, points [95 %]", *pairs], rows))
    return paragraphs(*parts, f"Seeds: {found['seeds']}.")


# ---- tables of numbers and pixels ----


def pima() -> str:
    """Accuracy of every arm at every share, and on the random splits."""
    found = read("pima")
    folds = {f"{float(share):.0%}": entry for share, entry in found["repeated 5-fold"].items()}
    splits = found["repeated 80/20"]["arms"]
    rows = []
    for arm, one in splits.items():
        cells = [*(entry["arms"][arm] for entry in folds.values()), one]
        rows.append([arm, *(percent(cell["accuracies"]) for cell in cells)])
    lines = [
        [
            share,
            one["reference"],
            interval_text(one["difference"], (one["interval_low"], one["interval_high"])),
            f"{one['p_holm']:.2f}",
        ]
        for share, entry in folds.items()
        for one in entry["comparisons"]
    ]
    shares = [f"{share} of the training rows" for share in folds]
    return paragraphs(
        table(["test accuracy in %", *shares, "80/20 splits"], rows),
        table(["training rows", "cr+dreg minus", "points [95 %]", "p after Holm"], lines),
    )


def mnist() -> str:
    """Accuracy and peak gradient by size."""
    rows = []
    for arm, records in read("mnist")["arms"].items():
        for record in records:
            units, parameters = str(record["hidden_sizes"][0]), f"{record['parameters']:,}"
            accuracy, peak = percent(record["test_accuracies"], 2), spread(record["peak_gradients"])
            rows.append([units, arm, parameters, accuracy, peak])
    return table(["units", "head", "parameters", "test accuracy in %", "peak gradient"], rows)


def cifar10c() -> str:
    """Accuracy on clean and corrupted images."""
    rows = []
    for arm, record in read("cifar10c")["arms"].items():
        accuracies = (record["test_accuracies"], record["mean_corruption_accuracies"])
        rows.append([arm, f"{record['parameters']:,}", *map(percent, accuracies)])
    return table(["head", "parameters", "clean accuracy in %", "mean corruption accuracy in %"], rows)


# ---- lambda and other penalties ----


def general_penalty() -> str:
    """Heads with their penalties: accuracy, under noise, tail ratio, curvature."""
    heads = read("general_penalty")["heads"]
    noises = [f"noise {noise}" for noise in next(iter(heads.values()))["noise_accuracies"]]
    rows = []
    for name, record in heads.items():
        setting = ", ".join(f"{key} {value:g}" for key, value in record["setting"].items())
        accuracies = (record["test_accuracies"], *record["noise_accuracies"].values())
        measures = (record["gradient_tail_ratios"], record["curvatures"])
        rows.append([name, setting, *map(percent, accuracies), *(spread(one, 2) for one in measures)])
    header = ["head", "chosen on dev", "test accuracy in %", *noises, "gradient tail ratio", "curvature"]
    return table(header, rows)


def schedules() -> str:
    """The best three schedules on dev at every noise."""
    rows = []
    for entry in read("schedules")["noises"]:
        names = []
        for one in sorted(entry["tried"], key=lambda tried: -tried["dev_accuracy"])[:3]:
            end = f" to {one['dreg_lambda_end']:g}" if "dreg_lambda_end" in one else ""
            dev = f"{100 * one['dev_accuracy']:.2f}"
            names.append(f"{one['dreg_schedule']} {one['dreg_lambda']:g}{end} ({dev})")
        rows.append([f"{entry['noise']:g}", *names, percent(entry["test_accuracies"])])
    return table(["noise", "best on dev (accuracy in %)", "second", "third", "test accuracy of the best"], rows)


# ---- speed and reliability ----


def large_data() -> str:
    """Memory of training on many rows."""
    found = read("large_data")
    small, large = found["runs"]
    return (
        f"Training a head on {large['rows']:,} x {found['width']:,} features took {large['bytes_peak'] / 1e9:.2f} GB "
        f"of anonymous memory, {100 * (found['growth'] - 1):.0f} % more than on {small['rows']:,} rows."
    )


def speed() -> str:
    """Every row of the benchmarks, ours over the peer."""
    rows, machines = [], set()
    for found in map(read, SPEED_FILES):
        machines.add(found["environment"]["device"])
        for row in found["rows"]:
            low, high = row["quartiles"]
            aim = "shown"
            if row["target"] is not None:
                aim = f"<= {row['target']:g}, {'met' if row['ratio'] <= row['target'] else 'missed'}"
            threads = row.get("threads", found["environment"]["threads"])
            rows.append([f"{row['name']} ({threads} thr.)", f"{row['ratio']:.3g}", f"{low:.3g} to {high:.3g}", aim])
    return paragraphs(
        table(["work", "ratio", "quartiles", "aim"], rows), f"Measured on: {'; '.join(sorted(machines))}."
    )


def hub_faults() -> str:
    """Faults of a publish: tried, and what came of them."""
    found = read("hub_faults")
    keys = ("tried", "published", "clear_error_and_rerun")
    rows = [[name, *(str(counts[key]) for key in keys)] for name, counts in found["kinds"].items()]
    return paragraphs(
        table(["fault", "routes tried", "published nevertheless", "one clear error, complete after a rerun"], rows),
        f"{found['survived']} of {found['tried']} faults survived, on {len(found['routes'])} routes of the Hub.",
    )


def soak() -> str:
    """Faults and hostile files by case, and what long use and the lower bounds of the dependencies showed."""
    found = read("soak")
    rows = []
    for name, part in found["parts"].items():
        for case in [{"case": "all", **part}] if name == "hostile" else part["cases"]:
            rows.append([f"{name}: {case['case']}", *(str(case[key]) for key in ("tried", "survived", "lost"))])
    use = found["long_use"]
    bounds = ", ".join(f"{name} {one}" for name, one in found["lower_bounds"]["installed"].items())
    threads = use["threads"]
    return paragraphs(
        table(["what was tried", "tried", "survived", "lost"], rows),
        memory_line(use["predictions"], "predictions"),
        memory_line(use["train_save_load_cycles"], "cycles of training, saving, loading"),
        CACHE_NOTE,
        f"{threads['predictions']:,} predictions from {threads['threads']} threads: {threads['differing']} differ.",
        f"Tested with the lowest versions allowed: {bounds}.",
    )


def fuzz() -> str:
    """Random tables, written and read back."""
    found = read("fuzz")
    trained = f" A head was trained for a step on {found['trained']:,} of them." if "trained" in found else ""
    told = (
        f"{found['tried']:,} random small tables (any text, separators, quotes, labels of every kind) were written as "
        f"csv, JSON or parquet and read back: {found['tried'] - found['refused']:,} as they were written, "
        f"{found['refused']:,} refused in one line, {found['wrong']} otherwise, {found['traceback']} tracebacks."
    )
    return told + trained


def memory_line(part: dict[str, Any], title: str) -> str:
    """Memory and open files over many steps of long use."""
    memory, (before, after) = part["memory"], part["open_files"]
    return (
        f"{part['steps']:,} {title} in one process: {memory['bytes_a_step']:+,.1f} bytes each (95 % interval "
        f"{memory['interval_low']:+,.1f} to {memory['interval_high']:+,.1f}), {memory['bytes_last'] / 1e6:.1f} MB at "
        f"the end after {memory['bytes_first'] / 1e6:.1f} MB; open files {before} before and {after} after, "
        f"{len(part['temporary_files_left'])} temporary files left."
    )


def model_cards() -> str:
    """The publishable checkpoints: card, size and hash of the weights."""
    rows = []
    for path in sorted((ROOT / "model_cards").glob("*/about.json")):
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        weights, name = files["model.safetensors"], path.parent.name
        total = sum(file["bytes"] for file in files.values())
        sizes = [f"{total / 1e6:.1f} MB", f"{weights['bytes'] / 1e6:.2f} MB"]
        rows.append([f"[{name}](../model_cards/{name}/README.md)", *sizes, f"`{weights['sha256']}`"])
    return table(["card", "repository", "weights", "SHA-256 of the weights"], rows)
