"""One layer's adapter weights of all slots, laid out so that any window of slots is one matrix.

vLLM keeps a tensor per slice of the layer (q, k and v; gate and up) and slot. Here all slices to shrink are one tensor,
and those to expand are transposed, and stacked where slices have the same width. vLLM's tensors become views of these,
so that the weights it writes into a slot need no packing.

Shapes: S slots, n slices, r rank, H hidden, O out, t rows of a block, W slots of its window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from server.engine.vllm.cpu.lora.blocks import Block

if TYPE_CHECKING:
    from vllm.lora.layers import BaseLayerWithLoRA


class Window(NamedTuple):
    """Views of a layer's weights in neighbouring slots; cached, because making one takes as long as a small product."""

    shrinking: Tensor | None
    """[W · n · r, H]."""
    expanding: tuple[Tensor, ...]
    """[slices of one width, W · r, O] each."""


class SlotWeights:
    """The weights of one layer; ``written`` and ``broken`` are bit sets of slots.

    ``written``: an adapter has weights in the slot. Other slots need no arithmetic.
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
        self._expanding = [  # each [slices of one width, S · r, O]
            expanding[0].new_zeros((len(list(same)), self.slots * self.rank, width))
            for width, same in groupby(part.shape[2] for part in expanding)
        ]
        self._windows: dict[tuple[int, int], Window] = {}

    def shrinking_views(self) -> tuple[Tensor, ...]:
        """Return the slices' weights in vLLM's shape: [S, 1, r, H] each."""
        assert self._shrinking is not None
        return tuple(self._shrinking[:, index : index + 1] for index in range(self.slices))

    def expanding_views(self) -> tuple[Tensor, ...]:
        """Return the slices' weights in vLLM's shape: [S, 1, O, r] each."""
        return tuple(
            part.view(self.slots, self.rank, -1).transpose(1, 2).unsqueeze(1)
            for same in self._expanding
            for part in same
        )

    def is_filled_by(self, lora_a: Any, lora_b: Any) -> bool:
        """Whether these factors, in vLLM's shape on the host, overwrite a whole slot."""
        if self._shrinking is None:
            return False
        down, up = ([part] if isinstance(part, Tensor) else part for part in (lora_a, lora_b))
        shapes = [None if part is None else tuple(part.shape) for part in (*down, *up)]
        full_down = [(self.rank, self._shrinking.shape[3])] * self.slices
        return shapes == full_down + [(same.shape[2], self.rank) for same in self._expanding for _ in same]

    def note_written(self, slot: int) -> None:
        """Note that weights were written into ``slot``."""
        rows = slice(slot * self.rank, (slot + 1) * self.rank)
        parts = [part[rows] for same in self._expanding for part in same]
        self.note_cleared(slot)
        self.written |= 1 << slot
        if not all(math.isfinite(part.sum()) or part.isfinite().all() for part in parts):  # the sum is fast
            self.broken |= 1 << slot

    def note_cleared(self, slot: int) -> None:
        """Note that ``slot`` holds zeros."""
        self.written &= ~(1 << slot)
        self.broken &= ~(1 << slot)

    def add(self, output: Tensor, inputs: Tensor, blocks: Iterable[Block], scale: float) -> None:
        """``output += scale · inputs @ Aᵀ @ Bᵀ`` by slot; output [T, ≥ sum of O], inputs [T, H]."""
        for block in self._work(blocks):
            weights = self._window(block.low, block.high).shrinking
            assert weights is not None
            shrunk = torch.nn.functional.linear(inputs[block.start : block.stop].to(self.dtype), weights)
            if not block.is_one_slot:
                shrunk.masked_fill_(block.foreign_mask(self.slices, self.rank), 0)
            self._expand(output[block.start : block.stop], shrunk, block, scale)

    def add_shrunk(self, output: Tensor, shrunk: Tensor, blocks: Iterable[Block]) -> None:
        """``output += shrunk @ Bᵀ`` by slot, of a layer of one slice; output [T, O], shrunk [T, r]."""
        for block in self._work(blocks):
            rows = shrunk[block.start : block.stop].to(self.dtype)
            if not block.is_one_slot:
                rows = rows.repeat(1, block.high - block.low).masked_fill_(block.foreign_mask(1, self.rank), 0)
            self._expand(output[block.start : block.stop], rows, block, 1.0)

    def _window(self, low: int, high: int) -> Window:
        if (low, high) not in self._windows:
            shrinking = None if self._shrinking is None else self._shrinking[low:high].flatten(0, 2)
            expanding = tuple(part[:, low * self.rank : high * self.rank] for part in self._expanding)
            self._windows[low, high] = Window(shrinking, expanding)
        return self._windows[low, high]

    def _work(self, blocks: Iterable[Block]) -> Iterable[Block]:
        for block in blocks:
            if block.used & self.written:
                yield from block.by_run() if block.window & self.broken and not block.is_one_slot else (block,)

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
        for weights in self._window(block.low, block.high).expanding:
            same, _, width = weights.shape
            columns = output[:, offset : offset + same * width]
            if same == 1:
                columns.addmm_(shrunk[first], weights[0, :, : columns.shape[1]], alpha=scale)
            else:
                columns.unflatten(1, (same, width)).transpose(0, 1).baddbmm_(
                    shrunk[first : first + same], weights, alpha=scale
                )
            first += same
            offset += same * width


def tracked_writes(layer: BaseLayerWithLoRA, weights: SlotWeights) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return ``set_lora`` and ``reset_lora`` of ``layer``, which also note in ``weights`` what they write.

    They skip clearing a slot that is clear already, or that is overwritten as a whole.
    """
    write, clear = layer.set_lora, layer.reset_lora
    is_filling = False

    def set_lora(index: int, lora_a: Any, lora_b: Any) -> None:
        nonlocal is_filling
        is_filling = weights.is_filled_by(lora_a, lora_b)
        try:
            write(index, lora_a, lora_b)  # clears the slot first, through the function below
        finally:
            is_filling = False
            weights.note_written(index)  # also after a failure half-way: the slot must be cleared before its next use

    def reset_lora(index: int) -> None:
        if weights.written >> index & 1 and not is_filling:
            clear(index)
            weights.note_cleared(index)

    return set_lora, reset_lora
