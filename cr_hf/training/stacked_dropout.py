"""Dropout of K heads that train as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..modeling import MASK_LEVELS, to_mask
from .sampling import dropout_seed


class StackedDropout:
    """The dropout masks that `CRTrainer` would draw for each of K heads; on a CPU they are equal bit by bit.

    Args:
        rates: one per head.
        seeds: one per head.
        widths: units of each CR layer.
        micro_batch: rows of a forward pass; a step may have several.
        like: a tensor of the type and device of the masks.
    """

    def __init__(
        self, rates: Sequence[float], seeds: Sequence[int], widths: Sequence[int], micro_batch: int, like: Tensor
    ) -> None:
        self.widths, self.seeds, self.micro_batch = widths if any(rates) else [], seeds, micro_batch
        self.generator = torch.Generator(like.device)
        chances = [max(1, round((1 - rate) * MASK_LEVELS)) / MASK_LEVELS for rate in rates]
        self.keep = like.new_tensor(chances).unsqueeze(1)

    def masks(self, step: int, batch: int) -> list[Tensor]:
        """One mask a layer, 0 or 1 / keep, shape (K, batch, width); an empty list if no head has dropout."""
        if not self.widths:
            return []
        parts = [
            self._draw(step, number, min(self.micro_batch, batch - start))
            for number, start in enumerate(range(0, batch, self.micro_batch))
        ]
        return parts[0] if len(parts) == 1 else [torch.cat(layer, 1) for layer in zip(*parts, strict=True)]

    def _draw(self, step: int, number: int, rows: int) -> list[Tensor]:
        # 16 bits a decision, whole words of 64 bits a layer, as `Dropout` draws them.
        words = [-(-rows * width // 4) for width in self.widths]
        bits = torch.empty(len(self.seeds), sum(words), dtype=torch.int64, device=self.keep.device)
        for row, seed in zip(bits, self.seeds, strict=True):
            row.random_(-(2**63), None, generator=self.generator.manual_seed(dropout_seed(seed, step, number)))
        masks = to_mask(bits.view(torch.int16).to(self.keep.dtype), self.keep)
        layers = zip(masks.split([4 * count for count in words], dim=1), self.widths, strict=True)
        return [mask[:, : rows * width].unflatten(1, (rows, width)) for mask, width in layers]
