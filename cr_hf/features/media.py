"""Encode images or sounds once with a frozen backbone, kept by their content as texts are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..errors import DataError
from ..modeling import CRForAudioClassification, CRForImageClassification
from .cache import Features, Rows
from .encode import SHARD_ROWS, address_of, check_finite, kept_features

IMAGES_AT_ONCE = 32


def encode_media(
    model: CRForImageClassification | CRForAudioClassification,
    processor: Any,
    items: Sequence[Any],
    *,
    cache_dir: str | Path | Literal[False] | None = None,
    description: str | None = None,
) -> Features:
    """Features of all images or sounds, from the cache where they are there, encoded and kept where they are not.

    Args:
        model: its backbone, pooling and layers make the features.
        processor: the image processor or feature extractor of the backbone.
        items: images (of PIL, arrays of bytes, or paths of files; all are made RGB), or sounds: arrays of shape
            (samples,), or the dictionaries of `datasets.Audio`, whose `sampling_rate` is checked.
        cache_dir: folder of the cache; `None` for `cr_hf/features` under `HF_HOME`, `False` to encode in memory.
        description: what the progress bar and `cr-hf cache list` call them; "images" or "sounds" by default.

    Returns:
        Shape (len(items), in_features), in the order of the items; read-only and memory-mapped unless `cache_dir` is
        `False`.

    Raises:
        DataError: if there is none, or naming the row of one that is no image or sound, is empty or not finite.
        FeatureCacheError: if the disk is full or the cache cannot be read or written.
    """
    encoder = _Encoder(model, processor, items)
    rows = np.arange(len(items))
    shards: list[Rows] = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    return kept_features(encoder, shards, description or encoder.what, cache_dir)


class _Encoder:
    """From row numbers to features: `encoder(rows, bar)`."""

    def __init__(self, model: Any, processor: Any, items: Sequence[Any]) -> None:
        self.model, self.processor, self.items = model.evaluating(), processor, items
        self.is_sound = isinstance(model, CRForAudioClassification)
        self.what = "sounds" if self.is_sound else "images"
        if not len(items):
            raise DataError(f"there are no {self.what} to encode: give at least one")
        self.digests = np.empty((len(items), 16), np.uint8)
        for row in range(len(items)):
            value = np.asarray(self._read(row))
            digest = hashlib.blake2b(f"{value.shape}{value.dtype}".encode(), digest_size=16)
            digest.update(np.ascontiguousarray(value).data)
            self.digests[row] = np.frombuffer(digest.digest(), np.uint8)

    @torch.no_grad()
    def __call__(self, rows: Rows, bar: Any) -> Features:
        """Features of some rows, shape (len(rows), in_features)."""
        # Sounds one by one: a backbone without a mask would read the padding of others.
        size = 1 if self.is_sound else IMAGES_AT_ONCE
        found = []
        for start in range(0, len(rows), size):
            values = [self._read(int(row)) for row in rows[start : start + size]]
            options = {"sampling_rate": self.processor.sampling_rate} if self.is_sound else {}
            try:
                inputs = self.processor(values, return_tensors="pt", **options).to(self.model.device)
                found.append(self.model.get_features(**inputs).float().cpu().numpy())
            except ValueError as error:
                raise DataError(f"row {rows[start]} of the {self.what}: {str(error).splitlines()[0]}") from error
            bar.update(len(values))
        features = np.concatenate(found)
        check_finite(features, rows, self.what)
        return features

    def address(self) -> str:
        """A hash of all that the features depend on."""
        settings = json.dumps(self.processor.to_dict(), sort_keys=True, default=str)
        return address_of(self.model, None, settings.encode(), self.digests)

    def _read(self, row: int) -> Any:
        item = self.items[row]
        try:
            return self._sound(item) if self.is_sound else _image(item)
        except (OSError, TypeError, ValueError, KeyError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"row {row} of the {self.what} cannot be read ({cause}): mend it or leave it out"
            ) from error

    def _sound(self, item: Any) -> np.ndarray:
        wanted = self.processor.sampling_rate
        rate = item["sampling_rate"] if isinstance(item, dict) else wanted
        samples = np.asarray(item["array"] if isinstance(item, dict) else item, np.float32)
        if rate != wanted:
            raise ValueError(f"it has {rate} samples a second, the backbone reads {wanted}: resample it")
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"its samples have shape {samples.shape}, not (samples,)")
        if not np.isfinite(samples).all():
            raise ValueError("a sample is not finite")
        return samples


def _image(item: Any) -> Any:
    from PIL import Image

    if isinstance(item, str | Path):
        with Image.open(item) as image:
            return image.convert("RGB")
    return (item if isinstance(item, Image.Image) else Image.fromarray(np.asarray(item))).convert("RGB")
