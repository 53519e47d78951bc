"""Recipes: reading, overriding, and refusing with one line."""

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import pytest

from cr_hf.data import DataConfig
from cr_hf.errors import CRError, RecipeError
from cr_hf.modeling import CRConfig
from cr_hf.runs.recipe import DATA_FIELDS, MODEL_KEYS, NOT_OF_MODEL, TRAINING_FIELDS, data_overrides, load_recipe
from cr_hf.training import CRTrainingArguments

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_name_their_run(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.output_dir == f"runs/{path.stem}"
    assert path.read_text(encoding="utf-8").startswith("#"), "a recipe explains itself"


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_keys_read_out_of_sources_are_the_fields_of_the_classes() -> None:
    for fields, owner in ((DATA_FIELDS, DataConfig), (TRAINING_FIELDS, CRTrainingArguments)):
        assert set(fields) == {item.name for item in dataclasses.fields(owner) if item.init}
        for name, hint in get_type_hints(owner).items():
            for kind in (bool, int, float, str, type(None)):
                is_allowed = kind in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))
                assert name not in fields or is_allowed == (kind.__name__.removesuffix("Type") in fields[name]), name
    own = {name for name in vars(CRConfig)["__annotations__"] if "ClassVar" not in CRConfig.__annotations__[name]}
    assert own - NOT_OF_MODEL | {"problem_type"} == MODEL_KEYS


MINIMAL = "backbone: offline\ndata:\n  name: embedded\n"


def test_overrides_win_and_are_yaml(tmp_path: Path) -> None:
    overrides = ["data.dir=some/where", "hidden_sizes=[64]", "learning_rate=3e-4", "output_dir=runs/y", "pooling=cls"]
    recipe = load_recipe(write(tmp_path, MINIMAL), overrides)
    assert recipe.data.dir == "some/where"
    assert recipe.model == {"hidden_sizes": [64], "pooling": "cls"}
    assert recipe.training == {"learning_rate": 3e-4}
    assert recipe.output_dir == "runs/y"


def test_yaml_1_1_exponents_are_numbers(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL + "learning_rate: 3e-4\n")).training["learning_rate"] == 3e-4


def test_saved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["data.label_names=[bad, good]", "seed=3", "dropout=0.2"])
    recipe.save(tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml").to_dict() == recipe.to_dict()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learnin_rate=1"], r"unknown key 'learnin_rate' \(did you mean 'learning_rate'\?\)"),
        (["data.tain_file=x.csv"], r"unknown key 'data.tain_file' \(did you mean 'data.train_file'\?\)"),
        (["train_file=x.csv"], r"unknown key 'train_file' \(did you mean 'data.train_file'\?\)"),
        (["learning_rate"], "not of the form key=value"),
        (["=3"], "not of the form key=value"),
        (["hidden_sizes=[64"], "the value is not YAML"),
        (["num_train_epochs=many"], "num_train_epochs='many' must be a number"),
        (["load_best_model_at_end=3"], "load_best_model_at_end=3 must be true or false"),
        (["backbone=null"], "backbone is missing"),
        (["data.validation_fraction=2"], "validation_fraction=2"),
        (["data.train_fraction=most"], "data.train_fraction='most' must be a number"),
        (["do_train=true"], "unknown key 'do_train'"),
    ],
)
def test_bad_overrides(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CRError, match=message) as caught:
        load_recipe(write(tmp_path, MINIMAL), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("backbone: [offline\n", r"line \d+ is not valid YAML"),
        ("backbone: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("backbone: offline\ndata: embedded\n", "data='embedded' must be a block"),
        ("data: {}\n", "backbone is missing"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a file"):
        load_recipe(tmp_path / "none.yaml")
    path = tmp_path / "r.yaml"
    path.write_bytes("backbone: offline".encode("utf-16"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)


def test_data_overrides_of_a_finished_run() -> None:
    assert data_overrides(["data.test_file=x.csv"]) == {"test_file": "x.csv"}
    with pytest.raises(RecipeError, match="only data"):
        data_overrides(["learning_rate=1"])
    with pytest.raises(RecipeError, match=r"did you mean 'data.test_file'"):
        data_overrides(["data.test_fil=x.csv"])
