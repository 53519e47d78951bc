"""Backbones that are handed over as objects, and those of sentence-transformers, which need not be installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, logging

from .loading import encoder_of, new_backbone
from .static_embeddings import StaticEmbeddingConfig, StaticEmbeddingModel

logger = logging.get_logger(__name__)

POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
LOST = ("CNN", "Dense", "LSTM", "LayerNorm", "WeightedLayerPooling")
"""Modules of sentence-transformers that change what the head would read, and that it does not take over."""


def given_backbone(
    given: nn.Module, reads: tuple[str, ...], own_pooling: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The backbone in an object, and what goes with it as fields of `CRConfig`.

    Args:
        given: a model of transformers, with a head or without, one that peft has wrapped (its adapters are merged into
            the weights), or a `SentenceTransformer`.
        reads: names of the inputs of which it must read one.
        own_pooling: the caller says how to pool.

    Raises:
        ValueError: if there is no such backbone in it.
    """
    settings: dict[str, Any] = {}
    if any(one.__name__ == "SentenceTransformer" for one in type(given).__mro__):
        parts = {type(part).__name__: part for part in given.children()}
        modes = {name: part.get_config_dict() for name, part in parts.items() if name == "Pooling"}  # type: ignore[operator]
        settings = _settings("the SentenceTransformer", list(parts), modes, own_pooling)
        first: Any = next(given.children())
        if type(first).__name__ == "StaticEmbedding":
            return _static_embeddings(first.embedding.weight.detach()), settings
        length, given = getattr(first, "max_seq_length", None), getattr(first, "model", first)
        settings |= {} if length is None else {"max_seq_length": length}
    if hasattr(given, "merge_and_unload"):
        given = given.merge_and_unload()  # type: ignore[operator]
    if not isinstance(given, PreTrainedModel):
        raise ValueError(f"{type(given).__name__} is no backbone: give a model of transformers, a Hub id or a folder")
    backbone: Any = given.base_model
    if "pixel_values" in reads and hasattr(backbone.config, "vision_config"):
        backbone = backbone.vision_model
    backbone = encoder_of(backbone, reads)
    with torch.device("meta"):
        fresh = new_backbone(backbone.config, reads)
    names = [{name for name in one.state_dict() if not name.startswith("pooler.")} for one in (backbone, fresh)]
    if names[0] != names[1]:
        raise ValueError(
            f"{type(given).__name__} has other weights than {type(fresh).__name__}, as which it would be loaded again "
            f"({min(names[0] ^ names[1])}): give a {type(fresh).__name__}"
        )
    return backbone, settings


def static_embeddings_of(name_or_path: str, revision: str | None) -> StaticEmbeddingModel | None:
    """The table of a repository or folder of sentence-transformers' `StaticEmbedding`, else `None`."""
    modules = _read(name_or_path, "modules.json", revision) or []
    if not modules or not modules[0]["type"].endswith("StaticEmbedding"):
        return None
    file = str(Path(modules[0]["path"], "model.safetensors"))
    tensors = load_file(str(cached_file(name_or_path, file, revision=revision)))
    table = next((tensors[name] for name in ("embedding.weight", "embeddings") if name in tensors), None)
    if table is None:
        raise ValueError(f"{name_or_path}: {file} has no embedding.weight, only {', '.join(tensors)}: save it again")
    return _static_embeddings(table)


def _static_embeddings(table: Tensor) -> StaticEmbeddingModel:
    model = StaticEmbeddingModel(StaticEmbeddingConfig(vocab_size=table.shape[0], hidden_size=table.shape[1]))
    with torch.no_grad():
        model.embeddings.weight.copy_(table)
    return model


def sentence_transformers_settings(
    name_or_path: str, revision: str | None, own_pooling: bool = False
) -> dict[str, Any]:
    """Pooling and maximum length of a sentence-transformers repository, as fields of `CRConfig`; else empty.

    Raises:
        ValueError: if a module after the pooling would be lost, and the caller does not say how to pool.
    """
    modules = _read(name_or_path, "modules.json", revision) or []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    modes = {
        kind: _read(name_or_path, f"{module['path']}/config.json", revision) or {}
        for kind, module in zip(kinds, modules, strict=True)
        if kind == "Pooling"
    }
    settings = _settings(name_or_path, kinds, modes, own_pooling)
    length = (
        (_read(name_or_path, "sentence_bert_config.json", revision) or {}).get("max_seq_length") if modules else None
    )
    return settings if length is None else {**settings, "max_seq_length": length}


def _settings(name: str, kinds: list[str], modes: dict[str, dict[str, Any]], own_pooling: bool) -> dict[str, Any]:
    lost = [kind for kind in kinds if kind in LOST]
    if lost and not own_pooling:
        raise ValueError(
            f"{name} has a {lost[0]} module, which a CR head does not take over: give pooling='mean' (or cls, max, "
            "last) to read the hidden states before it, or put a head behind it with CRSentenceHead"
        )
    settings: dict[str, Any] = {}
    for found in modes.values():
        active = _active_poolings(found)
        if len(active) != 1 or active[0] not in POOLINGS:
            logger.warning(f"{name} pools with {active}, which is not supported: set pooling yourself")
            continue
        settings["pooling"] = POOLINGS[active[0]]
    return settings


def _active_poolings(modes: dict[str, Any]) -> list[str]:
    """Version 6 writes `"pooling_mode": "mean"` (or a list), earlier ones `"pooling_mode_mean_tokens": true`."""
    if "pooling_mode" in modes:
        return [modes["pooling_mode"]] if isinstance(modes["pooling_mode"], str) else list(modes["pooling_mode"])
    names = [key.removeprefix("pooling_mode_") for key, on in modes.items() if on is True and "pooling_mode_" in key]
    return [name.removesuffix("_tokens").removesuffix("_token") for name in names]


def _read(name_or_path: str, filename: str, revision: str | None) -> Any:
    """A JSON file of a repository or folder, `None` if there is none."""
    quiet: Any = {f"_raise_exceptions_for_{cause}": False for cause in ("missing_entries", "connection_errors")}
    path = cached_file(name_or_path, filename, revision=revision, **quiet)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
