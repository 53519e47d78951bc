"""What a column of labels means."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import TSV, both, write

from cr_hf.data import DataConfig, labels, load_rows
from cr_hf.errors import DataError


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


def test_the_rule_stands_in_the_documentation() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "data.md"
    assert (labels.__doc__ or "").split("\n\n", 1)[1].strip() in docs.read_text(encoding="utf-8")
