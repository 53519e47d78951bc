"""Which rows every process sees at every step: a pure function of seed, epoch and process, so that resume is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

LENGTH_GROUP = 50
"""Steps whose rows are sorted by length together: enough to pad little, few enough to keep the order random."""


@dataclass(eq=False)
class EpochBatchSampler(Sampler[list[int]]):
    """Batches of row numbers for one process, such that a step sees the same rows however it is divided.

    The rows of an epoch are put in order and cut into steps, a step into micro-batches, a micro-batch into one part
    for each process. One process with batches of 16, one with 4 batches of 4, and two with 2 batches of 4 see the same
    rows at every step. A micro-batch at the end of the epoch with fewer rows than processes is left out.

    Args:
        num_rows: rows of the training set.
        batch_size: rows of a micro-batch of one process.
        accumulation: micro-batches of a step, 1 by default.
        seed: the order is that of `Trainer` (seeded by `seed + epoch`), so that both train on the same batches.
        shuffle: `False` keeps the order of the data set.
        lengths: tokens of each row, shape (num_rows,), to make batches of rows of similar length; `None` (default)
            makes them of any rows.
        processes: how many share the work, 1 by default.
        process: which of them this is.
        drop_last: leave out the step at the end of an epoch that is not full.
        epoch: set it before iterating.
    """

    num_rows: int
    batch_size: int
    accumulation: int = 1
    seed: int = 0
    shuffle: bool = True
    lengths: NDArray[np.integer] | None = None
    processes: int = 1
    process: int = 0
    drop_last: bool = False
    epoch: int = 0

    @property
    def rows_per_step(self) -> int:
        """Rows of a full step, over all micro-batches and processes."""
        return self.batch_size * self.processes * self.accumulation

    def __len__(self) -> int:
        """Micro-batches of this process in an epoch."""
        full, rest = divmod(self.num_rows, self.rows_per_step)
        micro, rest = (0, 0) if self.drop_last else divmod(rest, self.batch_size * self.processes)
        return full * self.accumulation + micro + (rest >= self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        rows = self._order()
        size = self.batch_size * self.processes
        end = len(rows) - len(rows) % self.rows_per_step if self.drop_last else len(rows)
        for start in range(0, end, size):
            micro_batch = rows[start : start + size]
            if len(micro_batch) >= self.processes:
                yield micro_batch[self.process :: self.processes].tolist()

    def _order(self) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rows: NDArray[np.int64] = torch.randperm(self.num_rows, generator=generator).numpy()
        if self.lengths is None:
            return rows
        group, steps = LENGTH_GROUP * self.rows_per_step, []
        for start in range(0, len(rows), group):
            chosen = rows[start : start + group]
            chosen = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
            steps += [
                chosen[first : first + self.rows_per_step] for first in range(0, len(chosen), self.rows_per_step)
            ]
        # The step that is not full stays last: every step before it has its number of micro-batches.
        full = len(rows) // self.rows_per_step
        order = torch.randperm(full, generator=generator).tolist()
        return np.concatenate([steps[index] for index in [*order, *range(full, len(steps))]])


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of what is drawn in one forward pass of training: dropout of a head on features, directions of DREG."""
    return seed + 1_000_003 * (step * 1009 + micro_batch)


def token_lengths(dataset: Any, column: str) -> NDArray[np.int64]:
    """Tokens of each row of a data set: the column of lengths, or else counted in `input_ids`.

    Raises:
        ValueError: if there is neither.
    """
    if column in (getattr(dataset, "column_names", None) or ()):
        return np.asarray(dataset[column][:])
    if not (isinstance(dataset[0], dict) and "input_ids" in dataset[0]):
        raise ValueError(
            f"train_sampling_strategy='group_by_length' needs input_ids or a column {column!r} in the training set"
        )
    return np.asarray([len(row["input_ids"]) for row in dataset])
