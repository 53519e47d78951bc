"""What a recipe says of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write

from cr_hf.data import DataConfig, load_rows
from cr_hf.errors import DataError, nearest


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
        {"label_names": [["a"], "b"]},
        {"train_file": [1, "b.csv"]},
        {"label_names": ["a", "a"]},
    ],
)
def test_a_value_out_of_range_is_named(field: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"data.{next(iter(field))}="):
        DataConfig(**field)  # type: ignore[arg-type]


def test_a_configured_column_that_is_missing_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "comments,label\na,0\n")
    with pytest.raises(DataError, match=r"no column 'comment' \(did you mean 'comments'\?\) among"):
        load_rows(DataConfig(train_file=path, text_column="comment"))


def test_nearest() -> None:
    assert nearest("trian", ["train", "test"]) == " (did you mean 'train'?)"
    assert nearest("zzz", ["train"]) == ""
