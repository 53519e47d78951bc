"""Which columns hold texts and labels, where their names do not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cr_hf.data import guess_columns, is_data, load_rows
from cr_hf.runs.recipe import load_recipe

TEXTS = ["the parcel came late", "who pays for this", "it works again now", "thank you for the help"]


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows] if header else rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("text,label,team", "text", "label"),
        ("question,topic,team", "question", "topic"),
        ("Review,stars,team", "Review", "stars"),
        ("question,team,class", "question", "class"),
    ],
)
def test_columns_of_texts(header: str, text: str, label: str, tmp_path: Path) -> None:
    rows = [f"{TEXTS[n % 4]} {n},{n % 2},t{n % 3}" for n in range(30)]
    found = guess_columns(table(tmp_path / "x.csv", header, rows))
    assert (found.text_column, found.label_column, found.is_amount) == (text, label, False)


def test_a_table_of_numbers(tmp_path: Path) -> None:
    rows = [f"n{n},{n * 0.5},{'' if n == 3 else n},{n % 2}" for n in range(30)]
    found = guess_columns(table(tmp_path / "x.csv", "name,height,weight,ill", rows))
    assert found.text_column is None
    assert (found.label_column, found.feature_columns, found.has_gaps) == ("ill", ["height", "weight"], True)
    found = guess_columns(table(tmp_path / "y.csv", "", [f"{n * 0.5},{n + 2},{n % 2}" for n in range(30)]))
    assert (found.label_column, found.feature_columns) == ("2", ["0", "1"])


def test_a_first_line_that_is_data(tmp_path: Path) -> None:
    rows = [f"{TEXTS[n % 4]} {n},{('good', 'bad')[n % 2]}" for n in range(30)]
    found = guess_columns(table(tmp_path / "x.csv", rows[0], rows[1:]))
    assert (found.has_header, found.text_column, found.label_column) == (False, "text", "label")
    loaded = load_rows(load_recipe(tmp_path / "x.csv").data)
    assert sum(loaded.understood.rows.values()) == 30
    assert list(loaded.understood.classes["train"]) == ["bad", "good"]
    assert guess_columns(table(tmp_path / "y.csv", "Utterance,Mood", rows)).has_header


def test_labels_that_are_amounts(tmp_path: Path) -> None:
    rows = [f'{{"text": "{TEXTS[n % 4]}", "score": {n / 7}}}' for n in range(40)]
    assert guess_columns(table(tmp_path / "x.jsonl", "", rows)).is_amount


def test_a_folder_is_data_where_it_holds_a_training_file(tmp_path: Path) -> None:
    assert not is_data(tmp_path)
    table(tmp_path / "my_train.csv", "question,topic", [f"{TEXTS[n % 4]},{n % 2}" for n in range(9)])
    assert is_data(tmp_path)
    assert guess_columns(tmp_path).label_column == "topic"
    assert not is_data(Path("recipes/demo.yaml"))
