"""Write RESULTS.md and the tables of README.md and docs/ from the committed results alone, or check them (`--check`).

Every claim of the papers is a row of RESULTS.md: what it says, how it was looked at, what was found, and a verdict by
a rule. A result file brings its claims and their rule; those of studies, regimes and speed are made here.

A table of README.md or of a page of docs/ stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from . import short_tables, stability, tables
from .runner import ROOT, Claim, Verdict, interval_text
from .tables import FINETUNED, ORDERED, paragraphs, percent, read, regime

HEAD = Path(__file__).with_name("results_head.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CLAIMED_SST5 = 0.462
COST = 0.01


def sst5_frozen() -> Claim:
    """The accuracy of the papers' SST-5 head."""
    study = tables.study()
    cells = {float(name): part.heads["cr+dreg"].test_accuracies for name, part in study.fractions.items()}
    return Claim(
        claim="SST-5 frozen: 46.20 ± 0.37 %",
        protocol=f"frozen all-MiniLM-L6-v2, two layers of 128, {study.seeds} seeds, four settings a head and fraction "
        "chosen on dev; another encoder than the papers', so the level is not comparable",
        ours="; ".join(f"{percent(values)} % with {share:.0%} of the labels" for share, values in cells.items()),
        verdict=Verdict.of(bool(np.mean(cells[1.0]) >= CLAIMED_SST5)),
    )


def dreg_helps() -> Claim:
    """Whether CR with DREG is better than a GELU MLP."""
    study = tables.study()
    found = {
        float(name): one
        for name, part in study.fractions.items()
        for one in part.comparisons
        if (one.head, one.reference) == ("cr+dreg", "mlp-gelu")
    }
    higher = all(one.difference > 0 for one in found.values())
    return Claim(
        claim="SST-5 frozen: CR with DREG is more accurate than an ordinary head of equal size",
        protocol=f"the same study; paired differences, crossed bootstrap, Holm over {study.tests} tests",
        ours="; ".join(
            f"{interval_text(one.difference, one.interval)} points over the GELU MLP with {share:.0%} of the labels"
            for share, one in found.items()
        ),
        verdict=Verdict.of(higher and all(one.claimed for one in found.values()), higher),
    )


def sst5_finetuned() -> Claim:
    """CR with DREG against a linear head where every layer trains."""
    found = read("sst5_finetune")
    ours, linear = (found["arms"][arm]["test"]["accuracy"]["mean"] for arm in ("cr+dreg", "linear"))
    pair = found["test_accuracy_differences"]["cr+dreg - linear"]
    return Claim(
        claim="SST-5 fine-tuned (BERT-base): 55.79 % (a single run) against 54.9 % of a linear head",
        protocol=f"every layer of all-MiniLM-L6-v2 trains, 3 epochs, {found['seeds']} paired seeds; BERT-base could "
        "not be had, so only the direction is looked at",
        ours=f"CR with DREG {100 * ours:.2f} %, linear {100 * linear:.2f} %: "
        f"{interval_text(pair['difference'], pair['interval'])} points",
        verdict=Verdict.IN_DIRECTION if ours > linear else Verdict.NOT_REPRODUCED,
    )


def yelp() -> Claim:
    """The accuracy of the papers' ordinal head, on samples of Yelp."""
    parts = []
    for found in (read("yelp_static"), read("yelp_static_pool")):
        arms = [
            f"{name} {100 * values['test']['accuracy']['mean']:.1f} % with {values['parameters_head']:,} parameters"
            for name, values in found["arms"].items()
            if name.startswith("cr+dreg")
        ]
        parts.append(f"{found['data']['rows']['train']:,} rows, {found['seeds']} seeds: {', '.join(arms)}")
    return Claim(
        claim="Yelp Full, ordinal: 70.17 % with 3.2M parameters, against a ten-model mean of 66.35 %",
        protocol="word vectors learned from scratch on a sample in place of 650,000 rows, the first 5,000 test rows",
        ours="; ".join(parts),
        verdict=Verdict.NOT_TESTABLE,
    )


