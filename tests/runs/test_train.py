"""From a recipe to a finished run directory, and back to a model that anybody can load."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interrupted import interrupt
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cr_hf.errors import CheckpointError, CRError, DataError, RecipeError
from cr_hf.runs.recipe import Recipe, load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import Run, evaluate_run

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
TINY = [
    "data.max_train_samples=60",
    "data.max_eval_samples=30",
    "num_train_epochs=2",
    "hidden_sizes=[8]",
    "use_cpu=true",
]

TinyBackbone = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run that the tests of this file read."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    recipe = load_recipe(
        RECIPES[0].parent / "demo.yaml", [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY]
    )
    return train_recipe(recipe)


TEXT_RECIPES = [path for path in RECIPES if load_recipe(path).kind == "texts"]


@pytest.mark.parametrize("path", TEXT_RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_runs(path: Path, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    rows = [
        f"{label}\ta {word} film number {row}"
        for row in range(30)
        for label, word in enumerate(("awful", "dull", "fine", "good", "superb"))
    ]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(f"{row} {split}" for row in rows), encoding="utf-8")
    overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", f"data.dir={tmp_path}", *TINY]
    run_dir = train_recipe(load_recipe(path, overrides))
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    assert set(results["metrics"]) == {"validation", "test"}
    assert 0 <= results["metrics"]["test"]["accuracy"] <= 1


def test_run_directory_holds_what_it_should(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "results.json", "probe.json"} <= names
    assert "trainer_state.json" in names
    assert not [path for path in finished.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    here = (str(Path.home()), str(Path(sys.prefix)), str(finished.parent.parent), "/tmp/")
    for path in finished.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(folder in text for folder in here), f"{path.name} holds an absolute path"


def test_results_say_what_was_done(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["data"]["synthetic"] is True
    assert results["data"]["rows"] == {"train": 60, "validation": 30, "test": 30}
    assert results["model"]["hidden_sizes"] == [8]
    low, high = results["metrics"]["test"]["accuracy_interval"]
    assert low <= results["metrics"]["test"]["accuracy"] <= high
    assert results["training"]["seed"] == 0


def test_results_are_those_of_the_saved_model(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        measured = evaluate_run(finished, split)
        assert measured["accuracy"] == results["metrics"][split]["accuracy"]
        assert measured["negative_log_likelihood"] == pytest.approx(
            results["metrics"][split]["negative_log_likelihood"], rel=1e-4
        )


def test_auto_classes_and_pipeline_in_a_fresh_process_give_the_probe_logits(finished: Path) -> None:
    script = """
import json, sys, logging, torch
import cr_hf
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder = sys.argv[1]
probe = json.load(open(f"{folder}/probe.json"))
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
logits = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in probe["texts"]]
scores = pipeline("text-classification", model=folder)(probe["texts"], top_k=None)
print(json.dumps({"expected": probe["logits"], "logits": logits, "scores": scores, "labels": model.config.id2label}))
"""
    done = subprocess.run([sys.executable, "-c", script, str(finished)], capture_output=True, text=True, check=True)
    assert "not supported" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = torch.tensor(found["expected"])
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=1e-4, atol=1e-5)
    for row, scores in zip(expected.softmax(-1), found["scores"], strict=True):
        for entry in scores:
            index = next(int(key) for key, name in found["labels"].items() if name == entry["label"])
            assert entry["score"] == pytest.approx(row[index].item(), rel=1e-3)


def test_save_and_load_give_equal_logits(finished: Path, tmp_path: Path) -> None:
    run = Run(finished)
    model, tokenizer = run.model, run.tokenizer
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = AutoTokenizer.from_pretrained(finished)("a witty film", return_tensors="pt")
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert (
        pipeline("text-classification", model=again, tokenizer=tokenizer)("a witty film")[0]["label"]
        in model.config.label2id
    )


def test_fine_tuning_runs_too(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}", "freeze_backbone=false", *TINY]
    run_dir = train_recipe(load_recipe(RECIPES[0].parent / "demo.yaml", overrides))
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    assert results["model"]["feature_norm"] == "layer_norm"
    assert evaluate_run(run_dir)["accuracy"] == results["metrics"]["test"]["accuracy"]


class TestDirectory:
    def recipe(self, tiny_backbone: TinyBackbone, folder: Path, *more: str) -> Recipe:
        overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY, *more]
        return load_recipe(RECIPES[0].parent / "demo.yaml", overrides)

    def test_a_finished_run_is_not_overwritten_unasked(self, finished: Path, tiny_backbone: TinyBackbone) -> None:
        before = (finished / "results.json").read_bytes()
        with pytest.raises(RecipeError, match="holds a finished run: use --overwrite"):
            train_recipe(self.recipe(tiny_backbone, finished))
        with pytest.raises(RecipeError, match="is finished, there is nothing to resume"):
            train_recipe(self.recipe(tiny_backbone, finished), resume=True)
        assert (finished / "results.json").read_bytes() == before

    def test_foreign_files_are_never_removed(self, tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(RecipeError, match="holds other files"):
            train_recipe(self.recipe(tiny_backbone, tmp_path), overwrite=True)
        assert (tmp_path / "thesis.txt").exists()

    def test_an_interrupted_run_resumes_to_the_same_weights(
        self, finished: Path, tiny_backbone: TinyBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "run"
        recipe = self.recipe(tiny_backbone, folder)

        interrupt(recipe, monkeypatch)
        with pytest.raises(RecipeError, match="unfinished run: use --resume or --overwrite"):
            train_recipe(recipe)
        with pytest.raises(CheckpointError, match="is not finished: continue it with --resume"):
            Run(folder)
        with pytest.raises(RecipeError, match="was started with another dropout"):
            train_recipe(self.recipe(tiny_backbone, folder, "dropout=0.5"), resume=True)
        train_recipe(recipe, resume=True)
        assert (folder / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()

    def test_no_run_directory(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is no run directory"):
            Run(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone=no/such-model", "backbone 'no/such-model' cannot be loaded.*backbone=offline"),
        ("pooling=median", "pooling='median' is not allowed: use one of cls"),
        ("feature_layers=[9]", "names hidden state 9, but the backbone has 3"),
        ("eval_strategy=sometimes", "training arguments: .*sometimes"),
        ("dreg_schedule=exponential", "needs both ends above 0"),
        ("data.name=null", "data"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(
    override: str, message: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    overrides = [f"backbone={tiny_backbone('bert')}", f"output_dir={folder}", *TINY, override]
    with pytest.raises(CRError, match=message) as caught:
        train_recipe(load_recipe(RECIPES[0].parent / "demo.yaml", overrides))
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_evaluation_on_a_split_that_is_not_there(finished: Path) -> None:
    with pytest.raises(DataError, match="half"):
        evaluate_run(finished, "half")


def test_an_encoder_is_refused_before_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cr_hf.runs.recipe.Recipe.read_data", lambda recipe: pytest.fail("the data were read"))
    recipe = load_recipe(RECIPES[0].parent / "demo.yaml", [f"output_dir={tmp_path / 'run'}", "encoder=onnxx"])
    with pytest.raises(RecipeError, match="onnxx"):
        train_recipe(recipe)
    assert not (tmp_path / "run").exists()
