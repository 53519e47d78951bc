"""Images of array files on a frozen backbone of images, from a recipe to what a stranger loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTImageProcessorPil, ViTModel, pipeline

from cr_hf import CRForImageClassification
from cr_hf.errors import CRError, DataError, PublishError, RecipeError
from cr_hf.hub.export import check_loads, export_run
from cr_hf.hub.graph import export_graph
from cr_hf.runs import Run, diagnose_run, evaluate_run, load_recipe, predict_run, train_recipe
from cr_hf.study.study import read_features

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "cifar10_vision.yaml"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def pictures(rows: int, seed: int, shape: tuple[int, ...] = (12, 10, 3)) -> tuple[Any, Any]:
    """Noise around a color of ten, and which color it is."""
    drawn = np.random.default_rng(seed)
    labels = np.arange(rows) % 10
    colors = np.random.default_rng(9).integers(40, 215, (10, *shape[2:]))
    noise = drawn.integers(-25, 25, (rows, *shape))
    return (colors[labels].reshape(rows, 1, 1, *shape[2:]) + noise).astype(np.uint8), labels


def write_arrays(path: Path, shape: tuple[int, ...] = (12, 10, 3), **changes: Any) -> Path:
    (x_train, y_train), (x_test, y_test) = pictures(120, 0, shape), pictures(30, 1, shape)
    np.savez(path, **{"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes})
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    ViTModel(ViTConfig(**TINY, image_size=16, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def recipe_of(folder: Path, backbone: Path | str, *more: str) -> Any:
    options = [f"backbone={backbone}", f"data.dir={folder}", f"output_dir={folder / 'run'}", "use_cpu=true"]
    return load_recipe(RECIPE, [*options, "hidden_sizes=[8]", "num_train_epochs=20", "learning_rate=0.02", *more])


@pytest.fixture(scope="module")
def finished(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run by the shipped recipe; the tests of this file read it."""
    folder = tmp_path_factory.mktemp("images")
    write_arrays(folder / "cifar10_subset.npz")
    return train_recipe(recipe_of(folder, backbone))


def test_a_run_learns_and_every_way_to_it_gives_the_same(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["metrics"]["test"]["accuracy"] > 0.4
    assert evaluate_run(finished)["accuracy"] == results["metrics"]["test"]["accuracy"]
    images, labels = pictures(30, 1)
    np.savez(tmp_path / "new.npz", x=images)
    run = Run(finished)
    predicted = list(predict_run(run, [str(tmp_path / "new.npz")], radius=True))
    scores = np.array([row.scores for row in predicted])
    assert (scores.argmax(1) == labels).mean() == results["metrics"]["test"]["accuracy"]
    classify = pipeline("image-classification", str(finished), top_k=10)
    answers = classify([Image.fromarray(image) for image in images])
    names = run.model.config.id2label
    found = [[next(one["score"] for one in row if one["label"] == names[at]) for at in range(10)] for row in answers]
    np.testing.assert_allclose(found, scores, atol=1e-5)
    assert type(AutoModelForImageClassification.from_pretrained(finished)) is CRForImageClassification
    assert diagnose_run(run, [str(tmp_path / "new.npz")])["rows"] == 30


def test_a_run_is_published_as_a_classifier_of_images(finished: Path, tmp_path: Path) -> None:
    folder = export_run(finished, tmp_path / "published", "me/tiny")
    check_loads(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-classification" in card
    assert 'pipeline("image-classification", model="me/tiny"' in card
    assert "Any image gets one of them" in card
    with pytest.raises(PublishError, match="is of images"):
        export_graph(finished, tmp_path / "graph")


def test_a_study_reads_what_a_run_does(finished: Path) -> None:
    data = read_features(Run(finished).recipe)[1]
    assert data.train[0].shape == (96, 16)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 4)])
def test_other_images_are_read_too(shape: tuple[int, ...], backbone: Path, tmp_path: Path) -> None:
    write_arrays(tmp_path / "cifar10_subset.npz", shape)
    run = Run(train_recipe(recipe_of(tmp_path, backbone, "num_train_epochs=1")))
    assert run.schema.shape == list(shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((120, 3, 12, 10), np.uint8)}, r"uint8 of shape \(3, 12, 10\): images are bytes"),
        ({"x_train": np.zeros((120, 12, 10, 3), np.float32)}, r"float32 of shape \(12, 10, 3\): images are bytes"),
        ({"x_train": np.zeros((120, 360), np.uint8)}, r"uint8 of shape \(360,\): images are bytes"),
        ({"x_test": np.zeros((30, 10, 12, 3), np.uint8)}, r"shape \(10, 12, 3\), those of training \(12, 10, 3\)"),
        ({"x_test": np.zeros((30, 12, 10), np.uint8)}, r"shape \(12, 10\), those of training \(12, 10, 3\)"),
    ],
)
def test_rows_that_are_no_images_are_one_line(
    changes: dict[str, Any], message: str, backbone: Path, tmp_path: Path
) -> None:
    write_arrays(tmp_path / "cifar10_subset.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        train_recipe(recipe_of(tmp_path, backbone))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_new_rows_that_are_no_images_are_one_line(finished: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 360), np.uint8))
    (tmp_path / "new.csv").write_text(",".join(["1"] * 360) + "\n", encoding="utf-8")
    for name in ("new.npz", "new.csv"):
        with pytest.raises(DataError, match="images are bytes"):
            list(predict_run(Run(finished), [str(tmp_path / name)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("freeze_backbone=false", "set freeze_backbone: true"),
        ("lora_r=4", "lora_r is only for other rows than images"),
        ("data.missing_value=0", "missing_value is only for other rows than images"),
        ("max_seq_length=9", "max_seq_length is only for other rows than images"),
        ("problem_type=regression", "images train classifiers alone"),
        ("backbone=offline", "reads no images: use another one"),
    ],
)
def test_what_has_no_meaning_for_images_is_one_line(change: str, message: str, backbone: Path, tmp_path: Path) -> None:
    write_arrays(tmp_path / "cifar10_subset.npz")
    with pytest.raises(RecipeError, match=message) as caught:
        train_recipe(recipe_of(tmp_path, backbone, change))
    assert "\n" not in str(caught.value)


def test_the_backbone_has_an_image_processor(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**TINY, image_size=16, patch_size=8)).save_pretrained(tmp_path / "bare")
    write_arrays(tmp_path / "cifar10_subset.npz")
    with pytest.raises(CRError, match="bare") as caught:
        train_recipe(recipe_of(tmp_path, tmp_path / "bare"))
    assert "\n" not in str(caught.value)
