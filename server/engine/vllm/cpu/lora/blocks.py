"""A step's rows split into blocks, each of which takes one pair of matrix products in every LoRA layer.

A block is either one run of rows with the same slot, or several short runs. The latter is multiplied with all slots of
its window, and the products with other slots than a row's own are masked. For a few rows this wasted work is cheaper
than one more product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

LONG = 8192
"""Masked numbers (rows · other slots · rank) that cost as much as one more product; measured, docs/decisions/009."""


class SlotRun(NamedTuple):
    """Consecutive rows ``start`` to ``stop`` of one slot, −1 for the base model."""

    slot: int
    start: int
    stop: int


class Block:
    """Rows ``start`` to ``stop``, and the window of slots ``low`` to ``high`` that contains their slots.

    ``window`` and ``used`` are bit sets of slots: those of the window, and those that rows use.
    """

    def __init__(self, runs: Sequence[SlotRun]) -> None:
        slots = {run.slot for run in runs if run.slot >= 0}
        self.runs = tuple(runs)
        self.start, self.stop = runs[0].start, runs[-1].stop
        self.low, self.high = min(slots), max(slots) + 1
        self.window = (1 << self.high) - (1 << self.low)
        self.used = sum(1 << slot for slot in slots)
        self.is_one_slot = len(runs) == 1
        self._masks: dict[tuple[int, int], Tensor] = {}

    def by_run(self) -> list[Block]:
        """Return one block for each run that has a slot."""
        return [Block([run]) for run in self.runs if run.slot >= 0]

    def foreign_mask(self, slices: int, rank: int) -> Tensor:
        """Return the mask of columns that belong to other slots than the row's; bool [rows, window · slices · rank]."""
        if (slices, rank) not in self._masks:
            own = torch.tensor([run.slot for run in self.runs for _ in range(run.start, run.stop)])
            foreign = own.unsqueeze(1) != torch.arange(self.low, self.high)
            self._masks[slices, rank] = foreign.repeat_interleave(slices * rank, dim=1)
        return self._masks[slices, rank]


def split_rows(slots: Iterable[int], rank: int) -> list[Block]:
    """Return the blocks of rows with these slots, for adapters of ``rank``; rows of the base model may be in none."""
    runs, start = [], 0
    for slot, rows in groupby(slots):
        stop = start + sum(1 for _ in rows)
        runs.append(SlotRun(slot, start, stop))
        start = stop
    used = {run.slot for run in runs if run.slot >= 0}
    if not used:
        return []
    window = max(used) - min(used) + 1

    def is_long(run: SlotRun) -> bool:
        others = window if run.slot < 0 else window - 1
        return (run.stop - run.start) * others * rank >= LONG

    blocks: list[Block] = []
    for are_long, some in groupby(runs, is_long):
        for members in [[run] for run in some] if are_long else [list(some)]:
            first = 1 if members[0].slot < 0 else 0  # rows of the base model at the ends need no product
            last = len(members) - (1 if members[-1].slot < 0 else 0)
            if members[first:last]:
                blocks.append(Block(members[first:last]))
    return blocks
