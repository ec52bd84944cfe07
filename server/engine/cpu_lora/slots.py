"""One layer's adapter weights of all slots, laid out so that any window of slots is one matrix.

vLLM keeps a tensor per slice of the layer (q, k and v; gate and up) and slot. Here all slices to shrink are one tensor,
and those to expand are transposed and stacked where slices are of one width. vLLM's tensors become views of ours, so
that what it writes into a slot is packed by being written.

Shapes: S slots, n slices, r rank, H hidden, O out, t rows of a block, W slots of its window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from server.engine.cpu_lora.blocks import Block


class SlotWeights:
    """The weights of one layer; ``written`` and ``broken`` are bit sets of slots.

    ``written``: an adapter has weights here. Others need no arithmetic.
    ``broken``: the weights to expand hold NaN or infinities. Zero times NaN is NaN, so such a slot is never masked: its
    rows, and those of other slots in its window, are multiplied run by run.
    """

    def __init__(self, shrinking: Sequence[Tensor], expanding: Sequence[Tensor]) -> None:
        self.written = 0
        self.broken = 0
        self.dtype = expanding[0].dtype
        self.slices = len(expanding)
        self.slots, _, _, self.rank = expanding[0].shape
        self._shrinking = (
            shrinking[0].new_zeros(self.slots, self.slices, self.rank, shrinking[0].shape[-1]) if shrinking else None
        )
        widths = [list(same) for _, same in groupby(part.shape[2] for part in expanding)]
        self._expanding = [
            expanding[0].new_zeros((len(same), self.slots * self.rank, same[0])) for same in widths
        ]  # each [slices of one width, S · r, O]

    def shrinking_views(self) -> tuple[Tensor, ...]:
        """Return the slices' weights as vLLM holds them: [S, 1, r, H] each."""
        assert self._shrinking is not None
        return tuple(self._shrinking[:, index : index + 1] for index in range(self.slices))

    def expanding_views(self) -> tuple[Tensor, ...]:
        """Return the slices' weights as vLLM holds them: [S, 1, O, r] each."""
        return tuple(
            part.view(self.slots, self.rank, -1).transpose(1, 2).unsqueeze(1)
            for same in self._expanding
            for part in same
        )

    def note_written(self, slot: int) -> None:
        """Take note that something was written into ``slot``."""
        rows = slice(slot * self.rank, (slot + 1) * self.rank)
        self.written |= 1 << slot
        if not all(part[:, rows].sum(dtype=torch.float32).isfinite() for part in self._expanding):
            self.broken |= 1 << slot

    def note_cleared(self, slot: int) -> None:
        """Take note that ``slot`` holds zeros."""
        self.written &= ~(1 << slot)
        self.broken &= ~(1 << slot)

    def add(self, output: Tensor, inputs: Tensor, blocks: Iterable[Block], scale: float) -> None:
        """``output += scale · inputs @ Aᵀ @ Bᵀ`` by slot; output [T, ≥ sum of O], inputs [T, H]."""
        assert self._shrinking is not None
        weights = self._shrinking.flatten(0, 2)
        wide = self.slices * self.rank
        for block in self._work(blocks):
            rows = inputs[block.start : block.stop].to(self.dtype)
            shrunk = torch.nn.functional.linear(rows, weights[block.low * wide : block.high * wide])
            if not block.is_one_slot:
                shrunk.masked_fill_(block.foreign(self.slices, self.rank), 0)
            self._expand(output[block.start : block.stop], shrunk, block, scale)

    def add_shrunk(self, output: Tensor, shrunk: Tensor, blocks: Iterable[Block]) -> None:
        """``output += shrunk @ Bᵀ`` by slot, of a layer of one slice; output [T, O], shrunk [T, r]."""
        for block in self._work(blocks):
            rows = shrunk[block.start : block.stop].to(self.dtype)
            if not block.is_one_slot:
                rows = rows.repeat(1, block.high - block.low).masked_fill_(block.foreign(1, self.rank), 0)
            self._expand(output[block.start : block.stop], rows, block, 1.0)

    def _work(self, blocks: Iterable[Block]) -> Iterable[Block]:
        for block in blocks:
            if block.used & self.written:
                yield from block.alone() if block.window & self.broken and not block.is_one_slot else (block,)

    def _expand(self, output: Tensor, shrunk: Tensor, block: Block, scale: float) -> None:
        """``output += scale · shrunk @ B`` over the block's window; output [t, ≥ sum of O], shrunk [t, W · n · r]."""
        if output.dtype != self.dtype:
            product = torch.zeros_like(output, dtype=self.dtype)
            self._expand(product, shrunk, block, scale)
            output += product
            return
        if self.slices > 1:
            shrunk = shrunk.view(len(shrunk), -1, self.slices, self.rank).permute(2, 0, 1, 3).flatten(2)
        else:
            shrunk = shrunk.unsqueeze(0)  # [n, t, W · r] both
        first = offset = 0
        for part in self._expanding:
            same, _, width = part.shape
            weights = part[:, block.low * self.rank : block.high * self.rank]
            columns = output[:, offset : offset + same * width]
            if same == 1:
                columns.addmm_(shrunk[first], weights[0, :, : columns.shape[1]], alpha=scale)
            else:
                columns.unflatten(1, (same, width)).transpose(0, 1).baddbmm_(
                    shrunk[first : first + same], weights, alpha=scale
                )
            first += same
            offset += same * width


def watch(layer: Any, weights: SlotWeights) -> None:
    """Make ``weights`` know what vLLM writes into the slots of ``layer``, and spare it clearing what is clear."""
    write, clear = layer.set_lora, layer.reset_lora

    def set_lora(index: int, lora_a: Any, lora_b: Any) -> None:
        try:
            write(index, lora_a, lora_b)  # clears the slot first, through the function below
        finally:
            weights.note_written(index)  # also if it failed half-way: what is there must be cleared some time

    def reset_lora(index: int) -> None:
        if weights.written >> index & 1:
            clear(index)
            weights.note_cleared(index)

    layer.set_lora, layer.reset_lora = set_lora, reset_lora
