"""Folders of backbones that transformers answers with something else than a ValueError or an OSError."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cr_hf.errors import RecipeError
from cr_hf.runs.build import build_classifier
from cr_hf.runs.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "text.yaml"
FOLDERS: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "a padding token that is none": ("config.json", {"pad_token_id": 9999}, "Padding_idx"),
    "a width that is no number": ("config.json", {"hidden_size": "x"}, "hidden_size"),
    "a package that is not there": (
        "config.json",
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "bitsandbytes",
    ),
    "a tokenizer that is empty": ("tokenizer.json", {}, "added_tokens"),
    "no tokenizer": ("tokenizer", None, "no tokens but special ones"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_refused(case: str, tiny_backbone: Callable[..., Path], tmp_path: Path) -> None:
    name, changed, message = FOLDERS[case]
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    if changed is None:
        for path in folder.glob(f"{name}*"):
            path.unlink()
    else:
        values = {**json.loads((folder / name).read_text()), **changed} if changed else changed
        (folder / name).write_text(json.dumps(values))
    with pytest.raises(RecipeError, match=message) as refusal:
        build_classifier(load_recipe(RECIPE, [f"backbone={folder}"]), {"num_labels": 2})
    assert "\n" not in str(refusal.value)
