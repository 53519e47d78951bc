"""What `cr-hf new` does: look at rows, say what was understood, write a recipe for them."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write_text
from .draft import draft_recipe
from .recipe import Recipe, load_recipe

FEW_ROWS, FULL_SHARE = 10, 0.9
"""A class with fewer rows is hardly learned; one with a larger share makes the accuracy say little."""
WORDS_A_SECOND = {"cpu": 1500, "cuda": 100_000}
"""That all-MiniLM-L6-v2 encodes: on one core, on a GPU."""
STEPS_A_SECOND, STARTING = 75, 20
"""Of training a head, on one core; seconds of loading and measuring."""


def new_recipe(path: Path, output: Path) -> list[str]:
    """Read rows, write a recipe for them, and return lines on what was understood and what will run.

    Args:
        path: a file of rows, or a folder of them.
        output: the recipe's file, which is written once the rows were read.

    Raises:
        DataError: if the rows cannot be read.
    """
    recipe = load_recipe(path)
    is_table = recipe.kind == "table"
    dataset = recipe.read_data()
    lines = dataset.understood.lines()
    if not is_table:
        texts = {split: rows["text"][:] for split, rows in dataset.items()}
        lengths = np.array([len(text.split()) for part in texts.values() for text in part])
        usual, most = np.quantile(lengths, [0.5, 0.95])
        lines.append(
            f"Words a text: median {usual:.0f}, 95 % have {most:.0f} or fewer, the longest has {lengths.max():,}"
        )
        lines += _repeated(dataset, texts)
    lines += _odd(dataset.understood.classes.get("train", {}))
    write_text(output, draft_recipe(path))
    encoder = "the packaged encoder" if recipe.backbone == "offline" else recipe.backbone
    what = "a CR head on the columns" if is_table else f"a CR head on frozen features of {encoder}"
    seconds = _seconds(recipe, len(dataset["train"]), 0 if is_table else int(lengths.sum()))
    duration = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    lines.append(f"Written: {output}. It trains {what}, about {duration} on this machine.")
    return [*lines, f"Next: cr-hf train {output}"]


def _repeated(dataset: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Iterator[str]:
    """Texts that stand there twice, on both sides of a split, or with different labels."""
    counts = Counter(text for part in texts.values() for text in part)
    if repeats := sum(count - 1 for count in counts.values()):
        train = set(texts["train"])
        shared = sum(text in train for split, part in texts.items() if split != "train" for text in part)
        labels: dict[str, set[str]] = {}
        for split, part in texts.items():
            for text, label in zip(part, dataset[split]["label"][:], strict=True):
                labels.setdefault(text, set()).add(str(label))
        torn = sum(len(found) > 1 for found in labels.values())
        also = f"; {shared:,} rows of validation or test also stand in train" if shared else ""
        also += f"; {torn:,} texts have different labels" if torn else ""
        yield f"Repeated: {repeats:,} rows have the text of another{also}"


def _odd(classes: Mapping[str, int]) -> Iterator[str]:
    """Classes that are rare, that hold nearly all rows, or whose names look like one another."""
    rare = [f"{name!r} ({count})" for name, count in classes.items() if count < FEW_ROWS]
    if rare:
        yield f"Few rows of train: {', '.join(rare[:10])}"
    largest = max(classes, key=lambda name: classes[name], default="")
    if classes and classes[largest] > FULL_SHARE * sum(classes.values()):
        yield f"Uneven: nearly all rows are {largest!r}; look at F1 and not at the accuracy (class_weights: balanced)"
    names = list(classes)
    for number, name in enumerate(names[:100]):
        others = [one for one in names[number + 1 :] if not (one.isdigit() or name.isdigit())]
        plain = {one.casefold().strip(" ._-"): one for one in others}
        if close := difflib.get_close_matches(name.casefold().strip(" ._-"), plain, 1, 0.9):
            yield f"Alike: the classes {name!r} and {plain[close[0]]!r}: one misspelt?"


def _seconds(recipe: Recipe, rows: int, words: int) -> float:
    """About how long training takes."""
    is_gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    encoding = words / (WORDS_A_SECOND["cuda"] if is_gpu else WORDS_A_SECOND["cpu"] * min(cores, 8))
    epochs, batch = recipe.training["num_train_epochs"], recipe.training["per_device_train_batch_size"]
    return float(STARTING + encoding + epochs * rows / batch / STEPS_A_SECOND)
