"""A finished study as files: tables and CSV always; pictures and one page, `report.html`, with the `report` extra."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_text
from .arms import HEADS
from .results import Study
from .tables import (
    TAIL_RATIO_NOTE,
    accuracy_rows,
    certified_rows,
    claims,
    comparison_rows,
    listed,
    measure_rows,
    recommendation,
    setting_rows,
    study_csv,
    study_tables,
    tail_ratio_rows,
)

EXTRA = ("matplotlib", "jinja2")


@dataclass(frozen=True)
class Picture:
    """A picture of a study: its file and `pictures.draw_NAME` have its name; title and caption stand around it."""

    name: str
    title: str
    caption: str


def write_report(study: Study, folder: Path) -> bool:
    """Write `study.md` and `study.csv` and, with the `report` extra, `report.html` and a PNG file a picture.

    Returns:
        Whether there are pictures and a page: `False` where matplotlib or jinja2 is missing.
    """
    write_text(folder / "study.md", study_tables(study) + "\n")
    write_text(folder / "study.csv", study_csv(study))
    if any(importlib.util.find_spec(module) is None for module in EXTRA):
        return False
    from .pictures import save_picture

    drawn = draw_pictures(study)
    for picture, figure in drawn:
        save_picture(figure, folder / f"{picture.name}.png")
    write_text(folder / "report.html", study_page(study, folder.resolve().name, drawn))
    return True


def draw_pictures(study: Study) -> list[tuple[Picture, Any]]:
    """Every picture of a study with its figure."""
    from . import pictures

    return [(picture, getattr(pictures, f"draw_{picture.name}")(study)) for picture in pictures_of(study)]


def study_page(study: Study, title: str, drawn: list[tuple[Picture, Any]] | None = None) -> str:
    """A study as one HTML page that needs no network and no script; everything in it is escaped.

    `drawn` are its pictures; `None` (default) draws them.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from .pictures import inline_svg

    shown = [
        (picture, Markup(inline_svg(figure, picture.name, f"{picture.title}. {picture.caption}")))
        for picture, figure in (draw_pictures(study) if drawn is None else drawn)
    ]
    loader = PackageLoader("cr_hf.study", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(
        title=title,
        recommended=recommendation(study),
        protocol=protocol(study),
        heads={head: HEADS[head].description for head in study.largest},
        claims=claims(study),
        accuracy=accuracy_rows(study),
        comparisons=comparison_rows(study) if study.comparisons else [],
        tail_ratio=tail_ratio_rows(study),
        tail_ratio_note=TAIL_RATIO_NOTE,
        settings=setting_rows(study),
        measures=measure_rows(study),
        certified=certified_rows(study),
        pictures=shown,
        environment=study.environment,
        fingerprint=study.fingerprint,
    )


def protocol(study: Study) -> list[str]:
    """What was compared and how, in plain sentences."""
    data, rows, features = study.data, study.data["rows"], study.features
    amounts = listed(map(study.amount, study.fractions))
    own = " a draw of the labels" if study.is_few else ", below 100%, a stratified subset of the labels"
    sizes = [str(size) for size in study.hidden_sizes]
    layers = f"hidden layers of {listed(sizes)} units (a linear head has none)" if sizes else "no hidden layer"
    sentences = [
        f"Data: {data['source']}, {rows['train']:,} training, {rows['validation']:,} dev and {rows['test']:,} test "
        f"rows; classes: {', '.join(map(str, data['labels']))}.",
        f"Every head reads the same {features['in_features']:,} features of a row, and a network has {layers}.",
        f"Trained on {amounts}, with {study.seeds} seeds each. A seed is an initialisation, an order of the data and"
        f"{own}; the same seed of two heads has the same rows.",
    ]
    if data["synthetic"]:
        sentences.append("These data are synthetic: the numbers say that it runs, not how good a head is.")
    return [*sentences, *study.data_notes]


def pictures_of(study: Study) -> list[Picture]:
    """The pictures that a study has something for."""
    from .pictures import heads_with, heads_with_coefficient

    at = f"at {study.amount()}"
    pictures: dict[Picture, object] = {
        Picture(
            "differences",
            "What one head gains over another",
            "Paired differences in test accuracy with 95 % intervals by bootstrap over seeds and test rows; a filled "
            "mark is a claimed difference. Left of the dashed line the head is worse than its reference.",
        ): study.comparisons,
        Picture(
            "tail_ratio",
            "Gradient tail ratio by number of labels",
            "Means with 95 % t intervals over seeds. The ratio depends on how non-linear a head is: a linear one has "
            "1 by construction, so compare heads of similar non-linearity (in the table).",
        ): heads_with(study, "gradient_tail_ratios"),
        Picture(
            "lambda",
            f"{study.chosen_by.capitalize()} accuracy by lambda",
            f"Means {at} with 95 % t intervals over the {study.search_seeds} seeds that choose; a ring marks the "
            "chosen lambda. Lambdas of different penalties are not on one scale.",
        ): heads_with_coefficient(study),
        Picture(
            "polynomials",
            "Learned polynomials",
            f"Some units of the first layer {at} (seed 0), from the one with the lowest slope at 0 to the one with "
            "the highest. They start near the dashed line unless the recipe says coefficient_init: identity, then at "
            "the dotted one.",
        ): heads_with(study, "coefficients"),
        Picture(
            "reliability",
            "Reliability",
            f"Accuracy on test by confidence {at}, all seeds together, with 95 % Wilson intervals over rows; on the "
            "dashed line confidence is right, below it too high. Bins of fewer than 10 rows are left out. The "
            "number is the expected calibration error of all rows.",
        ): heads_with(study, "reliability"),
    }
    return [picture for picture, something in pictures.items() if something]
