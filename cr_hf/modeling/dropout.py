"""Dropout whose masks cost a CPU little: 16 random bits make a decision.

torch's own draws a number for every unit, which takes a CPU longer than all the elementwise work of a CR layer, and
under `torch.compile` longer still. A rate is exact to one part in 65536.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MASK_LEVELS = 2**16


def to_mask(drawn: Tensor, keep: Tensor | float) -> Tensor:
    """Turn numbers into a dropout mask, in place.

    Args:
        drawn: uniform over the whole numbers of 16 bits, with a sign, shape (..., n), in float32 or float64.
        keep: chance of keeping a unit, a whole number of parts in 65536, above 0; one number, or shape (..., 1).

    Returns:
        `drawn`, now 0 or 1 / keep.
    """
    last_dropped = (1 - keep) * MASK_LEVELS - MASK_LEVELS // 2 - 1
    # Between whole numbers the clamped difference is the comparison, without a slow boolean tensor.
    return drawn.sub_(last_dropped).clamp_(0, 1).mul_(1 / keep)


def _fill_mask(mask: Tensor, keep: float) -> None:
    count = mask.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    units = mask.view(-1)
    units.copy_(bits.view(torch.int16)[:count])
    to_mask(units, keep)


# To a compiler one operation: it cannot trace `random_`, and its own draws are the slow ones. Two layers' masks would
# be drawn once for both, were it not for the fresh tensor that each is written to.
_compiled_fill_mask = torch.library.custom_op("cr_hf::fill_dropout_mask", _fill_mask, mutates_args=("mask",))


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU a mask takes a quarter of the time."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero units at random and scale the others by 1 / keep, in training only."""
        keep = round((1 - self.p) * MASK_LEVELS) / MASK_LEVELS
        precise = input.dtype in (torch.float32, torch.float64)
        if not (self.training and precise and input.device.type == "cpu" and 0 < keep < 1):
            return super().forward(input)
        mask = torch.empty(input.shape, dtype=input.dtype, device=input.device)
        (_compiled_fill_mask if torch.compiler.is_compiling() else _fill_mask)(mask, keep)
        return input * mask