def inference_cost() -> Claim:
    """The share of the head in a forward pass of the encoder."""
    rows = [row for row in read("model_step")["rows"] if row["name"].startswith("inference")]
    shares = [f"{row['ratio']:.2%} with {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in rows]
    return Claim(
        claim="Standard inference cost",
        protocol="time in the head over the whole forward pass of MiniLM, measured in turn in one process",
        ours=f"of the time {' and '.join(shares)}",
        verdict=Verdict.of(max(row["ratio"] for row in rows) <= COST),
    )


@dataclass(frozen=True)
class Section:
    """A section of RESULTS.md: the result file of this name, the command that writes it, and what makes its tables.

    `claims` are made here, each with the rule of its verdict; those that the file holds come after them.
    """

    title: str
    name: str
    command: str
    table: Callable[[], str]
    claims: tuple[tuple[Callable[[], Claim], str], ...] = ()

    def render(self) -> tuple[list[Claim], str]:
        """Its claims and its text."""
        found = read(self.name)
        kept = [Claim(**{**one, "verdict": Verdict(one["verdict"])}) for one in found.get("claims", [])]
        own = [make() for make, _ in self.claims]
        rules = [rule for _, rule in self.claims] + ([found["rule"].rstrip(".")] if kept else [])
        claims = own + kept
        texts = [
            f"**{one.claim}**: {one.verdict}.\n\n- Protocol: {one.protocol}.\n- Ours: {one.ours}." for one in claims
        ]
        return claims, paragraphs(
            f"## {self.title}",
            f"From `experiments/results/{self.name}.json` (`{self.command}`).",
            "" if claims else found.get("protocol", ""),
            *texts,
            *(f"Rule: {rule}." for rule in rules),
            self.table(),
        )


def _of(name: str, title: str, table: Callable[[], str]) -> Section:
    return Section(title, name, f"python -m experiments.{name}", table)


SECTIONS = [
    Section(
        "SST-5, frozen encoder",
        "sst5_study",
        "cr-hf study",
        partial(tables.sst5_study, with_tail_ratios=True),
        (
            (sst5_frozen, "Accuracy: reproduced if the mean with all labels is no lower"),
            (
                dreg_helps,
                "Against the ordinary head: reproduced if claimed at every fraction against the GELU MLP; in "
                "direction only if the mean is higher at all",
            ),
        ),
    ),
    _of("certified", "Clean against certified accuracy", stability.certified),
    _of("few_labels", "Few labels", stability.few_labels),
    _of("polynomial_range", "Where the tails begin", stability.polynomial_range),
    _of("tail_ratio", "Accuracy against the tail ratio", stability.tail_ratio),
    _of("noise_directions", "DREG along the directions of damage", stability.noise_directions),
    _of("sst5_phrases", "SST-5, all labelled phrases", tables.sst5_phrases),
    Section(
        "SST-5, fine-tuned",
        "sst5_finetune",
        "python -m experiments.regimes sst5_finetune",
        partial(regime, "sst5_finetune", {"calibration error": FINETUNED["calibration error"]}),
        ((sst5_finetuned, "in direction only if the mean difference is above 0: the backbone is another one"),),
    ),
    _of("sst5_robustness", "SST-5, robustness", tables.sst5_robustness),
    Section(
        "Yelp Full, a sample, word vectors",
        "yelp_static",
        "python -m experiments.regimes yelp_static",
        partial(regime, "yelp_static", ORDERED),
        ((yelp, "the claim is on 650,000 rows, which are not here"),),
    ),
    Section(
        "Yelp Full, a larger sample, word vectors",
        "yelp_static_pool",
        "python -m experiments.regimes yelp_static_pool",
        partial(regime, "yelp_static_pool", ORDERED),
    ),
    _of("ordinal_losses", "Losses of ordered classes", tables.ordinal_losses),
    _of("pima", "Pima diabetes", tables.pima),
    _of("mnist", "MNIST", tables.mnist),
    _of("cifar10c", "CIFAR-10-C, a subset", tables.cifar10c),
    _of("schedules", "Schedules of lambda under noise", tables.schedules),
    _of("general_penalty", "DREG as a general penalty", tables.general_penalty),
    Section("Reliability", "soak", "make soak", tables.soak),
    Section("Random tables", "fuzz", "python -m experiments.fuzz", tables.fuzz),
]
TABLES: dict[str, Callable[[], str]] = {
    "sst5_study": tables.sst5_study,
    "study_advice": tables.study_advice,
    "sst5_seeds": tables.sst5_seeds,
    "auto_lambda": tables.auto_lambda,
    "sst5_diagnostics": tables.sst5_diagnostics,
    "sst5_finetune": partial(regime, "sst5_finetune", FINETUNED),
    **{name: partial(regime, name, ORDERED) for name in ("yelp_minilm", "yelp_static", "yelp_static_pool")},
    "single_score": tables.single_score,
    "ordinal_losses": tables.ordinal_losses,
    "speed": tables.speed,
    "large_data": tables.large_data,
    "encoders": short_tables.encoders,
    "hub_faults": tables.hub_faults,
    "model_cards": tables.model_cards,
    "heads": short_tables.heads,
    "why_not": short_tables.why_not,
    "few_labels": short_tables.few_labels,
    "certified": short_tables.certified,
}


def render_results() -> str:
    """RESULTS.md as the result files have it."""
    claims, texts = [], []
    for section in SECTIONS:
        own, text = section.render()
        claims += own
        texts.append(text)
    summary = [[one.claim, one.ours, f"**{one.verdict}**"] for one in claims]
    cost = inference_cost()
    summary.append([cost.claim, f"{cost.ours}: {cost.protocol}", f"**{cost.verdict}**"])
    return "\n".join([HEAD, tables.table(["claim", "found here", "verdict"], summary), "", "\n\n".join(texts), ""])


def render_page(text: str) -> str:
    """A page with every table made anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def main(argv: Sequence[str] | None = None) -> None:
    """Write both files; with `--check` only say whether they are up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.make_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file is not up to date")
    check = parser.parse_args(argv).check
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    rendered = {path: render_page(path.read_text(encoding="utf-8")) for path in pages}
    rendered[ROOT / "RESULTS.md"] = render_results()
    stale = [path for path, text in rendered.items() if path.read_text(encoding="utf-8") != text]
    if check and stale:
        parser.exit(1, f"{' and '.join(path.name for path in stale)}: run make results\n")
    for path in stale:
        path.write_text(rendered[path], encoding="utf-8")


if __name__ == "__main__":
    main()
