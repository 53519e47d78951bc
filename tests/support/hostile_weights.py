"""Weights and configurations that lie about their size, their place or their kind."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_case import Case, backbone_config, config

TERABYTE = 1 << 40


def index(**weights: Any) -> Callable[[Path, Path], object]:
    """An index in the place of one file of weights; the file itself is `whole.safetensors`."""

    def damage(run: Path, canary: Path) -> None:
        (run / "model.safetensors").rename(run / "whole.safetensors")
        names = {"classifier.readout.bias": "whole.safetensors"}
        names |= {name.replace("__", "."): file for name, file in weights.items()}
        shutil.copyfile(run / "whole.safetensors", run.parent / "outside.safetensors")
        content = {"metadata": {"total_size": 1}, "weight_map": names}
        (run / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def index_text(text: str) -> Callable[[Path, Path], object]:
    """Anything as an index."""

    def damage(run: Path, canary: Path) -> None:
        (run / "model.safetensors").rename(run / "whole.safetensors")
        (run / "model.safetensors.index.json").write_text(text)

    return damage


def tensors(header: dict[str, Any] | bytes, size: int = 0, claimed: int | None = None) -> Callable:
    """Weights of another header; `size` bytes of a file with holes, and a length that may be a lie."""

    def damage(run: Path, canary: Path) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        with (run / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text) if claimed is None else claimed) + text)
            file.truncate(file.tell() + size)

    return damage


def claim(size: int, name: str = "classifier.readout.weight") -> dict[str, Any]:
    """The header of one tensor of so many bytes."""
    return {name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}


def many_claims(run: Path, canary: Path) -> None:
    """Each tensor says that it lies where the others lie."""
    weights = {f"x{number}": {"dtype": "F32", "shape": [256], "data_offsets": [0, 1024]} for number in range(1000)}
    tensors(weights, 1024)(run, canary)


def many_empty_tensors(run: Path, canary: Path) -> None:
    """A million names, without a byte of weights."""
    claims = (b'"x%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(10**6))
    tensors(b"{" + b",".join(claims) + b"}")(run, canary)


def pipe(name: str) -> Callable[[Path, Path], object]:
    """A pipe that nobody writes to, in the place of a file."""
    return lambda run, canary: ((run / name).unlink(), os.mkfifo(run / name))


def endless(name: str) -> Callable[[Path, Path], object]:
    """A link to a device without an end, in the place of a file."""
    return lambda run, canary: ((run / name).unlink(), (run / name).symlink_to("/dev/zero"))


CASES: dict[str, Case] = {
    "an index to the folder above": Case(index(x="../outside.safetensors"), "names '../outside.safetensors'"),
    "an index to the system": Case(index(x="/etc/passwd"), "names '/etc/passwd'"),
    "an index to a folder below": Case(index(x="checkpoints/x.safetensors"), "names 'checkpoints/x.safetensors'"),
    "an index to a pickle": Case(index(x="training_args.bin"), "names 'training_args.bin'"),
    "an index to this folder": Case(index(x="."), "names '.'"),
    "an index to a number": Case(index(x=7), "names 7"),
    "an index to NUL": Case(index(x="a\0.safetensors"), "names 'a\\x00.safetensors'"),
    "an index to what is not there": Case(index(x="none.safetensors"), "none.safetensors"),
    "an index of nothing": Case(index_text("{}"), "model.safetensors.index.json"),
    "an index that is a list": Case(index_text("[]"), "model.safetensors.index.json"),
    "an index that is no JSON": Case(index_text("{"), "model.safetensors.index.json"),
    "an index nested too deeply": Case(index_text("[" * 200_000), "model.safetensors.index.json"),
    "an index with lists for names": Case(
        index_text('{"metadata": {}, "weight_map": {"a": ["b"]}}'), "model.safetensors.index.json"
    ),
    "a tensor of 1 TB": Case(tensors(claim(TERABYTE), 1024), "model.safetensors"),
    "a file of 1 TB with holes": Case(tensors(claim(TERABYTE), TERABYTE), "model.safetensors"),
    "an unknown tensor of 1 TB with holes": Case(tensors(claim(TERABYTE, "x"), TERABYTE), "model.safetensors"),
    "a header of 8 EiB": Case(tensors(claim(1024), 1024, claimed=(1 << 63) - 1), "model.safetensors"),
    "a header of 16 EiB": Case(tensors(claim(1024), 1024, claimed=(1 << 64) - 1), "model.safetensors"),
    "a header of 90 MB with holes": Case(tensors(b"{", 90_000_000, claimed=90_000_000), "model.safetensors"),
    "a header nested too deeply": Case(tensors(b"[" * 90_000), "model.safetensors"),
    "offsets that overlap": Case(many_claims, "model.safetensors"),
    "offsets below zero": Case(
        tensors({"x": {"dtype": "F32", "shape": [256], "data_offsets": [-1024, 0]}}, 1024), "model.safetensors"
    ),
    "a shape that overflows": Case(
        tensors({"x": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 1024]}}, 1024),
        "model.safetensors",
    ),
    "a vocabulary of a trillion": Case(
        backbone_config(vocab_size=10**12), "config.json tells of 32,000,000,018,230 numbers"
    ),
    "a hundred million layers": Case(
        lambda run, canary: (backbone_config(num_hidden_layers=10**8)(run, canary), config(feature_layers="last")),
        "layers",
    ),
    "hidden sizes of a billion": Case(config(hidden_sizes=[10**9, 10**9]), "config.json"),
    "twenty thousand layers of the head": Case(config(hidden_sizes=[1] * 20_000), "hidden_sizes"),
    "a million feature layers": Case(config(feature_layers=[0] * 10**6), "feature_layers"),
    "a polynomial of degree a million": Case(config(degree=10**6), "degree"),
    "a million empty tensors": Case(many_empty_tensors, "model.safetensors"),
    "a configuration that is a pipe": Case(pipe("config.json"), "config.json is no ordinary file"),
    "a configuration without an end": Case(endless("config.json"), "config.json is no ordinary file"),
    "a tokenizer that is a pipe": Case(pipe("tokenizer.json"), "tokenizer.json is no ordinary file"),
    "weights without an end": Case(endless("model.safetensors"), "model.safetensors is no ordinary file"),
}
