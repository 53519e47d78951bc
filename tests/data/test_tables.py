"""Tables of numbers: reading them, refusing what is wrong with them, and whole runs on them."""

import dataclasses
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cr_hf.cli
from cr_hf.data.config import DataConfig
from cr_hf.data.guess import guess_columns
from cr_hf.data.tables import TableSchema, load_tables, read_rows, schema_of, table_features, table_fingerprint
from cr_hf.errors import CRError, DataError, PublishError, RecipeError
from cr_hf.evaluation.sensitivity import gradient_tail_ratio, input_gradient_norms
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run, evaluate_run

ROWS = 60


def numbers(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that their first column tells apart; the third column is never 0 but where it is missing."""
    generator = np.random.default_rng(0)
    labels = np.arange(rows) % 2
    features = np.round(generator.standard_normal((rows, 3)) + 5, 3)
    features[:, 0] += 4 * labels
    features[::7, 2] = 0
    return features, labels


def write_csv(path: Path, header: str | None = "age,weight,sugar,sick", rows: int = ROWS) -> Path:
    lines = [",".join([*map(str, row), ("no", "yes")[label]]) for row, label in zip(*numbers(rows), strict=True)]
    path.write_text("\n".join([header, *lines] if header else lines) + "\n", encoding="utf-8")
    return path


def write_idx(path: Path, values: np.ndarray) -> None:
    sizes = np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()))


def test_named_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv")
    config = DataConfig(dir=str(tmp_path), train_file="t.csv", label_column="sick", test_fraction=0.2)
    found = load_tables(config)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 43, "validation": 5, "test": 12}
    assert found["train"].features["label"].names == ["no", "yes"]
    assert schema_of(found["test"]) == TableSchema(["age", "weight", "sugar"], "sick", 4, {})
    together = np.concatenate([table_features(rows) for rows in found.values()])
    np.testing.assert_allclose(sorted(together[:, 0]), sorted(numbers()[0][:, 0].astype(np.float32)))
    one = load_tables(config, ["test"])["test"]
    assert np.array_equal(table_features(one), table_features(found["test"]))


def test_columns_that_a_user_may_not_mean_are_left_out_or_said(tmp_path: Path) -> None:
    rows = "".join(f"{row},{row + 5},{row % 3},{row % 2},{'ab'[row % 2]}\n" for row in range(20))
    (tmp_path / "t.csv").write_text(f",id,weight,score,target\n{rows}", encoding="utf-8")
    config = DataConfig(train_file=str(tmp_path / "t.csv"))
    found = load_tables(config)
    assert schema_of(found["train"]).columns == ["id", "weight", "score"]
    assert found.understood.notes == [
        "t.csv: columns without a name are left out: ['']: see data.feature_columns",
        "t.csv: labels are read from 'target', and ['score'] are features: see data.feature_columns",
        "t.csv: the columns ['id'] count the rows, and are features: see data.feature_columns",
    ]
    assert guess_columns(tmp_path / "t.csv").feature_columns == ["id", "weight", "score"]
    chosen = load_tables(dataclasses.replace(config, feature_columns=["", "weight"]))
    assert schema_of(chosen["train"]).columns == ["", "weight"]


@pytest.mark.parametrize(("said", "cell"), [("nan", "NaN"), ("NA", "na"), ("", ""), ("-999", "-999.0")])
def test_what_is_said_to_be_missing(said: str, cell: str, tmp_path: Path) -> None:
    rows = "".join(f"{row % 7},{cell if row == 5 else row % 3},{'ab'[row % 2]}\n" for row in range(20))
    (tmp_path / "t.csv").write_text(f"height,weight,label\n{rows}", encoding="utf-8")
    train = str(tmp_path / "t.csv")
    found = load_tables(DataConfig(train_file=train, validation_file=train, missing_value=said))
    assert table_features(found["train"])[5].tolist() == [5, 1]


def test_what_is_missing_needs_a_median(tmp_path: Path) -> None:
    rows = "".join(f"{row % 7},{row % 3},{'ab'[row % 2]}\n" for row in range(20))
    (tmp_path / "t.csv").write_text(f"height,weight,label\n{rows}", encoding="utf-8")
    (tmp_path / "new.csv").write_text("height,weight,label\n1,2,a\n1,NA,b\n", encoding="utf-8")
    schema = schema_of(load_tables(DataConfig(train_file=str(tmp_path / "t.csv")))["train"])
    config = DataConfig(test_file=str(tmp_path / "new.csv"), missing_value="NA", label_names=["a", "b"])
    for read in (
        lambda: read_rows(tmp_path / "new.csv", config, schema),
        lambda: load_tables(config, ["test"], schema),
    ):
        with pytest.raises(DataError, match="line 3, column 'weight': a value is missing"):
            read()


def test_a_missing_number_of_an_array(tmp_path: Path) -> None:
    values = np.arange(40.0).reshape(20, 2)
    values[5, 1] = np.nan
    np.savez(tmp_path / "t.npz", x=values, y=np.arange(20) % 2)
    train = str(tmp_path / "t.npz")
    with pytest.raises(DataError, match="row 6, column '1'"):
        load_tables(DataConfig(train_file=train, validation_file=train))
    found = load_tables(DataConfig(train_file=train, validation_file=train, missing_value="nan"))
    assert table_features(found["train"])[5].tolist() == [10, np.median(np.delete(values[:, 1], 5))]


@pytest.mark.parametrize("cell", ["1_000", "\uff15", "1,5", "5%", "1 000", "0x1f", "True"])
def test_what_is_a_number_for_a_few_programs_alone_is_refused(cell: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"height;weight;label\n1;2;a\n3;{cell};b\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line 3, column 'weight': '{cell}' is not a finite number"):
        load_tables(DataConfig(train_file=str(tmp_path / "t.csv")))


def test_columns_without_names_and_a_choice_of_them(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", header=None)
    config = DataConfig(train_file=str(tmp_path / "t.csv"), label_column=3, feature_columns=[2, 0], missing_value=0)
    rows = load_tables(config)["train"]
    assert schema_of(rows).columns == ["2", "0"]
    assert set(schema_of(rows).medians) == {"2", "0"}
    assert table_features(rows)[:, 1].mean() > 6


def test_missing_values_become_the_median_of_the_training_rows_alone(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv")
    for split in ("dev", "test"):
        (tmp_path / f"{split}.csv").write_text("age,weight,sugar,sick\n1,0,0,no\n1,1,900,yes\n", encoding="utf-8")
    found = load_tables(DataConfig(dir=str(tmp_path), label_column="sick", missing_value=0, missing_columns=["sugar"]))
    sugar = numbers()[0][:, 2].astype(np.float32)
    median = np.median(sugar[sugar != 0])
    assert schema_of(found["test"]).medians == {"sugar": pytest.approx(median)}
    assert np.array_equal(table_features(found["train"])[:, 2], np.where(sugar == 0, median, sugar))
    assert np.array_equal(table_features(found["test"]), np.array([[1, 0, median], [1, 1, 900]], np.float32))


def test_empty_cells_can_be_missing_values(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n" + "1,x\n,y\n3,x\n5,y\n" * 5, encoding="utf-8")
    rows = load_tables(DataConfig(train_file=str(tmp_path / "t.csv"), missing_value=""))["train"]
    assert schema_of(rows).medians == {"a": 3.0}
    assert set(table_features(rows)[:, 0]) == {1, 3, 5}


def test_npz_with_splits_and_idx_images(tmp_path: Path) -> None:
    images, labels = np.arange(20 * 4).reshape(20, 2, 2).astype(np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "t.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    for split, rows in (("train", 20), ("t10k", 6)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images[:rows])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels[:rows])
    npz = DataConfig(dir=str(tmp_path), train_file="t.npz", test_file="t.npz")
    idx = DataConfig(dir=str(tmp_path), train_file="train-images-idx3-ubyte.gz", test_file="t10k-images-idx3-ubyte.gz")
    found = [load_tables(config) for config in (npz, idx)]
    assert np.array_equal(table_features(found[0]["test"]), images[:6].reshape(6, 4))
    assert table_fingerprint(found[0]) == table_fingerprint(found[1])
    assert found[0]["test"]["label"][:] == labels[:6].tolist()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,label\n1,x\ntwo,y\n", {}, r"line 3, column 'a': 'two' is not a finite number"),
        ("a,label\n1,x\nnan,y\n", {}, r"line 3, column 'a': 'nan' is not a finite number"),
        ("a,label\n1,x\n1e300,y\n", {}, r"line 3, column 'a': '1e300' is not a finite number"),
        ("a,label\n1,x\n,y\n", {}, r"line 3, column 'a': '' is not a finite number"),
        ("a,label\n1,x\n1,2,y\n", {}, "line 3: 3 columns instead of 2"),
        ("a,label\n1,x\n2,x\n3,x\n", {}, "every row of train has the label 'x': two classes are needed"),
        ("a,label\n1,x\n2,\n", {}, "line 3: the label is missing"),
        ("a,label\n1,x\n2,y\n", {"label_column": "lable"}, r"no column 'lable' \(did you mean 'label'\?\)"),
        ("1,2\n1,3\n", {}, r"no label column found among \['0', '1'\]: set data.label_column"),
        ("a,label\n1,x\n2,y\n", {"feature_columns": ["b"]}, "no column 'b'"),
        ("a,label\n1,x\n2,y\n", {"missing_columns": ["b"], "missing_value": 0}, "missing_columns: 'b'"),
        ("a,b,label\n" + "0,1,x\n0,2,y\n" * 4, {"missing_value": 0}, "column 'a' has no value in train"),
        ("a,label\n1,x\n2,y\n", {"label_names": ["x", "z"]}, "label 'y' of train is not one of"),
        ("label\nx\ny\n", {}, "no column but the label's"),
        ("a,a,label\n1,1,x\n", {}, "column names repeat"),
        ("a,label\n", {}, "no rows"),
        ("", {}, "no rows"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, options: dict, message: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as raised:
        load_tables(DataConfig(train_file=str(tmp_path / "t.csv"), **options))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_labels_of_arrays_are_called_as_they_are_written(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(40.0)[:, None], y=np.array([0.1, 2] * 20, kind))
    assert load_tables(DataConfig(train_file=str(tmp_path / "a.npz")))["train"].features["label"].names == ["0.1", "2"]


def test_arrays_that_cannot_be_read(tmp_path: Path) -> None:
    def load(name: str) -> None:
        load_tables(DataConfig(dir=str(tmp_path), train_file=name))

    np.savez(tmp_path / "names.npz", images=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"no array 'x' among \['images'\]"):
        load("names.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([[{}], [{}]]), y=np.zeros(2))
    with pytest.raises(DataError, match="cannot be read"):
        load("objects.npz")
    np.savez(tmp_path / "nan.npz", x=np.array([[1.0], [np.nan]]), y=np.arange(2))
    with pytest.raises(DataError, match="row 2, column '0'"):
        load("nan.npz")
    np.savez(tmp_path / "short.npz", x=np.zeros((3, 1)), y=np.arange(2))
    with pytest.raises(DataError, match=r"labels of shape \(2,\) for 3 rows"):
        load("short.npz")
    for shape in ((0, 2), (2, 0)):
        np.savez(tmp_path / "none.npz", x=np.zeros(shape), y=np.zeros(shape[0]))
        with pytest.raises(DataError, match="no numbers: check the file"):
            load("none.npz")
    np.savez(tmp_path / "complex.npz", x=np.ones((2, 1)), y=np.array([1, 1j]))
    with pytest.raises(DataError, match="labels are complex numbers"):
        load("complex.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.eye(3))
    with pytest.raises(DataError, match=r"array\.npz: cannot be read"):
        load("array.npz")
    (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(b"not this")
    with pytest.raises(DataError, match="no IDX file"):
        load("a-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="no such file"):
        load("b.npz")
    with pytest.raises(DataError, match="no table"):
        load_tables(DataConfig())


def test_rows_to_predict_need_no_label(tmp_path: Path) -> None:
    schema = TableSchema(["1", "2"], "0", 3, {"2": 7.0})
    config = DataConfig(label_column=0, missing_value=0, missing_columns=[2])
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n3,0\n", encoding="utf-8")
    assert read_rows(path, config, schema)[0].tolist() == [[1, 2], [3, 7]]
    path.write_text("x,1,2\nx,3,0\n", encoding="utf-8")
    assert read_rows(path, config, schema)[0].tolist() == [[1, 2], [3, 7]]
    path.write_text("1,2,3,4\n", encoding="utf-8")
    with pytest.raises(DataError, match="4 columns, but the model reads 2 features out of 3 columns"):
        read_rows(path, config, schema)
    path.write_text("sugar,age\n1,2\n", encoding="utf-8")
    assert read_rows(path, DataConfig(), TableSchema(["age", "sugar"], "sick", 3))[0].tolist() == [[2, 1]]
    with pytest.raises(DataError, match="no column 'weight'"):
        read_rows(path, DataConfig(), TableSchema(["age", "weight"], "sick", 3))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("backbone: none\ndata: {train_file: t.csv}\npooling: mean\n", "pooling is only for texts"),
        ("backbone: none\ndata: {train_file: t.csv, streaming: true}\n", "data.streaming is only for texts"),
        ("backbone: none\ndata: {train_file: t.csv}\nproblem_type: regression\n", "trains classifiers alone"),
        ("backbone: x/y\ndata: {train_file: t.csv, missing_value: 0}\n", "data.missing_value is only for a table"),
    ],
)
def test_fields_that_a_recipe_cannot_use(tmp_path: Path, recipe: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a table, by the shipped recipe; the tests of this file read it."""
    folder = tmp_path_factory.mktemp("table")
    write_csv(folder / "t.csv", rows=200)
    recipe = load_recipe(
        Path(__file__).parents[2] / "recipes" / "pima.yaml",
        [
            *(f"data.dir={folder}", "data.train_file=t.csv", "data.label_column=sick", "data.missing_columns=[sugar]"),
            *("data.label_names=null", f"output_dir={folder / 'run'}", "num_train_epochs=5", "use_cpu=true"),
            "learning_rate=0.02",
        ],
    )
    return train_recipe(recipe)


def test_run_holds_its_table_and_no_row_of_it(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "model.safetensors", "recipe.yaml", "results.json", "probe.json", "table.json"} <= names
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["data"]["rows"] == {"train": 128, "validation": 32, "test": 40}
    assert results["model"]["in_features"] == 3
    assert results["metrics"]["test"]["accuracy"] > 0.9
    assert set(Run(finished).schema.medians) == {"sugar"}
    again = evaluate_run(finished, "test")
    assert again["accuracy"] == results["metrics"]["test"]["accuracy"]
    probe = json.loads((finished / "probe.json").read_text(encoding="utf-8"))
    assert np.array(probe["features"]).shape == (4, 3)


def run_cli(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cr-hf", *words])
    with pytest.raises(SystemExit) as stopped:
        cr_hf.cli.main()
    return int(stopped.value.code or 0)


def test_predict_completes_rows_as_training_did(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    median = Run(finished).schema.medians["sugar"]
    (tmp_path / "rows.csv").write_text(f"sugar,weight,age\n0,5,9.5\n{median!r},5,9.5\n3,5,4.5\n", encoding="utf-8")
    output = tmp_path / "out.jsonl"
    assert run_cli(monkeypatch, "predict", str(finished), str(tmp_path / "rows.csv"), "--output", str(output)) == 0
    first, second, third = (json.loads(line) for line in output.read_text(encoding="utf-8").splitlines())
    assert first["probabilities"] == pytest.approx(second["probabilities"], abs=1e-6)
    assert (first["label"], third["label"]) == ("yes", "no")
    assert run_cli(monkeypatch, "predict", str(finished), "a text", "another") == 2
    assert "give one file of rows" in capsys.readouterr().err


def test_diagnose_prints_the_reference_of_a_table(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    reference = json.loads((finished / "results.json").read_text(encoding="utf-8"))["diagnostics"]
    monkeypatch.setenv("COLUMNS", "200")
    assert run_cli(monkeypatch, "diagnose", str(finished)) == 0
    printed = capsys.readouterr().out
    assert f"{reference['splits']['test']['gradients']['margin']['tail_ratio']:.4g} [" in printed
    assert f"{reference['splits']['validation']['lipschitz_bound']:.4g}" in printed
    assert "token_gradients" not in reference["splits"]["test"]


def test_diagnose_holds_new_rows_against_the_reference(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    features = numbers(40)[0] + 0.01
    rows = ["age,weight,sugar", *(",".join(map(str, row)) for row in features)]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    output = tmp_path / "found.json"
    words = ["diagnose", str(finished), str(tmp_path / "rows.csv"), "--output", str(output)]
    assert run_cli(monkeypatch, *words) == 0
    assert "The gradient tail ratio of these rows is" in capsys.readouterr().out
    found = json.loads(output.read_text(encoding="utf-8"))["new_rows"]
    assert found["rows"] == 40
    model = Run(finished).model
    norms = input_gradient_norms(model.classifier, torch.tensor(features, dtype=torch.float32))
    assert found["comparison"]["peak"]["value"] == pytest.approx(norms.max().item(), rel=1e-4)
    assert found["comparison"]["tail_ratio"]["value"] == pytest.approx(gradient_tail_ratio(norms.cpu()), rel=1e-4)


def test_diagnose_of_a_table_refuses_what_it_cannot_show(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "rows.csv").write_text("age,weight,sugar\n1,2,3\n", encoding="utf-8")
    page = tmp_path / "page.html"
    assert run_cli(monkeypatch, "diagnose", str(finished), str(tmp_path / "rows.csv"), "--html", str(page)) == 2
    assert "the run of a table, which has no tokens" in capsys.readouterr().err
    assert not page.exists()
    (tmp_path / "rows.csv").write_text("age,weight\n1,2\n", encoding="utf-8")
    assert run_cli(monkeypatch, "diagnose", str(finished), str(tmp_path / "rows.csv")) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_card_speaks_of_a_table(finished: Path) -> None:
    from cr_hf.hub.card import write_card

    write_card(finished)
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert "tabular-classification" in card
    assert "cr-hf predict" in card
    for word in ("text classifier", "encoder", "pooling", "Any text", "pipeline("):
        assert word not in card


def test_publishing_is_refused(finished: Path, tmp_path: Path) -> None:
    from cr_hf.hub.publish import dry_run

    with pytest.raises(PublishError, match="run of a table"):
        dry_run(finished, "me/table", tmp_path / "folder")
    assert issubclass(PublishError, CRError)


def test_rows_of_test_that_also_stand_in_train_are_noted(tmp_path: Path) -> None:
    for name, rows in (("train", "1,2,a\n3,4,b\n5,6,a\n"), ("validation", "7,8,a\n"), ("test", "3,4,a\n3,5,b\n")):
        (tmp_path / f"{name}.csv").write_text("x,y,label\n" + rows, encoding="utf-8")
    found = load_tables(DataConfig(dir=str(tmp_path)))
    assert found.understood.notes == ["test.csv: 1 rows of test also stand in train"]


def test_train_alone_has_all_its_rows_where_other_files_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,label\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    config = DataConfig(train_file=str(path), validation_file=str(path), test_file=str(path))
    assert len(load_tables(config, ["train"])["train"]) == 20


def test_one_class_that_is_written_in_two_ways(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,1\n2,1.0\n3,01\n")
    with pytest.raises(DataError, match="every row of train has the label '1'"):
        load_tables(DataConfig(train_file=str(tmp_path / "a.csv")))
