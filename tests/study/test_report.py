"""The page, the pictures and the advice of a study, made from studies with known numbers."""

import copy
import dataclasses
import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cr_hf.cli
import cr_hf.study.report
from cr_hf.evaluation.statistics import Comparison, calibration_bins
from cr_hf.evaluation.text_damage import robustness_curves
from cr_hf.files import write_json
from cr_hf.study.arms import HEADS
from cr_hf.study.pictures import inline_svg, plot_robustness
from cr_hf.study.report import pictures_of, study_page, write_report
from cr_hf.study.results import Cell, Study, Tried, recipe_words
from cr_hf.study.study import compare_cells
from cr_hf.study.tables import claims, recommendation, study_tables

SEEDS, ROWS = 5, 50
PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "br", "use", "path"}


def cell(head: str, generator: np.random.Generator, accuracy: float) -> Cell:
    """A cell as training leaves it, of made-up predictions."""
    hits = generator.random((SEEDS, ROWS)) < accuracy
    confidence = generator.uniform(0.5, 1, (SEEDS, ROWS, 1))
    tried = HEADS[head].settings
    dev = generator.uniform(0.6, 0.7, len(tried))
    is_polynomial = HEADS[head].overrides.get("activation") == "polynomial"
    return Cell(
        rows=20,
        tried=[Tried(setting, float(mean), 0.01) for setting, mean in zip(tried, dev, strict=True)],
        chosen=int(dev.argmax()),
        dev_accuracies=(dev.max() + 0.01 * generator.standard_normal(SEEDS)).tolist(),
        test_accuracies=hits.mean(1).tolist(),
        gradient_tail_ratios=generator.uniform(1, 3, SEEDS).tolist(),
        peak_gradients=generator.uniform(1, 3, SEEDS).tolist(),
        non_linearities=generator.uniform(0, 1, SEEDS).tolist(),
        expected_calibration_errors=generator.uniform(0, 0.1, SEEDS).tolist(),
        reliability=calibration_bins(confidence.ravel(), hits.ravel()),
        certified_accuracies={"0.1": [0.5] * SEEDS, "1": [0.25] * SEEDS} if is_polynomial else None,
        margin_slopes=[2.0] * SEEDS if is_polynomial else None,
        coefficients=generator.standard_normal((4, 8)).tolist() if is_polynomial else None,
        parameters=1234,
        hits=hits,
        seconds=1.0,
    )


def make_study(heads: list[str], fractions: list[float], accuracies: dict[str, float] | None = None) -> Study:
    """A study with accuracies of 0.6 unless others are given."""
    generator = np.random.default_rng(0)
    cells = {(x, head): cell(head, generator, (accuracies or {}).get(head, 0.6)) for x in fractions for head in heads}
    compared = [Comparison(head, heads[0]) for head in heads[1:6]]
    return Study(
        data={
            "source": "local files",
            "synthetic": False,
            "labels": ["<script>alert(1)</script>", "good & proper"],
            "rows": {"train": 80, "validation": 30, "test": ROWS},
        },
        features={"in_features": 8},
        hidden_sizes=[8],
        seeds=SEEDS,
        search_seeds=2,
        resamples=10_000,
        comparisons=compared,
        fingerprint="0123456789abcdef",
        environment={"device": "CPU", "torch": "2", "transformers": "5", "seconds_training": 3},
        tests=len(compared) * len(fractions),
        least_wilcoxon_p=2.0 ** (1 - SEEDS),
        fractions=compare_cells(cells, compared),
    )


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study(["linear", "mlp-gelu", "cr", "cr+dreg"], [0.25, 1.0])


