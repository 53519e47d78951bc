"""Run directories that are damaged or disagree with themselves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import CommandLine
from safetensors.torch import load_file, save_file


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config = {key: value for key, value in {**config, **changes}.items() if value is not ...}
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        weights = load_file(run / "model.safetensors")
        save_file(change(weights), run / "model.safetensors", metadata={"format": "pt"})

    return edit


def without(word: str) -> Callable[[Path], None]:
    return edit_weights(lambda weights: {name: value for name, value in weights.items() if word not in name})


def filled(word: str, value: float) -> Callable[[Path], None]:
    return edit_weights(
        lambda weights: {
            name: torch.full_like(tensor, value) if word in name else tensor for name, tensor in weights.items()
        }
    )


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:size]) and None


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(content, encoding="utf-8") and None


def other_backbone(**changes: Any) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config["backbone_config"].update(changes)
        (run / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return edit


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (without("classifier"), "run cannot be loaded (run lacks 8 tensors of CRForSequenceClassification"),
    "no backbone": (without("backbone"), "run cannot be loaded (run lacks 37 tensors of CRForSequenceClassification"),
    "no readout": (
        without("readout.weight"),
        "run cannot be loaded (run lacks 1 tensors of CRForSequenceClassification",
    ),
    "no tensors": (without(""), "run cannot be loaded (run lacks 45 tensors of CRForSequenceClassification"),
    "another number of classes": (
        edit_weights(lambda w: {**w, "classifier.readout.weight": torch.zeros(9, 8)}),
        "run cannot be loaded (run has classifier.readout.weight of shape [9, 8], but its",
    ),
    "another width": (
        edit_config(hidden_sizes=[9]),
        "run cannot be loaded (run has classifier.layers.0.coefficients of shape [4",
    ),
    "another depth": (
        edit_config(hidden_sizes=[8, 8]),
        "run cannot be loaded (run lacks 3 tensors of CRForSequenceClassification",
    ),
    "another degree": (
        edit_config(degree=5),
        "run cannot be loaded (run has classifier.layers.0.coefficients of shape [4",
    ),
    "nan in the head": (
        filled("readout.weight", float("nan")),
        "run: classifier.readout.weight is not finite: the weights are damaged, copy",
    ),
    "infinity in the head": (
        filled("coefficients", float("inf")),
        "run: classifier.layers.0.coefficients is not finite: the weights are damaged",
    ),
    "nan in the backbone": (
        filled("word_embeddings", float("nan")),
        "run: backbone.embeddings.word_embeddings.weight is not finite: the weights",
    ),
    "never fitted": (
        edit_weights(lambda w: {**w, "classifier.feature_norm.fitted": torch.zeros((), dtype=torch.int64)}),
        "run was saved before its feature statistics were fitted: train it anew",
    ),
    "weights cut short": (cut("model.safetensors", 5000), "run cannot be loaded"),
    "a header cut short": (cut("model.safetensors", 60), "run cannot be loaded"),
    "empty weights": (cut("model.safetensors", 0), "run cannot be loaded"),
    "weights that are text": (write("model.safetensors", "these are no weights at all"), "run cannot be loaded"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "run cannot be loaded"),
    "weights that are a folder": (
        lambda run: [(run / "model.safetensors").unlink(), (run / "model.safetensors").mkdir()].clear(),
        "run cannot be loaded",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "run/config.json is missing"),
    "an empty config": (write("config.json", ""), "run/config.json is not JSON"),
    "a config cut short": (cut("config.json", 100), "run/config.json is not JSON"),
    "a config that is a list": (
        write("config.json", "[]"),
        "run/config.json holds a list, not an object: copy it again, or train it anew",
    ),
    "a config of another model": (
        write("config.json", '{"model_type": "bert"}'),
        "run/config.json is not of a CR model (model_type='bert'): give the directory",
    ),
    "a config without backbone": (
        edit_config(backbone_config=None),
        "run cannot be loaded (config.json has no backbone_config: this is a feature",
    ),
    "a config without the backbone's kind": (
        edit_config(backbone_config={"hidden_size": 32}),
        "run cannot be loaded (backbone_config has no model_type: give a configuration",
    ),
    "an unknown backbone": (
        edit_config(backbone_config={"model_type": "brontosaurus"}),
        "run cannot be loaded (backbone_config has model_type='brontosaurus', which",
    ),
    "a backbone of another width": (
        other_backbone(hidden_size=64),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a backbone of another depth": (
        other_backbone(num_hidden_layers=3),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a backbone of no width": (
        other_backbone(hidden_size=0),
        "run cannot be loaded (in_features=96 disagrees with the backbone, which gives",
    ),
    "a field out of range": (
        edit_config(dropout=7),
        "run cannot be loaded (dropout=7 is not allowed: use 0 or above and below 1)",
    ),
    "a width of zero": (
        edit_config(hidden_sizes=[0]),
        "run cannot be loaded (hidden_sizes=[0] is not allowed: use a list of positive",
    ),
    "a head-only config without source": (
        edit_config(head_only=True),
        "run cannot be loaded (config.json has head_only but no backbone_source: the",
    ),
    "a source that is gone": (
        edit_config(
            head_only=True,
            backbone_source={"repo_id": "no/where", "revision": "main", "sha256": {"model.safetensors": "0"}},
        ),
        "run cannot be loaded (the backbone no/where at main cannot be fetched",
    ),
    "a source without files": (
        edit_config(head_only=True, backbone_source={"repo_id": "no/where"}),
        "run cannot be loaded ('revision'): copy it again, or train it anew",
    ),
    "no tokenizer": (lambda run: [path.unlink() for path in run.glob("tokenizer*")] and None, "run cannot be loaded"),
    "a tokenizer cut short": (cut("tokenizer.json", 100), "run cannot be loaded"),
    "no recipe": (
        lambda run: (run / "recipe.yaml").unlink(),
        "recipe run/recipe.yaml is not a file: give the path of a YAML file, such as",
    ),
    "a damaged recipe": (
        write("recipe.yaml", "backbone: ["),
        "recipe run/recipe.yaml line 1 is not valid YAML: expected the node content",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name: str, command: CommandLine, finished: Path, scratch: Path) -> None:
    damage, message = CHECKPOINTS[name]
    shutil.copytree(finished, scratch / "run")
    damage(scratch / "run")
    command.refuses(message, "predict", "run", "a film")
