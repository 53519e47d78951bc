"""A recipe for rows that come without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cr_hf.errors import DataError, RecipeError
from cr_hf.runs import load_recipe, new_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = {"billing": "refund", "Shipping": "parcel", "shiping": "courier"}


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """240 questions by topic, whose columns have no usual name; a class is rare and misspelt, some texts repeat."""
    topics = [["billing", "Shipping"][n % 2] if n % 40 else "shiping" for n in range(240)]
    rows = [f"what of my {WORDS[topic]} number {n % 200},{topic}" for n, topic in enumerate(topics)]
    rows[1] = "what of my refund number 2,Shipping"
    monkeypatch.chdir(tmp_path)
    path = Path("tickets.csv")
    path.write_text("\n".join(["question,topic", *rows]) + "\n", encoding="utf-8")
    return path


def test_what_was_understood_is_said_and_the_recipe_is_that_of_the_rows_alone(tickets: Path) -> None:
    lines = new_recipe(tickets, Path("tickets.yaml"))
    said = "\n".join(lines)
    assert "text 'question'; label 'topic'" in said
    assert "median 6" in said
    assert "Repeated: 40 rows have the text of another" in said
    assert "1 texts have different labels" in said
    assert "Few rows of train: 'shiping'" in said
    assert "'Shipping' and 'shiping'" in said
    assert lines[-1] == "Next: cr-hf train tickets.yaml"
    written = load_recipe("tickets.yaml")
    assert written == load_recipe(tickets)
    assert (written.data.text_column, written.data.label_column) == ("question", "topic")
    assert written.output_dir == "runs/tickets"


def test_overrides_stand_above_what_was_guessed(tickets: Path) -> None:
    recipe = load_recipe(tickets, ["data.label_column=question", "dropout=0.5"])
    assert recipe.data.label_column == "question"
    assert recipe.model["dropout"] == 0.5


@pytest.mark.parametrize(
    ("rows", "recipe"), [("text,label\na b c,x", "text.yaml"), ("a,label\n1,x\n2,y", "pima.yaml")]
)
def test_its_settings_are_those_of_the_recipes_that_ship(rows: str, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(rows + "\n", encoding="utf-8")
    shipped, drafted = load_recipe(RECIPES / recipe), load_recipe(path)
    assert (drafted.model, drafted.training) == (shipped.model, shipped.training)
    assert drafted.kind == shipped.kind


def test_amounts_are_regression(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,score\n" + "\n".join(f"a text {n},{n / 7}" for n in range(40)) + "\n", encoding="utf-8")
    assert load_recipe(path).task.is_regression


@pytest.mark.parametrize(("path", "error"), [("nowhere.csv", DataError), (".", RecipeError), ("x.yaml", RecipeError)])
def test_what_is_not_there_is_one_line(path: str, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_the_drafts_are_yaml_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a: 'b' {c} #d.csv"
    path.write_text("text,label\na b c,x\nd e f,y\n", encoding="utf-8")
    assert load_recipe(path).data.train_file == str(path)
    assert yaml.safe_load((RECIPES / "text.yaml").read_text(encoding="utf-8"))["data"] == {}
