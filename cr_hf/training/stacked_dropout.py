"""Dropout of K heads that train as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..modeling import MASK_LEVELS, to_mask


class StackedDropout:
    """Dropout masks of K heads, each head's from a generator of its own.

    Args:
        rates: of each head.
        seeds: of each head's generator.
        widths: units of each CR layer.
        like: a tensor of the type and device of the masks.
    """

    def __init__(self, rates: Sequence[float], seeds: Sequence[int], widths: Sequence[int], like: Tensor) -> None:
        self.widths = widths if any(rates) else []
        # The seed's own stream has drawn the initialisation and draws the data order.
        draws = [torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.generators = [torch.Generator(like.device).manual_seed(int(draw)) for draw in draws]
        chances = [max(1, round((1 - rate) * MASK_LEVELS)) / MASK_LEVELS for rate in rates]
        self.keep = like.new_tensor(chances).unsqueeze(1)

    def masks(self, batch: int) -> list[Tensor]:
        """One mask per layer, 0 or 1 / keep, shape (K, batch, width); an empty list if no head has dropout."""
        if not self.widths:
            return []
        decisions = batch * sum(self.widths)
        bits = torch.empty(len(self.generators), -(-decisions // 4), dtype=torch.int64, device=self.keep.device)
        for row, generator in zip(bits, self.generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        mask = to_mask(bits.view(torch.int16)[:, :decisions].to(self.keep.dtype), self.keep)
        parts = mask.split([batch * width for width in self.widths], dim=1)
        return [part.unflatten(1, (batch, width)) for part, width in zip(parts, self.widths, strict=True)]
