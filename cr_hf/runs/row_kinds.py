"""Texts, a table of numbers or images: what the rows of a recipe are, and which keys have a meaning for them."""

from __future__ import annotations

from typing import Any

from ..data import SINGLE, names_arrays
from ..errors import RecipeError

STATIC_BACKBONE, NO_BACKBONE = "static", "none"
FOR_TABLES = {"feature_columns", "missing_value", "missing_columns", "test_fraction"}
FOR_TEXTS = {"backbone_revision", "lora_r", "freeze_backbone", "pooling", "feature_layers", "max_seq_length"}
FOR_TEXTS |= {"name", "text_column", "text_pair_column", "streaming", "push_to_hub"}
FOR_TEXTS |= {"encoder", "label_columns", "label_separator"}
FOR_IMAGES = {"backbone_revision", "freeze_backbone", "pooling", "feature_layers", "push_to_hub", "test_fraction"}


def reads_images(backbone: str, train_file: Any) -> bool:
    """Whether a backbone reads images: its rows are arrays then."""
    return backbone not in (NO_BACKBONE, STATIC_BACKBONE) and names_arrays(train_file)


def check_rows(sorted_out: dict[str, dict[str, Any]], data: dict[str, Any], place: str) -> None:
    """Refuse keys that have no meaning for these rows.

    Raises:
        RecipeError: naming the place and the key.
    """
    backbone = sorted_out["own"]["backbone"]
    are_images = reads_images(backbone, data.get("train_file"))
    is_table = backbone == NO_BACKBONE
    if (is_table or are_images) and sorted_out["model"].get("problem_type", SINGLE) != SINGLE:
        rows = "images train" if are_images else "backbone: none trains"
        raise RecipeError(f"{place}: {rows} classifiers alone: leave problem_type out")
    if are_images and sorted_out["model"].get("freeze_backbone") is not True:
        raise RecipeError(
            f"{place}: data.train_file is of images, and a recipe trains a head on what a frozen backbone makes of "
            "them: set freeze_backbone: true (CRTrainer fine-tunes)"
        )
    refused = (FOR_TEXTS | FOR_TABLES) - FOR_IMAGES if are_images else FOR_TEXTS if is_table else FOR_TABLES
    keys = {name: value for part in sorted_out.values() for name, value in part.items()}
    keys |= {f"data.{name}": value for name, value in data.items()}
    for key, value in keys.items():
        if value is None or value is False:
            continue
        if key.removeprefix("data.") in refused:
            kind = "texts, and backbone: none is for a table" if is_table else "a table, with backbone: none"
            kind = "other rows than images" if are_images else kind
            raise RecipeError(f"{place}: {key} is only for {kind}: leave it out")
