"""A page to try a model on: served here for a run, or written as a folder for a Space of the Hub."""

from __future__ import annotations

import inspect
import os
import runpy
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..data import label_names_of, load_rows
from ..errors import CRError, PublishError
from ..evaluation import perturb_text
from ..features import encode_texts, features_if_kept
from ..files import write_text
from ..modeling import CRConfig
from ..runs import Run
from .export import require_empty

APP = Path(__file__).parent / "space" / "app.py"
NEAREST = 10
"""Training texts whose labels are counted."""
ABOUT = """---
title: {title}
sdk: gradio
app_file: app.py
models:
- {model}
---

Try [{model}](https://huggingface.co/{model}): classes, certified radius, and which words the answer depends on.
"""


def check_demo(run: Run) -> None:
    """Refuse what the page cannot show.

    Raises:
        PublishError: if the run reads no single texts, or has no classes of which one is right.
    """
    if run.kind != "texts" or run.recipe.data.text_pair_column:
        what = "pairs of texts" if run.kind == "texts" else "images" if run.recipe.reads_images else "a table"
        raise PublishError(f"{run.path} reads {what}: the page takes one text, use `cr-hf predict`")
    problem_type = CRConfig.from_pretrained(run.path).problem_type  # the page itself loads the model
    if problem_type != "single_label_classification":
        raise PublishError(
            f"{run.path} is of problem_type={problem_type}: the page shows classes of which one is "
            "right, use `cr-hf predict`"
        )


def write_space(model: str, folder: Path) -> Path:
    """Write what a Space needs to show a published model.

    Args:
        model: `namespace/name` of the model on the Hub.
        folder: new or empty.

    Returns:
        The folder.

    Raises:
        PublishError: if the folder holds something.
    """
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_app(folder, model)
    title = model.split("/")[-1].replace("_", " ")
    write_text(folder / "README.md", ABOUT.format(title=title, model=model))
    write_text(folder / "requirements.txt", "torch\ntransformers>=5\nsafetensors\n")
    return folder


def serve(run: Run, port: int) -> None:
    """Serve the page of a run on this machine until it is interrupted.

    Args:
        run: of single texts and classes.
        port: of http://127.0.0.1.

    Raises:
        PublishError: see `check_demo`, or if gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise PublishError("the page needs gradio: pip install gradio, or the extra `demo`")
    check_demo(run)
    # Without analytics, gradio asks nobody for anything.
    os.environ |= {"CR_HF_MODEL": str(run.path), "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with tempfile.TemporaryDirectory() as scratch:
        _write_app(Path(scratch), str(run.path))
        sys.path.insert(0, scratch)
        found = {"counts_nearest": partial(nearest_labels, run)}
        runpy.run_path(str(Path(scratch) / APP.name), found, run_name="__main__")


def nearest_labels(run: Run, model: Any, tokenizer: Any) -> Callable[[str], dict[str, int]] | None:
    """From a text to the number of each label among the training texts nearest to it, by the cosine of their features.

    Args:
        run: of texts.
        model: the run's.
        tokenizer: the run's.

    Returns:
        `None` unless the features are kept, and the data are where they were.
    """
    if not model.config.freeze_backbone:
        return None
    try:
        rows = load_rows(run.data(), splits=["train"])["train"]
        features = features_if_kept(model, tokenizer, rows["text"], run.recipe.encoder)
    except CRError:
        return None
    if features is None:
        return None
    lengths, names, labels = np.linalg.norm(features, axis=1), label_names_of(rows) or [], rows["label"][:]

    def counts(text: str) -> dict[str, int]:
        (own,) = encode_texts(model, tokenizer, [text], cache_dir=False)
        nearest = np.argsort(-(features @ own) / lengths)[:NEAREST]
        return dict(Counter(names[labels[row]] for row in nearest).most_common())

    return counts


def _write_app(folder: Path, model: str) -> None:
    write_text(folder / APP.name, APP.read_text(encoding="utf-8").replace("{{ model }}", model))
    shutil.copyfile(inspect.getfile(perturb_text), folder / "perturbations.py")
