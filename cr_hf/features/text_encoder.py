"""`TextEncoder`: features of texts that are met again and again, as in the folds of a search."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import DataError
from ..modeling import CRForSequenceClassification
from .cache import Features
from .encode import encode_texts

MOST_REMEMBERED = 10_000
"""So many texts are remembered that are not kept on disk."""


class TextEncoder:
    """A frozen backbone that encodes every text once, whichever fold of a search it is met in."""

    def __init__(self, model: CRForSequenceClassification, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.known: dict[tuple[str, ...], Features] = {}

    def __getstate__(self) -> NoReturn:
        raise TypeError("an estimator of texts is not pickled: use save_pretrained and from_pretrained")

    def __call__(self, X: Any, keep: bool) -> Features:
        """Features of texts, shape (rows, in_features).

        Args:
            X: texts, shape (rows,) or (rows, 1), or pairs of texts, shape (rows, 2).
            keep: remember all of them, in the feature cache.
        """
        values = np.asarray(X, dtype=object)
        columns = values[:, None] if values.ndim == 1 else values
        if columns.ndim != 2 or columns.shape[1] not in (1, 2):
            raise ValueError(f"X has the shape {values.shape}: give one text a row, or two columns for pairs of texts")
        rows = [tuple(row) for row in columns.tolist()]
        new = [row for row in dict.fromkeys(rows) if row not in self.known]
        fresh: dict[tuple[str, ...], Features] = {}
        if not rows:
            raise DataError("there are no texts to encode: give at least one")
        if new:
            texts, *pairs = (list(column) for column in zip(*new, strict=True))
            cache_dir: Any = None if keep else False
            features = encode_texts(self.model, self.tokenizer, texts, *pairs, cache_dir=cache_dir)
            fresh = dict(zip(new, features, strict=True))
            if keep or len(self.known) + len(new) <= MOST_REMEMBERED:
                self.known.update(fresh)
        return np.stack([fresh[row] if row in fresh else self.known[row] for row in rows])