class Page(HTMLParser):
    """What a browser would see: the tags, whether they are closed, ids, and the rows of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_every_file_is_written(study: Study, tmp_path: Path) -> None:
    assert write_report(study, tmp_path)
    pictures = {"differences.png", "tail_ratio.png", "lambda.png", "polynomials.png", "reliability.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"study.md", "study.csv", "report.html", *pictures}
    for name in pictures:
        data = (tmp_path / name).read_bytes()
        assert data.startswith(PNG)
        assert len(data) > 5000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<title>{tmp_path.name}: which head to use</title>" in page
    before = (tmp_path / "report.html").read_bytes()
    write_report(study, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_page_needs_no_network_and_no_script_and_escapes_what_it_shows(study: Study) -> None:
    page = study_page(study, "<b>mine</b>")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, good &amp; proper" in page
    assert not re.search(r"https?:|//|\bsrc=|@import|\bon\w+=", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page
    found = Page(page)
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", page)) <= set(found.ids)


def test_headings_of_the_page_follow_each_other_and_details_are_folded(study: Study) -> None:
    page = study_page(study, "one")
    body = page[page.index("<body>") :]
    levels = [int(level) for level in re.findall(r"<h(\d)>", body)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert body.count("<main>") == body.count("</main>") == 1
    assert body.count("<details>") == body.count("</details>") >= 3
    assert body.index("advice") < body.index("<svg") < body.index("<table") < body.index("<details>")


def test_tables_too_wide_for_a_telephone_say_that_they_scroll(study: Study) -> None:
    for box in study_page(study, "one").split('<div class="box')[1:]:
        rows = Page(box[box.index("<table>") : box.index("</table>") + len("</table>")]).rows
        assert box.startswith(" wide") == (max(len("  ".join(row)) for row in rows) > 36)


def test_what_was_noted_in_the_data_is_said_on_the_page_and_in_the_terminal(study: Study) -> None:
    noted = dataclasses.replace(
        study, data={**study.data, "understood": {"notes": ["t.csv: 2 rows of test also stand in train"]}}
    )
    for text in (study_page(noted, "x"), study_tables(noted)):
        assert text.count("t.csv: 2 rows of test also stand in train") == 1


def test_certified_accuracy_is_shown_of_the_heads_that_have_it(study: Study) -> None:
    expected = [["certified accuracy in percent within", "0.1", "1", "margin's slope at most"]]
    expected += [[head, "50.0", "25.0", "2.00"] for head in ("cr", "cr+dreg")]
    rows = Page(study_page(study, "x")).rows
    assert [row for row in rows if row in expected] == expected
    assert "| cr | 50.0 | 25.0 | 2.00 |" in study_tables(study)


def test_pictures_are_described_and_take_the_colours_of_the_page(study: Study) -> None:
    page = study_page(study, "x")
    shown = re.findall(r"<svg [^>]*>", page)
    assert len(shown) == len(pictures_of(study)) == 5
    for tag in shown:
        assert 'role="img"' in tag
        assert len(re.search(r'aria-label="([^"]*)"', tag)[1]) > 80
        assert "viewBox" in tag
        assert "width=" not in tag
    assert page.count("<text") > 50
    assert "#1b1b1b" not in page.split("</style>", 1)[1]
    assert "fill: var(--text)" in page


def test_numbers_of_the_page_are_those_of_the_study(study: Study, tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", study.to_json())
    read = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    rows = Page(study_page(Study.from_json(read), "x")).rows
    for head in ("linear", "mlp-gelu", "cr", "cr+dreg"):
        shown = [row[1:] for row in rows if row[0] == head]
        assert len(shown) == 4 + head.startswith("cr")
        cells = [entry["heads"][head] for entry in read["fractions"].values()]
        accuracies = [100 * np.array(one["test_accuracies"]) for one in cells]
        assert shown[0] == [f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in accuracies]
        assert shown[1] == [
            f"{np.mean(one['gradient_tail_ratios']):.2f} ({np.mean(one['non_linearities']):.2f})" for one in cells
        ]
        low, high = (100 * end for end in cells[1]["accuracy_interval"])
        assert shown[3][1] == f"{accuracies[1].mean():.1f} [{low:.1f}, {high:.1f}]"
    (compared,) = [row for row in rows if row[0] == "cr+dreg minus linear"]
    difference = read["fractions"]["1.0"]["comparisons"][2]["difference"]
    assert compared[2].startswith(f"{100 * difference:+.2f} [")


@pytest.mark.parametrize(
    ("heads", "fractions", "missing"),
    [
        (["mlp-gelu", "mlp-relu"], [0.1, 0.5, 1.0], {"lambda", "polynomials"}),
        (["mlp-gelu", "gelu+jacobian"], [0.3], {"polynomials"}),
        (["cr"], [1.0], {"differences", "lambda"}),
        (list(HEADS), [1.0, 0.9], set()),
    ],
)
def test_a_study_shows_the_pictures_that_it_has_something_for(
    heads: list[str], fractions: list[float], missing: set[str], tmp_path: Path
) -> None:
    study = make_study(heads, fractions)
    assert write_report(study, tmp_path)
    names = {picture.name for picture in pictures_of(study)}
    assert names == {"differences", "tail_ratio", "lambda", "polynomials", "reliability"} - missing
    assert {path.stem for path in tmp_path.glob("*.png")} == names
    assert not Page((tmp_path / "report.html").read_text(encoding="utf-8")).open


def test_a_head_that_diverged_is_named(study: Study) -> None:
    found = copy.deepcopy(study)
    found.largest["cr"].gradient_tail_ratios = [None] * SEEDS
    assert "diverged" in study_page(found, "x")


def test_without_the_extra_there_are_tables_alone(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        cr_hf.study.report.importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name)
    )
    assert not write_report(study, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"study.md", "study.csv"}


class TestAdvice:
    def test_where_nothing_is_claimed_it_says_what_it_rests_on(self, study: Study) -> None:
        found = recommendation(study)
        assert "not because it was shown to be better" in found.text
        assert "Claimed there" not in found.text

    def test_every_number_of_it_is_named(self, study: Study) -> None:
        changed = copy.deepcopy(study)
        cells = changed.largest
        for one, dev, tau in zip(cells.values(), (0.6, 0.7, 0.69, 0.695), (1.0, 3.0, 2.0, 2.5), strict=True):
            one.dev_accuracies, one.gradient_tail_ratios = [dev - 0.04, dev, dev, dev, dev + 0.04], [tau] * SEEDS
        text = recommendation(changed).text
        assert "3 heads have a mean dev accuracy within one standard error over 5 seeds (1.26 points)" in text
        assert "mlp-gelu 70.0 %, cr 69.0 % and cr+dreg 69.5 %" in text
        assert "cr has the lowest gradient tail ratio: 2.00, against 3.00 for mlp-gelu and 2.50 for cr+dreg." in text
        low, high = (100 * end for end in cells["cr"].accuracy_interval)
        assert f"(95 % interval {low:.1f} to {high:.1f})" in text

    def test_a_single_best_head_is_called_that(self, study: Study) -> None:
        changed = copy.deepcopy(study)
        for head, one in changed.largest.items():
            dev = 0.8 if head == "cr+dreg" else 0.5
            one.dev_accuracies = [dev - 0.01, dev, dev, dev, dev + 0.01]
        found = recommendation(changed)
        assert found.candidates == ["cr+dreg"]
        assert "its mean dev accuracy, 80.0 %, is the best, and that of no other head is within" in found.text

    @pytest.mark.parametrize(("chosen", "word"), [(0, "lowest"), (1, None), (5, "highest")])
    def test_a_lambda_at_the_edge_of_those_tried_is_named(self, chosen: int, word: str | None) -> None:
        study = make_study(["cr+dreg"], [1.0])
        study.largest["cr+dreg"].chosen = chosen
        text = recommendation(study).text
        assert f"Its dreg_lambda is the {word} that was tried" in text if word else "was tried" not in text

    def test_what_is_claimed_is_told_from_what_is_not(self) -> None:
        study = make_study(["mlp-gelu", "cr", "linear"], [1.0], {"linear": 0.05})
        for head, one in study.largest.items():
            one.dev_accuracies = [0.8, 0.81, 0.79, 0.8, 0.8] if head == "mlp-gelu" else [0.5] * SEEDS
        difference = 100 * abs(study.fractions["1.0"].comparisons[1].difference)
        text = recommendation(study).text
        assert f"Claimed there: linear below mlp-gelu by {difference:.2f} points." in text
        assert "No difference from cr is claimed there" in text
        listed = next(paragraph for paragraph in claims(study) if paragraph.startswith("- "))
        assert listed.startswith("- linear below mlp-gelu at 100% of the labels: -")
        assert "in 5 of 5 seeds" in listed
        page = study_page(study, "x")
        assert "<li>linear below mlp-gelu at 100% of the labels: -" in page
        assert re.search(r"<strong>-\d\d\.\d\d \[", page)

    def test_below_five_seeds_there_is_none(self, study: Study) -> None:
        found = recommendation(dataclasses.replace(study, seeds=4))
        assert found.head is None
        assert found.text == "No head is recommended: 4 seeds are too few, 5 are the least."

    def test_a_simpler_head_that_is_not_shown_to_be_worse_is_named(self, study: Study) -> None:
        simpler = {"linear": (-0.002, -0.01, 0.006), "ridge": (-0.03, -0.05, -0.01)}
        text = recommendation(dataclasses.replace(study, simpler=simpler)).text
        assert "linear (-0.20 [-1.00, +0.60] points)" in text
        assert "ridge" not in text

    def test_seeds_and_dev_rows_widen_what_is_as_good_as_the_best(self) -> None:
        generator = np.random.default_rng(0)
        made = {head: cell(head, generator, 0.6) for head in ("mlp-gelu", "cr")}
        alike = generator.random((SEEDS, 400)) < 0.6
        made["mlp-gelu"].dev_hits, made["cr"].dev_hits = alike, alike.copy()
        made["cr"].dev_hits[:, :3] = ~alike[:, :3]
        for one in made.values():
            assert one.dev_hits is not None
            one.dev_accuracies = one.dev_hits.mean(1).tolist()
        compare_cells({(1.0, head): one for head, one in made.items()}, [])
        ordered = sorted(made.values(), key=lambda one: -np.mean(one.dev_accuracies))
        assert ordered[0].dev_error == 0
        differences = ordered[0].dev_hits.astype(float) - ordered[1].dev_hits
        over_rows = np.std(differences.mean(0), ddof=1) / np.sqrt(400)
        over_seeds = np.std(differences.mean(1), ddof=1) / np.sqrt(SEEDS)
        assert ordered[1].dev_error == pytest.approx(np.hypot(over_rows, over_seeds))

    def test_no_comparison_no_claim(self) -> None:
        text = study_tables(make_study(["cr"], [1.0]))
        assert "No comparison was declared, so nothing is claimed." in text
        assert "No comparison with it was declared" in text

    def test_overrides_are_those_of_a_recipe(self) -> None:
        from cr_hf.runs.recipe import load_recipe

        demo = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
        for head, about in HEADS.items():
            words = recipe_words(head, about.settings[0])
            assert (words is None) == bool(about.penalty or about.estimator)
            if words is not None:
                recipe = load_recipe(demo, words.split())
                fields = {**vars(recipe), **recipe.model, **recipe.training}
                expected = {**about.overrides, **about.settings[0]}
                assert {name: fields[name] for name in expected} == expected

    def test_every_head_is_described(self) -> None:
        assert all(head.description for head in HEADS.values())
        assert len({head.description for head in HEADS.values()}) == len(HEADS)


class TestRobustness:
    @pytest.fixture
    def found(self) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        hits = {kind: [generator.random(ROWS) < 0.5 for _ in range(5)] for kind in ("typos", "drop")}
        return robustness_curves(generator.random(ROWS) < 0.7, hits)

    def test_curves_have_intervals(self, found: dict[str, Any], tmp_path: Path) -> None:
        for name in ("curves.png", "curves.svg"):
            plot_robustness(found, tmp_path / name)
        assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
        svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
        assert all(word in svg for word in ("typos", "drop", "severity of the damage", "accuracy in %"))

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--plot", "x.png"], "give --perturb"),
            (["--perturb", "typos", "--plot", "x.jpg"], "must end in .png or .svg"),
            (["--perturb", "typos", "--plot", "none/x.png"], "there is no folder none"),
        ],
    )
    def test_a_picture_that_cannot_be_drawn_is_refused_first(
        self,
        words: list[str],
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["cr-hf", "evaluate", "run", *words])
        with pytest.raises(SystemExit) as stopped:
            cr_hf.cli.main()
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_a_description_is_escaped(study: Study) -> None:
    from cr_hf.study.pictures import draw_differences

    svg = inline_svg(draw_differences(study), "one", '"quoted" <b>')
    assert 'aria-label="&quot;quoted&quot; &lt;b&gt;"' in svg
    assert "http" not in svg
