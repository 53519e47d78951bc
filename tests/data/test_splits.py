"""Reading, checking and splitting rows: real files of every type, good and bad."""

from __future__ import annotations

import gzip
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from cr_hf.data import DataConfig, load_rows, read_inputs
from cr_hf.data import texts as text_files
from cr_hf.data.demo import LEVELS
from cr_hf.errors import DataError, nearest
from cr_hf.runs.results import data_fingerprint, describe_data

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")

TSV = "0\tawful\n1\tfine\n0\tbad\n1\tgood\n0\tdull\n1\tnice\n"


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows_of(dataset: datasets.Dataset) -> list[tuple[str, int]]:
    return list(zip(dataset["text"], dataset["label"], strict=True))


def both(path: str, **more: object) -> list[tuple[str, int]]:
    """All rows of a file given as train, before any is split off."""
    loaded = load_rows(DataConfig(train_file=path, validation_file=path, **more))  # type: ignore[arg-type]
    assert rows_of(loaded["train"]) == rows_of(loaded["validation"])
    return rows_of(loaded["train"])


@needs_shared_data
def test_sst5_folder_gives_every_row_of_the_official_split() -> None:
    loaded = load_rows(DataConfig(dir=str(SHARED_DATA / "sst5")))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8544, "validation": 1101, "test": 2210}
    assert [count for _, count in sorted(Counter(loaded["test"]["label"]).items())] == [279, 633, 389, 510, 399]
    assert loaded["train"].features["label"].names == ["0", "1", "2", "3", "4"]
    joined = " ".join(text for split in loaded.values() for text in split["text"])
    assert not any(escape in joined for escape in ("-LRB-", "-RRB-", "\\/", "\\*", "``", "''"))


@needs_shared_data
def test_sst5_escapes_can_be_kept() -> None:
    loaded = load_rows(DataConfig(dir=str(SHARED_DATA / "sst5"), unescape_ptb=False), splits=["test"])
    assert any("-LRB-" in text for text in loaded["test"]["text"])


@needs_shared_data
def test_too_few_rows_to_split_validation_off(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", "0\tawful\n1\tgood\n")
    with pytest.raises(DataError, match=r"train.tsv: 2 rows of 2 classes are too few to split validation off"):
        load_rows(DataConfig(train_file=path))
    one = write(tmp_path / "one.jsonl", '{"text": "a", "label": 0.5}')
    with pytest.raises(DataError, match=r"one.jsonl: 1 row of train cannot be split"):
        load_rows(DataConfig(train_file=one), "regression")


def test_local_files_are_not_the_data_set_that_a_recipe_names(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", TSV * 2)
    config = DataConfig(name="SetFit/sst5", revision="main", train_file=path)
    described = describe_data(config, load_rows(config))
    assert described["source"] == "local files"
    assert described["in_place_of"] == "SetFit/sst5"
    assert described["revision"] is None
    embedded = DataConfig(name="embedded")
    assert describe_data(embedded, load_rows(embedded))["source"] == "embedded"


@needs_shared_data
def test_yelp_folder_has_validation_split_off_and_pool_on_request() -> None:
    folder = str(SHARED_DATA / "yelp5")
    loaded = load_rows(DataConfig(dir=folder))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4500, "validation": 500, "test": 5000}
    files = ["train.jsonl.gz", "test.jsonl.gz"]
    more = load_rows(DataConfig(dir=folder, train_file=files, validation_fraction=0.5), splits=["train"])
    assert len(more["train"]) == 5000


def test_tsv_without_header_takes_quotes_as_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "0\t\"half a quote\n1\t`` two '' and \"\n0\tx\r\n\n1\ty\u2028z\n")
    assert both(path) == [('"half a quote', 0), ("`` two '' and \"", 1), ("x", 0), ("y\u2028z", 1)]


def test_text_may_come_before_the_label(tmp_path: Path) -> None:
    assert both(write(tmp_path / "a.tsv", "bad\t0\ngood\t1\n")) == [("bad", 0), ("good", 1)]


