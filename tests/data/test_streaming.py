"""Training rows that are read as they are needed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cr_hf.data import DataConfig, load_streamed
from cr_hf.errors import CRError
from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe
from cr_hf.runs.use import evaluate_run

TinyBackbone = Callable[..., Path]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "sst5_finetune.yaml"
NAMES = ["low", "middle", "high"]


def write(folder: Path, *splits: str, rows: int = 90) -> None:
    for split in splits:
        lines = [json.dumps({"text": f"{split} text {row}", "label": NAMES[row % 3]}) for row in range(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def overrides(folder: Path, backbone: Path, *more: str) -> list[str]:
    data = [f"data.dir={folder}", f"data.label_names={NAMES}", "data.streaming=true", "data.max_eval_samples=30"]
    small = ["hidden_sizes=[8]", "use_cpu=true", "max_steps=12", "eval_strategy=steps", "save_strategy=steps"]
    steps = ["eval_steps=4", "save_steps=4", "per_device_train_batch_size=16"]
    return [f"backbone={backbone}", f"output_dir={folder / 'run'}", *data, *small, *steps, *more]


def test_train_is_streamed_and_the_rest_loaded(tmp_path: Path) -> None:
    write(tmp_path, "train", "dev", "test")
    found = load_streamed(DataConfig(dir=str(tmp_path), label_names=NAMES, streaming=True, max_eval_samples=30))
    rows = list(found["train"])
    assert sorted(row["text"] for row in rows) == sorted(f"train text {row}" for row in range(90))
    assert [row["text"] for row in rows] != [f"train text {row}" for row in range(90)]
    assert all(row["label"] == int(row["text"].split()[-1]) % 3 for row in rows)
    assert len(found["validation"]) == len(found["test"]) == 30


def test_without_a_validation_split_the_first_rows_are_held_out(tmp_path: Path) -> None:
    write(tmp_path, "train")
    found = load_streamed(DataConfig(dir=str(tmp_path), label_names=NAMES, streaming=True, max_eval_samples=20))
    assert found["validation"]["text"][:] == [f"train text {row}" for row in range(20)]
    assert len(list(found["train"])) == 70


@pytest.mark.slow
def test_a_streamed_run_trains_more_than_one_epoch_and_resumes(tiny_backbone: TinyBackbone, tmp_path: Path) -> None:
    write(tmp_path, "train", "dev", "test")
    run_dir = train_recipe(load_recipe(RECIPE, overrides(tmp_path, tiny_backbone("bert"))))
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    assert results["training"]["steps"] == 12
    assert results["data"]["rows"] == {"validation": 30, "test": 30}
    assert evaluate_run(run_dir, data_overrides={"streaming": False})["rows"] == 30
    whole = (run_dir / "model.safetensors").read_bytes()
    (run_dir / "results.json").unlink()
    last = max((run_dir / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    last.rename(last.with_name("set-aside"))
    train_recipe(load_recipe(RECIPE, overrides(tmp_path, tiny_backbone("bert"))), resume=True)
    assert (run_dir / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.label_names=null"], "list the classes as data.label_names"),
        (["max_steps=-1"], "set max_steps"),
        (["freeze_backbone=true"], "needs a backbone that trains, or LoRA"),
        (["feature_norm=standardize"], "feature_norm=layer_norm"),
        (["data.max_train_samples=5"], "leave out train_fraction and max_train_samples"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(
    more: list[str], message: str, tiny_backbone: TinyBackbone, tmp_path: Path
) -> None:
    write(tmp_path, "train", "dev")
    with pytest.raises(CRError, match=message) as caught:
        train_recipe(load_recipe(RECIPE, overrides(tmp_path, tiny_backbone("bert"), *more)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
