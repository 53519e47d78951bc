"""Rows of a table as a head reads them: its columns, or what a frozen backbone makes of the images that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features import encode_media


def row_features(
    model: Any, processor: Any, rows: NDArray[np.float32], shape: Sequence[int], description: str = "images"
) -> NDArray[np.float32]:
    """Features of rows, shape (rows, in_features).

    Args:
        model: the classifier.
        processor: the image processor of its backbone; `None` for the columns of a table, which are the features.
        rows: the columns, or pixels, shape (rows, columns).
        shape: of an image: height, width and perhaps channels.
        description: what `cr-hf cache list` calls them.
    """
    if processor is None:
        return rows
    size = shape[:2] if shape[2:] == [1] else shape
    images = list(rows.reshape(-1, *size).astype(np.uint8))
    return encode_media(model, processor, images, description=description)
