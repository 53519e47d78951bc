"""Studies: the same numbers twice and after a kill, one study a folder, and refusals."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import cr_hf.cli
import cr_hf.study.study
from cr_hf.data import stratified_order
from cr_hf.errors import CheckpointError, RecipeError
from cr_hf.evaluation.statistics import calibration_bins
from cr_hf.modeling.configuration_cr import CRConfig
from cr_hf.runs.build import sweep_head
from cr_hf.runs.recipe import load_recipe
from cr_hf.study.arms import HEADS, check_heads
from cr_hf.study.cells import scaling
from cr_hf.study.classical import ESTIMATORS
from cr_hf.study.report import write_report
from cr_hf.study.results import Cell, Study, pack_hits, recipe_words, unpack_hits
from cr_hf.study.study import read_features, run_study
from cr_hf.study.tables import claims, recommendation, study_csv, study_tables
from experiments.runner import compare

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=80", "data.max_eval_samples=40", "num_train_epochs=1", "hidden_sizes=[8]"]
PIMA = DEMO.with_name("pima.yaml")
ASKED = (["linear", "cr", "cr+dreg"], [0.25, 1.0])


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    recipe = load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", *TINY])
    return lambda output, **options: run_study(
        recipe, *ASKED, output=output, **{"seeds": 4, "search_seeds": 2, "comparisons": "cr+dreg:cr", **options}
    ).to_json()


@pytest.fixture(scope="module")
def finished(run: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    run(folder)
    return folder


def read(folder: Path) -> dict[str, Any]:
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    study["environment"].pop("seconds_training")
    return study


@pytest.fixture
def study(finished: Path) -> dict[str, Any]:
    return read(finished)


def test_a_study_twice_gives_the_same_numbers(
    run: Callable[..., dict[str, Any]], finished: Path, tmp_path: Path
) -> None:
    run(tmp_path)
    assert read(tmp_path) == read(finished)
    assert len(list((tmp_path / "cells").iterdir())) == 6


def test_cells(study: dict[str, Any]) -> None:
    cells = study["fractions"]["0.25"]["heads"]
    assert {cell["rows"] for cell in cells.values()} == {20}
    for cell in cells.values():
        dev = [tried["dev_accuracy"] for tried in cell["tried"]]
        assert dev[cell["chosen"]] == max(dev)
        assert np.mean(cell["dev_accuracies"][:2]) == pytest.approx(max(dev))
        for measure in ("test_accuracies", "gradient_tail_ratios", "peak_gradients", "expected_calibration_errors"):
            assert len(cell[measure]) == 4
        low, high = cell["accuracy_interval"]
        assert low <= np.mean(cell["test_accuracies"]) <= high
        assert sum(found["share"] for found in cell["reliability"]) == pytest.approx(1)
    assert cells["linear"]["gradient_tail_ratios"][0] < 1.5
    assert np.shape(cells["cr"]["coefficients"]) == (4, 8)
    assert cells["linear"]["coefficients"] is None


def test_the_comparison_can_be_made_anew_from_the_cells(study: dict[str, Any], finished: Path) -> None:
    hits = [
        unpack_hits(json.loads((finished / "cells" / f"{head}_1.json").read_text(encoding="utf-8"))["hits"])
        for head in ("cr+dreg", "cr")
    ]
    (found,) = study["fractions"]["1.0"]["comparisons"]
    assert {name: found[name] for name in ("difference", "interval", "seeds_won")} == compare(
        *(one.astype(float) for one in hits)
    )
    assert hits[0].mean(1).tolist() == study["fractions"]["1.0"]["heads"]["cr+dreg"]["test_accuracies"]


def test_a_killed_study_goes_on_and_equals_one_that_was_not(
    run: Callable[..., dict[str, Any]], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = cr_hf.study.study.train_cell

    def killed(name: str, **options: Any) -> Cell:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(name)
        return real(name, **options)

    monkeypatch.setattr(cr_hf.study.study, "train_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / "study.json").exists()
    monkeypatch.setattr(cr_hf.study.study, "train_cell", lambda name, **how: trained.append(name) or real(name, **how))
    run(tmp_path)
    assert trained == ["linear", "cr", "cr+dreg", "linear", "cr", "cr+dreg"]
    assert read(tmp_path) == read(finished)


@pytest.mark.parametrize(("options", "name"), [({"seeds": 3}, "seeds"), ({"comparisons": "cr:linear"}, "comparisons")])
def test_a_folder_of_another_study_is_refused(
    run: Callable[..., dict[str, Any]], finished: Path, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(RecipeError, match=rf"holds another study \({name} differs\): choose another folder"):
        run(finished, **options)


@pytest.mark.parametrize("name", ["thesis.txt", "study.md", "cells/mine.json"])
def test_a_folder_of_the_users_is_left_as_it_is(name: str, run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match=f"holds {name.split('/')[0]} and no study"):
        run(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(name).name]


def test_a_damaged_or_foreign_cell_is_named(
    run: Callable[..., dict[str, Any]], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    cell = folder / "cells" / "cr_1.json"
    whole = cell.read_text(encoding="utf-8")
    cell.write_text(whole[:100], encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cr_1\.json is not JSON"):
        run(folder)
    cell.write_text(json.dumps({**json.loads(whole), "fingerprint": "0"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cr_1\.json is of another study"):
        run(folder)


def test_the_page_of_a_study(study: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    whole = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    assert write_report(Study.from_json(whole), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == len(list(tmp_path.glob("*.png"))) == 5
    assert recommendation(Study.from_json(study)).headline in page


class TestTables:
    def test_markdown(self, study: dict[str, Any]) -> None:
        table = study_tables(Study.from_json(study))
        assert "| cr+dreg minus cr |" in table
        assert "the first 2 of 4 seeds" in table
        assert "a Wilcoxon p cannot fall below 0.12" in table
        assert table.splitlines()[-1].startswith("No head is recommended: 4 seeds are too few")

    def test_a_claim_is_printed_with_interval_and_corrected_p(self, study: dict[str, Any]) -> None:
        assert "Nothing is claimed" in " ".join(claims(Study.from_json(study)))
        found = study["fractions"]["1.0"]["comparisons"][0]
        found |= {"difference": 0.01, "interval": [0.002, 0.018], "t_p_holm": 0.003, "claimed": True}
        text = " ".join(claims(Study.from_json(study)))
        assert "cr+dreg above cr at 100% of the labels: +1.00 [+0.20, +1.80], p 0.0030" in text
        assert "**+1.00 [+0.20, +1.80], p 0.0030**" in study_tables(Study.from_json(study))

    def test_csv_has_a_line_a_seed(self, study: dict[str, Any]) -> None:
        rows = list(csv.DictReader(io.StringIO(study_csv(Study.from_json(study)))))
        assert len(rows) == 2 * 3 * 4
        cell = study["fractions"]["1.0"]["heads"]["cr+dreg"]
        mine = [row for row in rows if row["fraction"] == "1.0" and row["head"] == "cr+dreg"]
        assert [float(row["test_accuracies"]) for row in mine] == cell["test_accuracies"]
        assert float(mine[0]["dreg_lambda"]) == cell["tried"][cell["chosen"]]["dreg_lambda"]

    def test_the_recommended_head_is_as_good_on_dev_as_the_best_and_steadier(self, study: dict[str, Any]) -> None:
        cells = study["fractions"]["1.0"]["heads"]
        for cell, dev, tau in zip(cells.values(), (0.6, 0.7, 0.69), (1.0, 3.0, 2.0), strict=True):
            cell |= {"dev_accuracies": [dev - 0.04, dev, dev, dev, dev + 0.04], "gradient_tail_ratios": [tau] * 5}
            cell["dev_error"] = 0.02
        found = recommendation(Study.from_json({**study, "seeds": 5}))
        assert found.head == "cr+dreg"
        assert found.candidates == ["cr", "cr+dreg"]
        assert found.text.startswith("Use cr+dreg, with dreg_lambda=0.0")


CLASSICAL = ("cr", *ESTIMATORS)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the recipe for tables: rows of three classes."""
    features, labels = make_classification(300, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    rows = [",".join(map(str, [*row, label])) for row, label in zip(features, labels, strict=True)]
    path.write_text("\n".join(["a,b,c,d,e,label", *rows]) + "\n", encoding="utf-8")
    own = {"train_file": path, "label_column": "label"}
    own |= dict.fromkeys(("label_names", "missing_value", "missing_columns"), "null")
    return [*(f"data.{name}={value}" for name, value in own.items()), "hidden_sizes=[4]", "num_train_epochs=2"]


@pytest.fixture(scope="module")
def folder(table: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classical")
    run_study(
        load_recipe(PIMA, table), CLASSICAL, [0.5, 1.0], 3, output, search_seeds=2, comparisons="svm:cr,xgboost:svm"
    )
    return output


class TestHeadsThatAreNoNetworks:
    def test_cells_are_those_of_the_packages(self, folder: Path, table: list[str]) -> None:
        _, data = read_features(load_recipe(PIMA, table))
        order = np.sort(stratified_order(data.train[1], 1)[: round(0.5 * len(data.train[1]))])
        own = {
            "logistic-regression": lambda setting: LogisticRegression(max_iter=1000, tol=1e-3, **setting),
            "svm": lambda setting: SVC(**setting),
            "svm-linear": lambda setting: SVC(kernel="linear", **setting),
            "ridge": lambda setting: RidgeClassifier(**setting),
            "nearest-centroid": lambda setting: NearestCentroid(**setting),
        }
        cells = Study.from_json(read(folder)).fractions["0.5"].heads
        for head, make in own.items():
            pipeline = make_pipeline(StandardScaler(), make(cells[head].setting))
            pipeline.fit(data.train[0][order], data.train[1][order])
            assert cells[head].test_accuracies[1] == pipeline.score(*data.test)
            assert cells[head].dev_accuracies[1] == pipeline.score(*data.validation)

    def test_measures_that_only_networks_have_are_left_out(self, folder: Path) -> None:
        cells = read(folder)["fractions"]["1.0"]["heads"]
        for head in CLASSICAL[1:]:
            for measure in ("gradient_tail_ratios", "peak_gradients", "parameters", "epochs"):
                assert cells[head][measure] is None
                assert cells["cr"][measure] is not None
            assert (cells[head]["expected_calibration_errors"] is None) == (head in ("svm", "svm-linear", "ridge"))
            assert np.mean(cells[head]["test_accuracies"]) > 0.5

    def test_tables_and_page(self, folder: Path, tmp_path: Path) -> None:
        study = Study.from_json(read(folder))
        text = study_tables(study)
        assert "| xgboost | none | none |" in text
        assert "flatters their dev accuracy" in text
        (line,) = [line for line in study_csv(study).splitlines() if line.startswith("1.0,") and ",svm,0," in line]
        assert line.endswith(",,,,")
        assert write_report(study, tmp_path)
        assert "support vector machine" in (tmp_path / "report.html").read_text(encoding="utf-8")

    def test_a_study_without_a_network_has_no_picture_of_gradients(self, folder: Path, tmp_path: Path) -> None:
        study = read(folder)
        study.update(comparisons=[], tests=0)
        for entry in study["fractions"].values():
            entry["heads"] = {head: entry["heads"][head] for head in ("svm", "xgboost")}
            entry["comparisons"] = []
        assert write_report(Study.from_json(study), tmp_path)
        assert {path.name for path in tmp_path.glob("*.png")} == {"reliability.png"}

    @pytest.mark.parametrize("kept", [("svm", "xgboost"), ("cr", "svm")])
    def test_recommendation_takes_a_network_where_it_is_as_good(self, folder: Path, kept: tuple[str, str]) -> None:
        study = read(folder)
        for entry in study["fractions"].values():
            entry["heads"] = {head: {**entry["heads"][head], "dev_accuracies": [0.6, 0.7, 0.8]} for head in kept}
        found = recommendation(Study.from_json({**study, "seeds": 5}))
        assert found.head == kept[0]
        if kept[0] == "cr":
            assert "none for svm" in found.text
            assert "activation=polynomial" in found.text
        else:
            assert "None of these has a gradient tail ratio" in found.text
            assert "overrides" not in found.text

    @pytest.mark.parametrize("package", ["xgboost", "sklearn"])
    def test_a_package_that_lacks_is_named(self, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(RecipeError, match=rf"xgboost needs {package}: pip install 'cr-hf\[tables\]'"):
            check_heads(["cr", "xgboost"])


def test_schedules_of_lambda() -> None:
    for schedule in ("linear", "cosine", "exponential"):
        arm = HEADS[f"cr+dreg-{schedule}"]
        for setting in arm.settings:
            head = sweep_head(load_recipe(DEMO), CRConfig(in_features=4, num_labels=2), {**arm.overrides, **setting})
            assert head.lambda_at(0, 10) == pytest.approx(setting["dreg_lambda"])
            assert head.lambda_at(10, 10) == pytest.approx(setting["dreg_lambda"] / 16)
        words = recipe_words(f"cr+dreg-{schedule}", arm.settings[0])
        recipe = load_recipe(DEMO, words.split())
        assert recipe.training["dreg_schedule"] == schedule
        assert recipe.training["dreg_lambda_end"] == pytest.approx(recipe.model["dreg_lambda"] / 16)


def test_a_schedule_is_trained_with(tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    recipe = load_recipe(DEMO, [f"backbone={tiny_backbone('bert')}", *TINY])
    found = run_study(recipe, ["cr+dreg", "cr+dreg-cosine"], [1.0], 2, tmp_path, search_seeds=2)
    constant, falling = found.largest.values()
    assert constant.gradient_tail_ratios != falling.gradient_tail_ratios


def test_hits_survive_packing() -> None:
    hits = np.random.default_rng(0).random((3, 13)) < 0.5
    assert (unpack_hits(pack_hits(hits)) == hits).all()


def test_reliability_bins() -> None:
    found = calibration_bins(np.array([0.9, 0.55, 0.54]), np.array([True, True, False]))
    assert [one.share for one in found] == pytest.approx([2 / 3, 1 / 3])
    assert found[0].confidence == pytest.approx(0.545)
    assert found[0].accuracy == 0.5


def test_every_head_tries_as_many_settings() -> None:
    assert {len(head.settings) for head in HEADS.values()} == {6}


def test_epochs_and_batches_of_a_fraction() -> None:
    recipe = load_recipe(DEMO, ["num_train_epochs=6", "per_device_train_batch_size=128"])
    assert scaling(recipe, 8544, 1.0) == {}
    assert scaling(recipe, 427, 0.05) == {"num_train_epochs": 20, "per_device_train_batch_size": 32}


def test_a_study_of_the_previous_version_is_read() -> None:
    old = json.loads((DEMO.parents[1] / "experiments" / "results" / "sst5_study.json").read_text(encoding="utf-8"))
    new = Study.from_json(old).to_json()
    for fraction, entry in old["fractions"].items():
        assert new["fractions"][fraction]["comparisons"] == entry["comparisons"]
        for head, cell in entry["heads"].items():
            assert {name: new["fractions"][fraction]["heads"][head][name] for name in cell} == cell
    assert {name: new[name] for name in old if name != "fractions"} == {
        name: value for name, value in old.items() if name != "fractions"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "linear,cr+dregg"}, "'cr+dregg' is unknown (did you mean 'cr+dreg'?)"),
        ({"heads": "cr,cr"}, "'cr' is given twice"),
        ({"fractions": "0"}, "--fractions above 0"),
        ({"shots": "2"}, "--shots 3 or more"),
        ({"shots": "x"}, "--shots 'x'"),
        ({"shots": "8", "fractions": "1"}, "--shots and --fractions"),
        ({"fractions": "1,x"}, "use numbers with commas"),
        ({"seeds": "1"}, "two or more --seeds"),
        ({"comparisons": ",".join(["cr:linear"] * 6)}, "6 are given: declare at most 5"),
        ({"comparisons": "cr:mlp-gelu"}, "'mlp-gelu' is not in the study"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_made(
    options: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"heads": "linear,cr", "output": str(tmp_path / "out"), **options}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["cr-hf", "study", str(DEMO), *words])
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
