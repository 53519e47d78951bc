"""Encode texts once with a frozen backbone, and hand the kept features to a trainer.

Texts are sorted by length, cut into shards of `SHARD_ROWS` and encoded shard by shard in batches of a fixed number of
tokens; `cache.py` keeps the shards. Only a shard is ever tokenised or held in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from datasets import Column
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import DataError
from ..modeling import (
    CRBackboneModel,
    CRForSequenceClassification,
    CRPreTrainedModel,
    padded_batches,
    prepare_tokenizer,
    tokenize,
)
from .backends import FeatureRunner, exact
from .cache import FORMAT, FeatureFile, Features, Rows, default_cache_dir, one_line_errors

SHARD_ROWS = 1024
# Short batches pad little and stay in the caches of a processor; an accelerator wants to be filled.
CPU_TOKEN_BUDGET, ACCELERATOR_TOKEN_BUDGET = 1024, 16384
LOOKED_AT = 1000
"""So many texts are drawn to say how much of them is cut; their tokens are counted up to `COUNTED` times the limit."""
COUNTED = 16
# What a configuration says of its origin, not of the features; the weights are hashed in their own dtype.
ORIGIN_FIELDS = ("_name_or_path", "architectures", "dtype", "transformers_version")


def encode_texts(
    model: CRForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    *,
    cache_dir: str | Path | Literal[False] | None = None,
    token_budget: int | None = None,
    description: str = "texts",
    encoder: str | FeatureRunner = "torch",
) -> Features:
    """Features of all texts, from the cache where they are there, encoded and kept where they are not.

    Every process of a distributed job makes the same call; they share the work and get the same file.

    Args:
        model: its backbone, pooling, layers and maximum length make the features.
        tokenizer: of the backbone.
        texts: a list, or a column of a `datasets.Dataset`.
        text_pairs: second texts, one for each; `None` for single texts.
        cache_dir: folder of the cache; `None` for `cr_hf/features` under `HF_HOME`, `False` to encode in memory.
        token_budget: tokens in a batch, padding included; `None` for what is fast on the model's device.
        description: what the progress bar and `cr-hf cache list` call these texts.
        encoder: what runs the backbone: `"torch"` (default), or on the CPU `"openvino"` or `"onnx"`; in fewer bits
            `"torch-bf16"`, `"openvino-bf16"` and `"onnx-int8"`. A `FeatureRunner` makes its graph for many calls.

    Returns:
        Shape (len(texts), in_features), in the order of the texts; read-only and memory-mapped unless `cache_dir` is
        `False`.

    Raises:
        DataError: if there is no text, a text is not a string, the pairs are of another number, or the backbone gives
            NaN or infinity.
        FeatureCacheError: if the disk is full or the cache cannot be read or written.
        RecipeError: if the encoder is not for this machine or this backbone.

    Examples:
        >>> features = encode_texts(model, tokenizer, dataset["train"]["text"], description="train")
        >>> train = FeatureDataset(features, dataset["train"]["label"])
    """
    if isinstance(encoder, str):
        encoder = FeatureRunner(model, encoder, model.config.max_length_for(tokenizer))
    rows = _SortedTexts(texts, text_pairs)
    rows_to_features = _Encoder(model, tokenizer, rows, token_budget, encoder)
    return kept_features(rows_to_features, rows.shards, description, cache_dir)


def kept_features(
    encoder: Any, shards: list[Rows], description: str, cache_dir: str | Path | Literal[False] | None
) -> Features:
    """Features of all rows, from the cache or from `encoder(rows, bar)`, which has a `model` and an `address()`."""
    config, count, unit = encoder.model.config, sum(map(len, shards)), getattr(encoder, "what", "texts")
    # Without autocast: the address of the features does not know of it.
    exactly = partial(torch.autocast, encoder.model.device.type, enabled=False)
    if cache_dir is False:
        features = np.empty((count, config.in_features), np.float32)
        with exactly(), _progress(description, count, unit) as bar:
            for shard in shards:
                features[shard] = encoder(shard, bar)
        return features
    entry = _entry(encoder, shards, description, cache_dir)
    with one_line_errors(entry.folder):
        missing = entry.missing()
        if missing:
            done = count - sum(len(shards[shard]) for shard in missing)
            with exactly(), _progress(description, count, unit, done) as bar:
                entry.fill(missing, encoder, bar)
        return entry.open()


def _entry(encoder: Any, shards: list[Rows], description: str, cache_dir: str | Path | None) -> FeatureFile:
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / encoder.address()
    config, count = encoder.model.config, sum(map(len, shards))
    about = {"description": description, "backbone": config.backbone_config.model_type, "texts": count}
    return FeatureFile(folder, shards, config.in_features, about)


def features_if_kept(
    model: CRForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    encoder: str = "torch",
) -> Features | None:
    """What `encode_texts` would read from the cache, shape (len(texts), in_features); `None` if a row is not there."""
    rows = _SortedTexts(texts, None)
    runner = FeatureRunner(model, encoder, model.config.max_length_for(tokenizer))
    entry = _entry(_Encoder(model, tokenizer, rows, None, runner), rows.shards, "texts", None)
    with one_line_errors(entry.folder):
        return entry.open() if entry.folder.is_dir() and not entry.missing() else None


# ---- from texts to features ----


class _SortedTexts:
    """Texts in shards of like length, identical ones side by side; `digests`, shape (texts, 16), are their hashes."""

    def __init__(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        if not len(texts):
            raise DataError("there are no texts to encode: give at least one")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"text_pairs has {len(pairs)} entries for {len(texts)} texts: give one for each")
        self.columns = [texts] if pairs is None else [texts, pairs]
        self.digests = np.empty((len(texts), 16), np.uint8)
        lengths = np.empty(len(texts), np.int64)
        for start in range(0, len(texts), SHARD_ROWS):
            some = range(start, min(start + SHARD_ROWS, len(texts)))
            for row, values in zip(some, zip(*self.take(some), strict=True), strict=True):
                data = _as_bytes(values, row)
                self.digests[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
                lengths[row] = len(data)
        order = np.lexsort((self.digests.view(np.int64)[:, 0], lengths))
        self.shards: list[Rows] = [order[start : start + SHARD_ROWS] for start in range(0, len(order), SHARD_ROWS)]

    def take(self, rows: Sequence[int] | Rows) -> list[list[str]]:
        """Texts of some rows and, if there are pairs, their second texts."""
        numbers = [int(row) for row in rows]
        return [
            column[numbers] if isinstance(column, Column) else [column[row] for row in numbers]
            for column in self.columns
        ]


def _as_bytes(values: tuple[str, ...], row: int) -> bytes:
    try:
        # No UTF-8 text holds this byte, so no two pairs look alike.
        return b"\xff".join([value.encode() for value in values])
    except (AttributeError, UnicodeEncodeError) as error:
        raise DataError(f"row {row} of the texts is not text ({error}): mend it or leave it out") from error


class _Encoder:
    """From row numbers to features: `encoder(rows, bar)`."""

    def __init__(
        self,
        model: CRForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        texts: _SortedTexts,
        token_budget: int | None,
        runner: FeatureRunner,
    ) -> None:
        default = CPU_TOKEN_BUDGET if model.device.type == "cpu" else ACCELERATOR_TOKEN_BUDGET
        self.model, self.texts, self.runner = model.evaluating(), texts, runner
        self.token_budget = default if token_budget is None else token_budget
        self.max_length = model.config.max_length_for(tokenizer)
        self.tokenizer = prepare_tokenizer(tokenizer, self.max_length)

    @torch.no_grad()  # Not inference_mode: some backbones keep tensors of a forward pass, and may train later.
    def __call__(self, rows: Rows, bar: Any) -> Features:
        """Features of some rows of one shard, shape (len(rows), in_features); identical texts are encoded once."""
        digests = self.texts.digests[rows]
        is_new = np.append(True, (digests[1:] != digests[:-1]).any(1))
        try:
            encoded = tokenize(self.tokenizer, *self.texts.take(rows[is_new]))
        except ValueError as error:
            raise DataError(str(error)) from error
        repeats = np.diff(np.append(np.flatnonzero(is_new), len(rows)))
        features = np.empty((len(repeats), self.model.config.in_features), np.float32)
        for batch, inputs in padded_batches(self.tokenizer, encoded, self.token_budget):
            features[batch] = self.runner(inputs)
            bar.update(int(repeats[batch].sum()))
        check_finite(features, rows[is_new], "texts")
        return features if len(features) == len(rows) else features.repeat(repeats, axis=0)

    def address(self) -> str:
        """A hash of all that the features depend on."""
        digest = self._tokenizer_digest()
        if self.runner.encoder != "torch":
            digest += self.runner.encoder.encode()
        return address_of(self.model, self.max_length, digest, self.texts.digests)

    def _tokenizer_digest(self) -> bytes:
        tokenizer: Any = self.tokenizer
        options = [tokenizer.padding_side, tokenizer.model_input_names, tokenizer.split_special_tokens]
        digest = hashlib.sha256(json.dumps(options).encode())
        if tokenizer.is_fast:
            digest.update(tokenizer.backend_tokenizer.to_str().encode())
            return digest.digest()
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(tokenizer.save_pretrained(folder)):
                digest.update(Path(path).name.encode() + Path(path).read_bytes())
        return digest.digest()


def address_of(model: CRBackboneModel, length: int | None, processor: bytes, items: NDArray[np.uint8]) -> str:
    """A hash of all that features depend on: settings and weights of the model, its processor, and what it reads."""
    config = model.config
    backbone = config.backbone_config.to_dict()
    for name in ORIGIN_FIELDS:
        backbone.pop(name, None)
    settings = [FORMAT, SHARD_ROWS, config.pooling, config.feature_layer_indices, length, backbone]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for part in (_weights_digest(model.backbone), processor, items.data):
        digest.update(part)
    return digest.hexdigest()[:32]


def check_finite(features: Features, rows: Rows, what: str) -> None:
    """Refuse features that are not finite, naming the first row.

    Raises:
        DataError: if there is one.
    """
    if not np.isfinite(features).all():
        bad = int(rows[~np.isfinite(features).all(1)][0])
        raise DataError(
            f"row {bad} of the {what}: the backbone gives features that are not finite: its weights are damaged, "
            "or its dtype is too narrow: load it again in float32"
        )


def _weights_digest(module: nn.Module) -> bytes:
    """A hash of every parameter and buffer, in their own dtype. Nothing is remembered: weights change in place."""

    def digest(named: tuple[str, Tensor]) -> bytes:
        name, tensor = named
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(data.data)
        return hashed.digest()

    with ThreadPoolExecutor() as pool:
        return b"".join(pool.map(digest, [*module.named_parameters(), *module.named_buffers()]))


def _progress(description: str, count: int, unit: str, done: int = 0) -> Any:
    """A progress bar on the first process, for what takes over two seconds."""
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    hidden = in_group and torch.distributed.get_rank() > 0
    name = f"encode {description}"
    return logging.tqdm(desc=name, total=count, initial=done, unit=f" {unit}", delay=2, disable=hidden)


def classify_features(model: CRPreTrainedModel, features: Features, batch_size: int = 4096) -> Tensor:
    """Logits of features of shape (rows, in_features); shape (rows, num_labels), float32, on the CPU."""
    logits = [torch.empty(0, cast(int, model.config.num_labels))]
    evaluating = model.evaluating()
    with torch.inference_mode():
        for start in range(0, len(features), batch_size):
            batch = torch.from_numpy(np.array(features[start : start + batch_size])).to(model.device)
            logits.append(evaluating.classifier(batch)[0].float().cpu())
    return torch.cat(logits)


def text_columns(rows: Any) -> list[Any]:
    """The texts of a split and, if its rows are pairs, their second texts: what `encode_texts` takes."""
    return [rows[name] for name in ("text", "text_pair") if name in rows.column_names]


def cut_note(
    model: CRForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
) -> str | None:
    """A line on texts that have more tokens than the model reads; `None` if there are none, or the texts are no texts.

    Args:
        model: its maximum length counts, and that of the tokenizer.
        tokenizer: of the backbone.
        texts: of which at most `LOOKED_AT` are looked at, drawn at random.
        text_pairs: second texts, one for each; `None` for single texts.
    """
    limit = model.config.max_length_for(tokenizer)
    drawn = np.random.default_rng(0).permutation(len(texts))[:LOOKED_AT].tolist()
    columns = [[column[row] for row in drawn] for column in (texts, text_pairs) if column is not None]
    try:
        # A token is a byte or more, but for the few that are added.
        if max(sum(len(text.encode()) for text in row) for row in zip(*columns, strict=True)) + 8 <= limit:
            return None
        # One copy of a tokenizer is kept: the longer one is of the copy that reads the texts, and does not replace it.
        encoded = tokenize(prepare_tokenizer(prepare_tokenizer(tokenizer, limit), COUNTED * limit), *columns)
    except (AttributeError, ValueError):
        return None  # those who encode or train say which row it is
    tokens = np.array([len(ids) for ids in encoded["input_ids"]])
    over = np.maximum(tokens - limit, 0)
    if not over.any():
        return None
    can_grow = model.config.max_seq_length == limit < model.config.max_positions
    mend = "a larger max_seq_length reads more" if can_grow else "this backbone reads no more"
    return (
        f"{np.count_nonzero(over):,} of {len(drawn):,} texts{' looked at' * (len(drawn) < len(texts))} are longer "
        f"than the {limit:,} tokens that are read: {over.sum() / tokens.sum():.1%} of all tokens are left out ({mend})"
    )


# ---- for the trainer ----


def encode_splits(
    model: CRForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Mapping[str, Any],
    encoder: str = "torch",
) -> dict[str, tuple[Features, NDArray[Any]]]:
    """Features and labels, shape (rows, ...), of every split with columns `text`, perhaps `text_pair`, and `label`.

    Rows that are measured are encoded in 32 bits, as the finished model reads them, whatever train's are encoded in.
    """
    longest, splits = model.config.max_length_for(tokenizer), {}
    runners = {name: FeatureRunner(model, name, longest) for name in {encoder, exact(encoder)}}
    for name, rows in dataset.items():
        own = encoder if name == "train" else exact(encoder)
        features = encode_texts(model, tokenizer, *text_columns(rows), description=name, encoder=runners[own])
        splits[name] = (features, np.asarray(rows["label"]))
    return splits


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Rows of features with their labels; a data loader gathers a whole batch at once. Use with `collate_features`.

    Args:
        features: shape (rows, in_features), from `encode_texts`.
        labels: one per row; class numbers become int64, other numbers float32.
        indices: rows to keep, in this order; `None` for all. The attribute `labels` holds theirs.

    Raises:
        DataError: if there is not one label per row.
    """

    def __init__(self, features: Features, labels: Sequence[Any] | NDArray[Any], indices: Any = None) -> None:
        if len(labels) != len(features):
            raise DataError(f"labels has {len(labels)} entries for {len(features)} rows of features: give one per row")
        self.features = np.asarray(features)
        self.indices = np.arange(len(features)) if indices is None else np.asarray(indices)
        values = np.asarray(labels[:])
        kind = np.float32 if values.dtype.kind == "f" else np.int64
        self.labels = values.astype(kind)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index])[0].items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """One item that is a whole batch: the hooks of `Trainer` expect a list of items."""
        chosen = np.asarray(indices, np.int64)
        features = self.features[self.indices[chosen]]
        return [{"features": torch.from_numpy(features), "labels": torch.from_numpy(self.labels[chosen])}]


def collate_features(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The batch that `FeatureDataset` gathered, or single items of it stacked.

    Args:
        items: one item with features (batch, in_features), or items with features (in_features,).
    """
    if len(items) == 1 and items[0]["features"].ndim == 2:
        return items[0]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