def test_penn_treebank_escapes_turn_back_in_files_called_sst5(tmp_path: Path) -> None:
    text = r"-LRB- `` one \/ two '' \* -rrb- `"
    path = write(tmp_path / "sst5_x.tsv", f"0\t{text}\n1\tb\n")
    assert both(path)[0] == ('( " one / two " * ) \'', 0)
    assert both(path, unescape_ptb=False)[0] == (text, 0)


def test_csv_columns_are_found_and_quoted_lines_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,Stars,Review\n7,5,"two\nlines, ""quoted"""\n8,1,bad\n')
    assert both(path) == [('two\nlines, "quoted"', 1), ("bad", 0)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.ndjson", "a.parquet"])
def test_every_type_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [{"text": "bad", "label": 3}, {"text": "good", "label": 4}, {"text": "né", "label": 3}]
    table = datasets.Dataset.from_list(rows)
    path = tmp_path / name.removesuffix(".gz")
    if "parquet" in name:
        table.to_parquet(path)
    elif "sv" in name:
        table.to_csv(path, sep="\t" if "tsv" in name else ",")
    else:
        table.to_json(path)
    if name.endswith("gz"):
        path = Path(write(tmp_path / name, gzip.compress(path.read_bytes())))
    assert both(str(path)) == [("bad", 0), ("good", 1), ("né", 0)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encoding_can_be_set_and_a_byte_order_mark_is_no_text(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.csv", "text,label\né,0\nb,1\n".encode(encoding))
    assert both(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding) == [("é", 0), ("b", 1)]


def test_labels_are_ordered_as_numbers_or_words(tmp_path: Path) -> None:
    numbers = "text,label\n" + "".join(f"t{n},{n}\n" for n in (10, 9, -1, 2))
    assert [label for _, label in both(write(tmp_path / "n.csv", numbers))] == [3, 2, 0, 1]
    assert [label for _, label in both(write(tmp_path / "f.csv", "text,label\na,1.0\nb,0.0\nc,1\n"))] == [1, 0, 1]
    assert [label for _, label in both(write(tmp_path / "v.csv", "text,label\na,v2.0\nb,v2\n"))] == [1, 0]
    words = load_rows(DataConfig(train_file=write(tmp_path / "w.csv", "text,label\na,no\nb,yes\nc,maybe\nd,no\n")))
    assert words["train"].features["label"].names == ["maybe", "no", "yes"]


def test_label_names_are_matched_by_name_or_by_index(tmp_path: Path) -> None:
    by_name = write(tmp_path / "n.csv", "text,label\na,low\nb,high\n")
    assert both(by_name, label_names=["low", "high"]) == [("a", 0), ("b", 1)]
    by_index = write(tmp_path / "i.csv", "text,label\na,0\nb,1\n")
    assert both(by_index, label_names=["low", "high"]) == [("a", 0), ("b", 1)]
    stars = write(tmp_path / "s.csv", "text,label\na,1\nb,2\n")
    assert both(stars, label_names=["1", "2"]) == [("a", 0), ("b", 1)]


def test_text_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "premise,hypothesis,label\na,b,0\nc,d,1\n")
    config = DataConfig(train_file=path, validation_file=path, text_column="premise", text_pair_column="hypothesis")
    assert load_rows(config)["train"][1] == {"text": "c", "text_pair": "d", "label": 1}


def many_rows(tmp_path: Path) -> str:
    """150 rows of class 0, 40 of class 1, 10 of class 2."""
    labels = [0] * 150 + [1] * 40 + [2] * 10
    return write(tmp_path / "train.tsv", "".join(f"{label}\trow {n}\n" for n, label in enumerate(labels)))


def test_validation_is_a_seeded_stratified_part_of_train(tmp_path: Path) -> None:
    path = many_rows(tmp_path)
    loaded = load_rows(DataConfig(train_file=path, validation_fraction=0.2))
    assert Counter(loaded["validation"]["label"]) == {0: 30, 1: 8, 2: 2}
    assert not set(loaded["train"]["text"]) & set(loaded["validation"]["text"])
    assert len(loaded["train"]) == 160
    again = load_rows(DataConfig(train_file=path, validation_fraction=0.2), splits=["validation"])
    assert list(again) == ["validation"]
    assert data_fingerprint(again)["validation"] == data_fingerprint(loaded)["validation"]
    other = load_rows(DataConfig(train_file=path, validation_fraction=0.2, seed=1))
    assert set(other["validation"]["text"]) != set(loaded["validation"]["text"])


def test_train_fraction_is_stratified_and_nested_and_leaves_validation_alone(tmp_path: Path) -> None:
    path = many_rows(tmp_path)
    full, half, tenth = (load_rows(DataConfig(train_file=path, train_fraction=size)) for size in (1.0, 0.5, 0.05))
    assert len(half["train"]) == 90
    assert len(tenth["train"]) == 9
    assert Counter(half["train"]["label"]) == {0: 67, 1: 18, 2: 5}
    assert set(tenth["train"]["label"]) == {0, 1, 2}
    assert set(tenth["train"]["text"]) < set(half["train"]["text"]) < set(full["train"]["text"])
    assert rows_of(full["validation"]) == rows_of(tenth["validation"])
    with pytest.raises(DataError, match="2 rows of train are left for 3 classes"):
        load_rows(DataConfig(train_file=path, train_fraction=0.01))


def test_limits_of_rows(tmp_path: Path) -> None:
    path = many_rows(tmp_path)
    loaded = load_rows(DataConfig(train_file=path, test_file=path, max_train_samples=20, max_eval_samples=7))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 20, "validation": 7, "test": 7}


def test_evaluation_takes_the_classes_from_train_or_from_the_configuration(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.tsv", "1\ta\n3\tb\n5\tc\n"), write(tmp_path / "test.tsv", "3\td\n5\te\n")
    known = load_rows(DataConfig(train_file=train, test_file=test), splits=["test"])
    assert rows_of(known["test"]) == [("d", 1), ("e", 2)]
    named = load_rows(DataConfig(test_file=test, label_names=["1", "3", "5"]), splits=["test"])
    assert rows_of(named["test"]) == [("d", 1), ("e", 2)]
    with pytest.raises(DataError, match=r"set data.label_names"):
        load_rows(DataConfig(test_file=test), splits=["test"])
    with pytest.raises(DataError, match=r"no train split found: set data.train_file"):
        load_rows(DataConfig(test_file=test))
    with pytest.raises(DataError, match=r"no split 'tests' \(did you mean 'test'\?\)"):
        load_rows(DataConfig(test_file=test), splits=["tests"])


def test_a_changed_file_is_never_stale_and_nothing_is_left_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.tsv"
    write(path, TSV)
    before = os.stat(path)
    first = load_rows(DataConfig(train_file="train.tsv"))
    write(path, TSV.replace("awful", "AWFUL"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_rows(DataConfig(train_file="train.tsv"))
    texts = [text for rows in second.values() for text in rows["text"]]
    assert "AWFUL" in texts
    assert "awful" not in texts
    assert "awful" in [text for rows in first.values() for text in rows["text"]]
    assert first["train"].cache_files
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changes_between_the_two_passes_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    write(file, TSV + "0\tthe cache does not have this yet\n")
    original, calls = text_files.read_records, itertools.count()

    def changing(path: Path, config: DataConfig) -> text_files.Records:
        if next(calls) == 1:
            write(path, TSV.replace("awful", "other"))
        return original(path, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "read_records", changing)
        with pytest.raises(DataError, match="changed while it was being read"):
            load_rows(DataConfig(train_file=str(file)))


BAD_FILES = {
    "empty": ("a.tsv", b"", "no row of train has a text"),
    "header only": ("a.csv", b"text,label\n", "no row of train has a text"),
    "all blank": ("a.csv", b"text,label\n ,0\n,1\n", "no row of train has a text"),
    "no label column": (
        "a.csv",
        b"text,mood\na,0\n",
        r"no label column found among \['text', 'mood'\]: set data.label_c",
    ),
    "no text column": ("a.csv", b"words,label\na,0\n", r"no text column found among \['words', 'label'\]"),
    "repeated columns": ("a.csv", b"text,text,label\na,b,0\n", "column names repeat"),
    "missing label": ("a.csv", b"text,label\na,0\nb,\n", "line 3: the label is missing"),
    "null label": ("a.jsonl", b'{"text":"a","label":0}\n{"text":"b","label":null}\n', "line 2: the label is missing"),
    "nan label": ("a.jsonl", b'{"text":"a","label":NaN}\n', "line 1: the label is missing"),
    "list label": ("a.jsonl", b'{"text":"a","label":[0,1]}\n', "line 1: the label is a list"),
    "number as text": ("a.jsonl", b'{"text":3,"label":0}\n', "line 1: the text is a int, not a string"),
    "half a surrogate": ("a.jsonl", b'{"text":"\\ud83d","label":0}\n', "line 1: half a surrogate pair"),
    "one class": ("a.tsv", b"1\ta\n1\tb\n", "every row of train has the label '1'"),
    "latin-1": ("a.tsv", b"0\ta\n1\tcaf\xe9\n", "line 2: byte 0xe9 is not utf-8: set data.encoding"),
    "utf-16": ("a.tsv", "0\ta\n1\tb\n".encode("utf-16"), r"line 1: byte 0xff is not utf-8.*perhaps utf-16"),
    "utf-16 unmarked": ("a.tsv", "0\ta\n1\tb\n".encode("utf-16-le"), "line 1: a NUL byte"),
    "NUL": ("a.tsv", b"0\ta\n1\tb\0\n", "line 2: a NUL byte"),
    "ragged csv": ("a.csv", b"text,label\na,0\nb,c,1\n", "line 3: 3 columns instead of 2"),
    "ragged after lines": ("a.csv", b'text,label\n"a\nb",0\nb\n', "line 4: 1 columns instead of 2"),
    "ragged tsv": ("a.tsv", b"0\ta\n1\n", "line 2: 1 columns instead of 2"),
    "open quote": ("a.csv", b'text,label\n"a,0\nb,1\n', "line 2: unexpected end of data: mend its quotes"),
    "not JSON": ("a.jsonl", b'{"text":"a","label":0}\n{"text"\n', "line 2: not JSON"),
    "JSON arrays": ("a.jsonl", b'[{"text":"a","label":0}]\n[1]\n', "line 1: a JSON list: one object a line"),
    "cut gzip": ("a.tsv.gz", gzip.compress(TSV.encode() * 99)[:-30], "damaged gzip .*: fetch the file again"),
    "bad gzip": ("a.tsv.gz", b"\x1f\x8b" + b"x" * 40, "damaged gzip"),
    "not parquet": ("a.parquet", b"text,label\n", "not a readable parquet file"),
    "unknown type": ("a.xlsx", b"PK", r"files of this type are not read: use \.tsv, \.csv"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(DataConfig(train_file=path))
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_a_configured_column_that_is_missing_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "comments,label\na,0\n")
    with pytest.raises(DataError, match=r"no column 'comment' \(did you mean 'comments'\?\) among"):
        load_rows(DataConfig(train_file=path, text_column="comment"))


def test_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown encoding: utf-9"):
        load_rows(DataConfig(train_file=write(tmp_path / "a.tsv", TSV), encoding="utf-9"))


def test_a_label_that_train_does_not_have_is_an_error_with_its_line(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.tsv", TSV), write(tmp_path / "test.tsv", "0\tp\n7\tq\n")
    with pytest.raises(
        DataError, match=r"test.tsv, line 2: label '7' of test is not one of the 2 classes \['0', '1'\]"
    ):
        load_rows(DataConfig(dir=str(tmp_path)))
    with pytest.raises(DataError, match=r"test.tsv, line 2: label '7' of train is not one of the 3 classes"):
        load_rows(DataConfig(train_file=[train, test], label_names=["a", "b", "c"]))


def test_fewer_rows_than_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 rows of train for 3 classes"):
        load_rows(DataConfig(train_file=write(tmp_path / "a.tsv", "0\ta\n1\tb\n"), label_names=["x", "y", "z"]))


def test_warnings_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train.tsv", TSV + "0\t \n1\t\n")
    write(tmp_path / "dev.tsv", "0\tawful\n1\tnew\n")
    write(tmp_path / "test.tsv", "0\tawful\n1\tfine\n0\t\n")
    loaded = load_rows(DataConfig(dir=str(tmp_path), label_names=["a", "b", "c"]))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 6, "validation": 2, "test": 3}
    for expected in (
        "train.tsv: 2 rows have an empty text and are left out, the first is",
        "test.tsv: 1 rows have an empty text and are kept",
        "1 of 3 classes have no row in train: ['c']",
        "dev.tsv: 1 rows of validation also stand in train",
        "test.tsv: 2 rows of test also stand in train",
    ):
        assert expected in caplog.text
    assert "train.tsv, line 7" in caplog.text


def test_the_files_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("x_train.tsv", "x_train_phrases.tsv", "x-train_pool.tsv", "x_val.tsv", "x-Test.tsv", "notes.txt"):
        write(tmp_path / name, TSV)
    assert set(load_rows(DataConfig(dir=str(tmp_path)))) == {"train", "validation", "test"}
    write(tmp_path / "y_train.tsv", TSV)
    with pytest.raises(DataError, match=r"\['x_train.tsv', 'y_train.tsv'\] could each be train: set data.train_file"):
        load_rows(DataConfig(dir=str(tmp_path)))
    assert load_rows(DataConfig(dir=str(tmp_path), train_file="y_train.tsv"))["train"].num_rows == 6


def test_hub_shards_are_found_by_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}).to_parquet(
        tmp_path / "train-00000-of-00001.parquet"
    )
    assert set(load_rows(DataConfig(dir=str(tmp_path)))) == {"train", "validation"}


def test_paths_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", TSV)
    with pytest.raises(DataError, match=r"no such file \(did you mean 'train.tsv'\?\)"):
        load_rows(DataConfig(train_file=str(tmp_path / "trian.tsv")))
    with pytest.raises(DataError, match="a folder where a file is needed"):
        load_rows(DataConfig(train_file=str(tmp_path)))
    with pytest.raises(DataError, match=r"no such folder: check data.dir"):
        load_rows(DataConfig(dir=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"no data: set data.name"):
        load_rows(DataConfig())


@pytest.mark.parametrize(
    "field",
    [
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"train_fraction": 0.0},
        {"train_fraction": 1.5},
        {"max_train_samples": 0},
        {"max_eval_samples": 2.5},
        {"label_names": ["a"]},
        {"label_names": ["a", "a"]},
    ],
)
def test_a_value_out_of_range_is_named(field: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"data.{next(iter(field))}="):
        DataConfig(**field)  # type: ignore[arg-type]


def test_a_hub_failure_names_the_data_set_and_the_mend() -> None:
    with pytest.raises(DataError, match=r"Hub data set 'nobody/nothing' cannot be loaded .*data.name=embedded"):
        load_rows(DataConfig(name="nobody/nothing"))


@pytest.mark.parametrize("name", ["csv", "imbd", "./here", "a/b/c"])
def test_a_name_that_is_no_hub_id_is_not_taken_for_local_files(name: str) -> None:
    with pytest.raises(DataError, match="is no Hub id"):
        load_rows(DataConfig(name=name))


def test_a_hub_data_set_keeps_its_class_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`load_dataset` is replaced because tests have no network; what it returns here is a real data set."""
    labels = datasets.ClassLabel(names=["2", "1", "0"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": labels})
    splits = {
        "train": datasets.Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [0, 1, 2]}, features),
        "validation": datasets.Dataset.from_dict({"sentence": ["-LRB-", "e"], "label": [1, 2]}, features),
        "test": datasets.Dataset.from_dict({"sentence": ["f", "g"], "label": [-1, -1]}, features),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(splits))
    loaded = load_rows(DataConfig(name="SetFit/sst5"))
    assert loaded["train"].features["label"].names == ["2", "1", "0"]
    assert rows_of(loaded["validation"]) == [("(", 1), ("e", 2)]
    assert "test" not in loaded
    assert "its test split has no labels" in caplog.text
    renamed = load_rows(DataConfig(name="SetFit/sst5", label_names=["x", "y", "z"]), splits=["validation"])
    assert renamed["validation"].features["label"].names == ["x", "y", "z"]


def test_embedded_reviews_need_nothing() -> None:
    loaded = load_rows(DataConfig(name="embedded"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1500, "validation": 300, "test": 300}
    assert loaded["test"].features["label"].names == list(LEVELS)


def test_fingerprints_see_order_and_labels(tmp_path: Path) -> None:
    first, second = ("0\ta\n1\tb\n0\tc\n", "0\tc\n1\tb\n0\ta\n")
    found = []
    for name, content in (
        ("a.tsv", first),
        ("b.tsv", second),
        ("c.tsv", first.replace("0\tc", "1\tc")),
        ("d.tsv", first),
    ):
        path = write(tmp_path / name, content)
        found.append(data_fingerprint(load_rows(DataConfig(train_file=path, validation_file=path)))["train"])
    assert found[0] == found[3]
    assert len(set(found)) == 3
    assert len(found[0]) == 64


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\nthree, 3\n"),
        ("a.csv", 'id,text\n1,one\n2,\n3,"three, 3"\n'),
        ("a.tsv", "0\tone\n1\t\n1\tthree, 3\n"),
        ("a.jsonl", '{"review":"one"}\n{"review":null}\n{"review":"three, 3"}\n'),
        ("a.txt.gz", gzip.compress(b"one\n\nthree, 3")),
    ],
    ids=["txt", "csv", "tsv", "jsonl", "gz"],
)
def test_texts_to_predict_line_up_with_the_input(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert texts_in(write(tmp_path / name, content)) == ["one", "", "three, 3"]


def texts_in(source: object) -> list[str]:
    return [row.text for row in read_inputs(source, DataConfig())]  # type: ignore[arg-type]


def test_texts_of_a_handle_are_read_as_they_come() -> None:
    assert texts_in(io.StringIO("one\ntwo\n")) == ["one", "two"]

    def endless() -> Iterator[str]:
        yield from (f"line {n}\n" for n in itertools.count())

    first = itertools.islice(read_inputs(endless(), DataConfig()), 3)
    assert [row.text for row in first] == ["line 0", "line 1", "line 2"]


def test_texts_of_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text column found among"):
        texts_in(write(tmp_path / "a.csv", "words\na\n"))
    with pytest.raises(DataError, match="line 2: byte 0xff is not utf-8"):
        texts_in(write(tmp_path / "a.txt", b"a\n\xff\n"))
    for errors, message in (("surrogateescape", "standard input, line 2: byte 0xe9"), ("strict", "standard input: ")):
        with pytest.raises(DataError, match=message):
            texts_in(io.TextIOWrapper(io.BytesIO(b"a\n\xe9\n"), "utf-8", errors=errors))


def test_nearest() -> None:
    assert nearest("trian", ["train", "test"]) == " (did you mean 'train'?)"
    assert nearest("zzz", ["train"]) == ""
