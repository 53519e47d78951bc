"""Dropout whose masks cost a CPU little: 16 random bits make a decision.

torch's own draws a number for every unit, which takes a CPU longer than all the elementwise work of a CR layer, and
under `torch.compile` longer still. A rate is exact to one part in 65536.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DECISIONS = 2**16


def decide(drawn: Tensor, keep: Tensor | float) -> Tensor:
    """Turn numbers into a dropout mask, in place.

    Args:
        drawn: uniform over the whole numbers of 16 bits, with a sign, shape (..., n), in float32 or float64.
        keep: chance of keeping a unit, a whole number of parts in 65536, above 0; one number, or shape (..., 1).

    Returns:
        `drawn`, now 0 or 1 / keep.
    """
    last_dropped = (1 - keep) * DECISIONS - DECISIONS // 2 - 1
    # Between whole numbers the clamped difference is the comparison, without a slow boolean tensor.
    return drawn.sub_(last_dropped).clamp_(0, 1).mul_(1 / keep)


def _fill_mask(mask: Tensor, keep: float) -> None:
    count = mask.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    units = mask.view(-1)
    units.copy_(bits.view(torch.int16)[:count])
    decide(units, keep)


# To a compiler one operation: it cannot trace `random_`, and its own draws are the slow ones. Two layers' masks would
# be drawn once for both, were it not for the fresh tensor that each is written to.
_compiled_fill_mask = torch.library.custom_op("cr_hf::fill_dropout_mask", _fill_mask, mutates_args=("mask",))


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU a mask takes a quarter of the time."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero units at random and scale the others by 1 / keep, in training only."""
        keep = round((1 - self.p) * DECISIONS) / DECISIONS
        precise = input.dtype in (torch.float32, torch.float64)
        if not (self.training and precise and input.device.type == "cpu" and 0 < keep < 1):
            return super().forward(input)
        mask = torch.empty(input.shape, dtype=input.dtype, device=input.device)
        (_compiled_fill_mask if torch.compiler.is_compiling() else _fill_mask)(mask, keep)
        return input * mask


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
        chances = [max(1, round((1 - rate) * DECISIONS)) / DECISIONS for rate in rates]
        self.keep = like.new_tensor(chances).unsqueeze(1)

    def masks(self, batch: int) -> list[Tensor]:
        """One mask per layer, 0 or 1 / keep, shape (K, batch, width); an empty list if no head has dropout."""
        if not self.widths:
            return []
        decisions = batch * sum(self.widths)
        bits = torch.empty(len(self.generators), -(-decisions // 4), dtype=torch.int64, device=self.keep.device)
        for row, generator in zip(bits, self.generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        mask = decide(bits.view(torch.int16)[:, :decisions].to(self.keep.dtype), self.keep)
        parts = mask.split([batch * width for width in self.widths], dim=1)
        return [part.unflatten(1, (batch, width)) for part, width in zip(parts, self.widths, strict=True)]
