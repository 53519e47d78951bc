"""Checking and splitting rows."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest
from data_files import SHARED_DATA, TSV, needs_shared_data, rows_of, write

from cr_hf.data import DataConfig, load_rows
from cr_hf.data import sources as read_from
from cr_hf.data.demo import LEVELS
from cr_hf.errors import DataError
from cr_hf.runs.results import data_fingerprint, describe_data


@needs_shared_data
def test_sst5_folder_gives_every_row_of_the_official_split() -> None:
    loaded = load_rows(DataConfig(dir=str(SHARED_DATA / "sst5")))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8544, "validation": 1101, "test": 2210}
    assert [count for _, count in sorted(Counter(loaded["test"]["label"]).items())] == [279, 633, 389, 510, 399]
    assert loaded["train"].features["label"].names == ["0", "1", "2", "3", "4"]
    joined = " ".join(text for split in loaded.values() for text in split["text"])
    assert not any(escape in joined for escape in ("-LRB-", "-RRB-", "\\/", "\\*", "``", "''"))


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
    original, calls = read_from.read_records, itertools.count()

    def changing(path: Path, config: DataConfig) -> read_from.Records:
        if next(calls) == 1:
            write(path, TSV.replace("awful", "other"))
        return original(path, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_from, "read_records", changing)
        with pytest.raises(DataError, match="changed while it was being read"):
            load_rows(DataConfig(train_file=str(file)))


def test_a_full_disk_is_one_line_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.tsv", TSV * 20)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write", full)
    with pytest.raises(DataError, match=r"\(No space left on device\): free some space, or set HF_HOME"):
        load_rows(DataConfig(train_file=str(path)))


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


def test_kept_notes_name_files_without_their_folders(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{number % 2}\n" for number in range(20))
    train = write(tmp_path / "train.csv", "text,label\n" + rows)
    test = write(tmp_path / "test.csv", "text,label\n" + rows)
    found = load_rows(DataConfig(train_file=train, test_file=test))
    assert "test.csv: 20 rows of test also stand in train" in found.understood.notes
    assert str(tmp_path) not in " ".join(found.understood.notes)
