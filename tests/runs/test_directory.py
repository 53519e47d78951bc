"""Nothing of the user's is deleted: what a run may remove, what it leaves when it is refused or killed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import cr_hf.runs.job
from cr_hf.errors import CheckpointError, DataError, RecipeError
from cr_hf.runs.directory import CARD, OWN_FILES, claim, staged
from cr_hf.runs.recipe import Recipe, load_recipe
from cr_hf.runs.train import train_recipe

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
TINY = ["data.max_train_samples=40", "data.max_eval_samples=20", "num_train_epochs=1", "hidden_sizes=[4]"]

TinyBackbone = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "made"
    return train_recipe(recipe_for(tiny_backbone, folder))


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def recipe_for(tiny_backbone: TinyBackbone, folder: object, *overrides: str) -> Recipe:
    fixed = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", "use_cpu=true", "disable_tqdm=true"]
    return load_recipe(DEMO, [*fixed, *TINY, *overrides])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(name: str) -> Callable[[Path], None]:
    def add(run_dir: Path) -> None:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text("mine", encoding="utf-8")

    return add


def link(name: str, target: str) -> Callable[[Path], None]:
    def add(run_dir: Path) -> None:
        write(f"../elsewhere/{Path(target).name}")(run_dir)
        (run_dir / name).symlink_to(run_dir.parent / target)

    return add


FOREIGN: dict[str, Callable[[Path], None]] = {
    "notes.txt": write("notes.txt"),
    "vocab.txt": write("vocab.txt"),  # a name that other runs write
    "study.json": write("study.json"),
    "checkpoints/notes.txt": write("checkpoints/notes.txt"),
    "checkpoints/checkpoint-2/notes.txt": write("checkpoints/checkpoint-2/notes.txt"),
    ".eval_results/mine.yaml": write(".eval_results/mine.yaml"),
    "nested": lambda run_dir: shutil.copytree(run_dir, run_dir / "nested") and None,
    "empty": lambda run_dir: (run_dir / "empty").mkdir(),
    "to_file": link("to_file", "elsewhere/thesis.txt"),
    "to_folder": link("to_folder", "elsewhere"),
    "checkpoints/checkpoint-9": link("checkpoints/checkpoint-9", "elsewhere"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_run_beside_which_something_else_stands_is_not_overwritten(
    name: str, run_dir: Path, tiny_backbone: TinyBackbone
) -> None:
    FOREIGN[name](run_dir)
    before = tree(run_dir.parent)
    with pytest.raises(RecipeError, match=f"holds {name},"):
        train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    assert tree(run_dir.parent) == before


def test_a_run_in_a_run_can_be_overwritten_alone(run_dir: Path, tiny_backbone: TinyBackbone) -> None:
    nested = shutil.copytree(run_dir, run_dir.parent / "copy").rename(run_dir / "nested")
    outer = {name: content for name, content in tree(run_dir).items() if not name.startswith("nested")}
    train_recipe(recipe_for(tiny_backbone, nested), overwrite=True)
    assert outer.items() <= tree(run_dir).items()


def test_neither_a_link_nor_a_parent_of_the_working_directory_is_overwritten(
    run_dir: Path, tiny_backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_to_run = run_dir.parent / "latest"
    link_to_run.symlink_to(run_dir)
    before = tree(run_dir)
    with pytest.raises(RecipeError, match="is a link"):
        train_recipe(recipe_for(tiny_backbone, link_to_run), overwrite=True)
    monkeypatch.chdir(run_dir / "checkpoints")
    with pytest.raises(RecipeError, match="the folder you work in"):
        train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    assert tree(run_dir) == before


def test_the_working_directory_is_left_as_it_is(
    tmp_path: Path, tiny_backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(DEMO, tmp_path / "recipe.yaml")
    write("thesis.txt")(tmp_path)
    before = tree(tmp_path)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RecipeError, match=r"output_dir=\. holds other files and no run"):
            train_recipe(recipe_for(tiny_backbone, "."), **options)
    (tmp_path / "thesis.txt").unlink()
    with pytest.raises(RecipeError, match="holds other files and no run"):
        train_recipe(recipe_for(tiny_backbone, "."), overwrite=True)
    assert (tmp_path / "recipe.yaml").read_bytes() == before["recipe.yaml"], "a recipe of the user's is not a run's"


def test_what_was_written_by_hand_in_a_card_is_not_overwritten(run_dir: Path, tiny_backbone: TinyBackbone) -> None:
    with (run_dir / CARD).open("a", encoding="utf-8") as card:
        card.write("\n## By hand\n")
    before = tree(run_dir)
    with pytest.raises(RecipeError, match=r"holds text of your own in README\.md"):
        train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    assert tree(run_dir) == before


def test_metadata_written_by_hand_in_a_card_are_kept(run_dir: Path, tiny_backbone: TinyBackbone) -> None:
    text = (run_dir / CARD).read_text(encoding="utf-8")
    edited = text.replace("tags:\n", "license: mit\nlanguage: [de]\nbase_model: someone/else\ntags:\n- reviews\n", 1)
    (run_dir / CARD).write_text(edited, encoding="utf-8")
    train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    data = ModelCard((run_dir / CARD).read_text(encoding="utf-8")).data
    assert (data.license, data.language, data.base_model) == ("mit", ["de"], None)
    assert data.tags == ["chainzrule", "dreg", "cr", "reviews"]
    (run_dir / CARD).write_text(edited.replace("[de]", "[de"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"README\.md: its metadata"):
        train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    assert (run_dir / "results.json").is_file()


def test_a_run_of_an_earlier_version_is_known_by_its_names(run_dir: Path, tiny_backbone: TinyBackbone) -> None:
    (run_dir / OWN_FILES).unlink()
    write("notes.txt")(run_dir)
    with pytest.raises(RecipeError, match=r"holds notes\.txt"):
        train_recipe(recipe_for(tiny_backbone, run_dir), overwrite=True)
    (run_dir / "notes.txt").unlink()
    with pytest.raises(RecipeError, match="holds a finished run"):
        train_recipe(recipe_for(tiny_backbone, run_dir))
    train_recipe(recipe_for(tiny_backbone, run_dir, "hidden_sizes=[5]"), overwrite=True)
    assert json.loads((run_dir / "results.json").read_text(encoding="utf-8"))["model"]["hidden_sizes"] == [5]


def test_a_run_that_lacks_its_card_is_completed(run_dir: Path, tiny_backbone: TinyBackbone) -> None:
    recipe = recipe_for(tiny_backbone, run_dir)
    recipe.save(run_dir / "recipe.yaml")
    card = (run_dir / CARD).read_text(encoding="utf-8").replace("made", "run")
    with pytest.raises(RecipeError, match="nothing to resume"):
        train_recipe(recipe, resume=True)
    (run_dir / CARD).unlink()
    weights = (run_dir / "model.safetensors").stat().st_mtime_ns
    train_recipe(recipe, resume=True)
    assert (run_dir / CARD).read_text(encoding="utf-8") == card
    assert (run_dir / "model.safetensors").stat().st_mtime_ns == weights, "nothing was trained again"


@pytest.mark.parametrize("killed_before", ["model.safetensors", "results.json"])
def test_a_run_killed_while_it_is_saved_is_not_finished_and_goes_on(
    killed_before: str, made: Path, tmp_path: Path, tiny_backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, replace = recipe_for(tiny_backbone, tmp_path / "new" / "run"), os.replace

    class Killed(BaseException):
        pass

    def kill(source: str | Path, target: str | Path) -> None:
        if Path(target) == Path(recipe.output_dir) / killed_before:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            train_recipe(recipe)
    assert not (Path(recipe.output_dir) / "results.json").exists()
    train_recipe(recipe, resume=True)
    assert {path.name for path in Path(recipe.output_dir).iterdir()} == {path.name for path in made.iterdir()}


def test_a_run_that_is_refused_late_leaves_nothing(
    tmp_path: Path, tiny_backbone: TinyBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("a row that was not read before")

    monkeypatch.setattr(cr_hf.runs.job, "encode_splits", refuse)
    with pytest.raises(DataError):
        train_recipe(recipe_for(tiny_backbone, tmp_path / "some" / "where"))
    assert not list(tmp_path.iterdir())


def test_what_stands_there_is_not_taken_for_the_runs_own(tmp_path: Path) -> None:
    claim(tmp_path, OWN_FILES)
    write("config.json")(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json was not written by the run"), staged(tmp_path) as folder:
        write("config.json")(folder)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == "mine"
