"""Write the tables of README.md from the committed results, or check that they agree (`--check`).

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. NAME is a function below.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cr_hf.runs.diagnose import comparison_lines, diagnostic_rows
from cr_hf.study import Study
from cr_hf.study.tables import accuracy_rows, claims, comparison_rows, markdown_table, recommendation, spread

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


SPEED = ROOT / "benchmarks" / "results"


def read(name: str) -> dict:
    """A committed result file, of an experiment or of a measurement of speed."""
    (path,) = (folder / f"{name}.json" for folder in (RESULTS, SPEED) if (folder / f"{name}.json").exists())
    return json.loads(path.read_text(encoding="utf-8"))


def sst5_study() -> str:
    """Heads and comparisons on frozen SST-5 features."""
    study = Study.from_json(read("sst5_study"))
    return "\n\n".join([markdown_table(rows(study)) for rows in (accuracy_rows, comparison_rows)] + claims(study))


def study_advice() -> str:
    """The recommendation that the study of SST-5 ends in."""
    return "> " + recommendation(Study.from_json(read("sst5_study"))).text


def sst5_seeds() -> str:
    """The recipe as shipped, trained by `cr-hf train` with ten seeds."""
    runs = read("sst5_seeds")
    test = 100 * np.array([run["test_accuracy"] for run in runs["runs"]])
    machine = runs["environment"]
    return (
        f"`recipes/sst5_frozen.yaml` as shipped, {len(test)} seeds: test accuracy **{test.mean():.2f} ± "
        f"{test.std(ddof=1):.2f} %** ({test.min():.2f} to {test.max():.2f}); a seed trains in "
        f"{runs['median_seconds_training']:.1f} s ({machine['device']}, threads: {machine['threads']})."
    )


def auto_lambda() -> str:
    """What `dreg_lambda: auto` picks, and the paired difference from the fixed default on test."""
    found = read("auto_lambda")
    rows = [["share of the labels", "lambda picked, by seed", "auto minus fixed, points", "95 % interval"]]
    for share, part in found["fractions"].items():
        picks = ", ".join(f"{choice['chosen']:.3g}" for choice in part["choices"])
        difference = part["auto_minus_fixed"]
        low, high = (100 * value for value in difference["interval"])
        points = f"{100 * difference['difference']:+.2f}"
        rows.append([f"{float(share):.0%}", picks, points, f"{low:+.2f} to {high:+.2f}"])
    return "\n".join([markdown_table(rows), "", f"Fixed: {found['fixed']}. Seeds: {found['seeds']}."])


def regime(name: str, metrics: dict[str, str]) -> str:
    """Arms of a regime of regimes.py: test metrics, and the paired differences."""
    found = read(name)
    rows = [["arm", "head parameters", "accuracy", *metrics]]
    for arm, values in found["arms"].items():
        test = values["test"]
        accuracy = f"{100 * test['accuracy']['mean']:.1f}"
        if found["seeds"] > 1:
            accuracy += f" ± {100 * test['accuracy']['std']:.1f}"
        others = (f"{test[key]['mean']:.3f}" for key in metrics.values())
        rows.append([arm, f"{values['parameters_head']:,}", accuracy, *others])
    return "\n".join(
        [markdown_table(rows), "", *differences(found["test_accuracy_differences"]), f"Seeds: {found['seeds']}."]
    )


def differences(pairs: dict) -> list[str]:
    """A table of paired differences and a blank line; of one seed there are none."""
    if not pairs:
        return []
    rows = [["difference of accuracy in points", "95 % interval"]]
    for name, pair in pairs.items():
        low, high = (100 * value for value in pair["interval"])
        rows.append([f"{name}: {100 * pair['difference']:+.2f}", f"{low:+.2f} to {high:+.2f}"])
    return [markdown_table(rows), ""]


ORDERED = {"mean absolute error": "mean_absolute_error", "quadratic weighted kappa": "quadratic_weighted_kappa"}


def yelp_minilm() -> str:
    """Ordered classes against plain ones on the Yelp sample, frozen MiniLM."""
    return regime("yelp_minilm", ORDERED)


def yelp_static() -> str:
    """The same with word vectors learned from scratch."""
    return regime("yelp_static", ORDERED)


def yelp_static_pool() -> str:
    """The same with the pool beside the training rows."""
    return regime("yelp_static_pool", ORDERED)


def sst5_finetune() -> str:
    """A fine-tuned backbone: the CR head against the linear one."""
    return regime("sst5_finetune", {"macro F1": "macro_f1", "calibration error": "expected_calibration_error"})


def single_score() -> str:
    """What one score can say of a bag of words."""
    found = read("single_score")
    best, several = max(found["one_score"].values()), found["direction_a_class"]
    return (
        f"For scale, TF-IDF of the same texts, {found['rows']} validation rows: logistic regression with a direction "
        f"a class gets {100 * several:.1f} %, one ridge score with the cuts fitted to it {100 * best:.1f} %."
    )


def ordinal_losses() -> str:
    """Ordinal losses on one body: ours, cross-entropy, CORAL, CORN."""
    found = read("ordinal_losses")
    rows = [["loss", "accuracy", "of the median class", *ORDERED]]
    for method in dict.fromkeys(run["method"] for run in found["runs"]):
        test = [run["test"] for run in found["runs"] if run["method"] == method]
        accuracy, median = (
            100 * np.array([values[key] for values in test]) for key in ("accuracy", "accuracy_of_median")
        )
        others = [f"{np.mean([values[key] for values in test]):.3f}" for key in ORDERED.values()]
        rows.append([method, spread(accuracy), f"{median.mean():.1f}", *others])
    return "\n".join(
        [markdown_table(rows), "", *differences(found["test_accuracy_differences"]), f"Seeds: {found['seeds']}."]
    )


def large_data() -> str:
    """Memory of training on many rows."""
    found = read("large_data")
    small, large = found["runs"]
    memory = f"{large['bytes_peak'] / 1e9:.2f} GB of anonymous memory, {100 * (found['growth'] - 1):.0f} % more"
    work = f"Training a head on {large['rows']:,} x {found['width']:,} features"
    return f"{work} took {memory} than on {small['rows']:,} rows."


def speed() -> str:
    """Every row of the benchmarks, ours over the peer."""
    rows = [["work", "ratio", "quartiles", "aim"]]
    machines = set()
    for file_name in ("head_step", "model_step", "sweep", "encoding", "ten_seeds"):
        if not (SPEED / f"{file_name}.json").exists():
            continue
        found = read(file_name)
        threads = found["environment"]["threads"]
        machines.add(found["environment"]["device"])
        for row in found["rows"]:
            low, high = row["quartiles"]
            met = "" if row["target"] is None else ("met" if row["ratio"] <= row["target"] else "missed")
            goal = "shown" if row["target"] is None else f"<= {row['target']:g}, {met}"
            name = f"{row['name']} ({row.get('threads', threads)} thr.)"
            rows.append([name, f"{row['ratio']:.3g}", f"{low:.3g} to {high:.3g}", goal])
    return "\n".join([markdown_table(rows), "", f"Measured on: {'; '.join(sorted(machines))}."])


def hub_faults() -> str:
    """Faults of a publish: tried, and what came of them."""
    found = read("hub_faults")
    rows = [["fault", "routes tried", "published nevertheless", "one clear error, complete after a rerun"]]
    for name, counts in found["kinds"].items():
        rows.append([name, *(str(counts[key]) for key in ("tried", "published", "clear_error_and_rerun"))])
    routes = f"on {len(found['routes'])} routes"
    return "\n".join(
        [markdown_table(rows), "", f"{found['survived']} of {found['tried']} faults survived, {routes} of the Hub."]
    )


def sst5_diagnostics() -> str:
    """What `cr-hf diagnose` says of a run, and of damaged texts beside it; a few of its lines."""
    found = read("sst5_diagnostics")
    columns = {**found["splits"], f"test with {found['damage']['kind']}": found["new_texts"]}
    shown = (
        "rows",
        "gradient tail ratio, margin",
        "of a linear head, margin",
        "non-linearity",
        "peak gradient, margin",
    )
    shown += ("largest slope found, logits", "Lipschitz bound, logits", "expected calibration error", "temperature")
    every = diagnostic_rows(columns, found["output"])
    rows = [["", *columns], *([name.strip(), *cells] for name, cells in every if name.strip() in shown)]
    return "\n\n".join([markdown_table(rows), *comparison_lines(found["new_texts"], "texts")])


def model_cards() -> str:
    """The publishable checkpoints: card, size and hash of the weights."""
    rows = [["card", "repository", "weights", "SHA-256 of the weights"]]
    for path in sorted((ROOT / "model_cards").glob("*/about.json")):
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        weights = files["model.safetensors"]
        total = sum(file["bytes"] for file in files.values())
        link = f"[{path.parent.name}](model_cards/{path.parent.name}/README.md)"
        sizes = [f"{total / 1e6:.1f} MB", f"{weights['bytes'] / 1e6:.2f} MB"]
        rows.append([link, *sizes, f"`{weights['sha256']}`"])
    return markdown_table(rows)


TABLES: dict[str, Callable[[], str]] = {
    "sst5_study": sst5_study,
    "study_advice": study_advice,
    "sst5_seeds": sst5_seeds,
    "auto_lambda": auto_lambda,
    "sst5_diagnostics": sst5_diagnostics,
    "sst5_finetune": sst5_finetune,
    "yelp_minilm": yelp_minilm,
    "yelp_static": yelp_static,
    "yelp_static_pool": yelp_static_pool,
    "single_score": single_score,
    "ordinal_losses": ordinal_losses,
    "speed": speed,
    "large_data": large_data,
    "hub_faults": hub_faults,
    "model_cards": model_cards,
}


def render(text: str) -> str:
    """The text with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3], text)


def main() -> int:
    """Update README.md; with `--check` only say whether it is up to date."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = render(before)
    if "--check" in sys.argv:
        if before != after:
            print("README.md disagrees with experiments/results: run make results")
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
