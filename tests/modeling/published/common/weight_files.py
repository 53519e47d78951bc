"""Weights that may come from anywhere: safetensors files of one folder, of about the size that the model has.

No other format is read, since a pickle runs code when it is loaded. Everything here is known before a tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SLACK = 64 << 20
"""Numbers by which model and file may differ: small mistakes are told tensor by tensor when they are loaded."""
MOST_BYTES = 16
"""Of a file for each number of the model: float64, and as much again that the model does not know."""


def weight_files(folder: Path) -> list[Path]:
    """The file of the weights, or the index and the shards that it names; empty if there is neither.

    Raises:
        ValueError: if the index cannot be read, or names anything else than a safetensors file beside it.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{INDEX} is damaged ({error})") from error
    for name in names:
        plain = (
            isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") and "\0" not in name
        )
        if not plain:
            raise ValueError(f"{INDEX} names {name!r}, which is no safetensors file beside it")
    return [index, *(folder / name for name in sorted(set(names)))]


def check_weight_files(folder: Path, build: Callable[[], nn.Module]) -> None:
    """Refuse weights that are no safetensors, or could not be those of a model.

    Args:
        folder: where they are.
        build: makes the model that they would be loaded into; on the meta device, where it takes no memory.

    Raises:
        OSError: if there are none, or one of them is missing or damaged.
        ValueError: if the index is not sound, or the sizes do not fit.
    """
    files = weight_files(folder)
    if not files:
        raise OSError(f"there is no {WEIGHTS}, and pickles are not read, since they can run code")
    shards = [file for file in files if file.name != INDEX]
    for shard in shards:
        if not shard.is_file():
            raise OSError(f"{shard.name} is missing")
    with torch.device("meta"):
        wanted = sum(value.numel() for value in build().state_dict().values())
    saved = sum(shard.stat().st_size for shard in shards)
    if wanted > saved + SLACK or saved > MOST_BYTES * (wanted + SLACK):
        raise ValueError(f"config.json tells of {wanted:,} numbers, but {shards[-1].name} is of {saved:,} bytes")
    for shard in shards:
        try:
            with safe_open(shard, framework="np"):
                pass
        except (OSError, SafetensorError, MemoryError) as error:
            raise OSError(f"{shard.name} is damaged ({error})") from error
