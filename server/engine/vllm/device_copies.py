"""Copies of an adapter's weights in a GPU's memory, made beside the steps of the model, to write a slot from.

vLLM writes a slot from pinned memory of the host in the stream that computes, and every row of the batch waits for the
bus. Here a stream of its own has brought the weights to the device before; the slot is written within the device.

    read, cast, packed, pinned (host)  ──side stream──▶  copies (device)  ──computing stream──▶  slot

vLLM keeps the host's tensors: an adapter that lost its slot comes back from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from server.engine.vllm import patches

if TYPE_CHECKING:
    from vllm.lora.lora_model import LoRAModel

ALIGNMENT = 256
"""Bytes; the same as of CUDA's own allocations."""

logger = logging.getLogger(__name__)


class DeviceCopies:
    """Copies of ``model``'s factors in one piece of ``device``'s memory; started on the current stream."""

    def __init__(self, model: LoRAModel, device: Any) -> None:
        self._model = model
        own = [factor for weights in model.loras.values() for factor in (weights.lora_a, weights.lora_b)]
        parts = [part for factor in own for part in (factor if isinstance(factor, list) else [factor])]
        factors = [part for part in parts if part is not None]
        *starts, end = accumulate((-(-factor.nbytes // ALIGNMENT) * ALIGNMENT for factor in factors), initial=0)
        self.memory = torch.empty(end, dtype=torch.uint8, device=device)
        self._copies: dict[int, Tensor] = {}
        for factor, start in zip(factors, starts, strict=True):
            copy = self.memory[start : start + factor.nbytes].view(factor.dtype).view(factor.shape)
            self._copies[id(factor)] = copy.copy_(factor, non_blocking=True)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copies in the place of ``model``'s own factors for the length of the block."""
        own = [(weights, weights.lora_a, weights.lora_b) for weights in self._model.loras.values()]
        try:
            for weights, lora_a, lora_b in own:
                patches.replace_factors(weights, self._copy_of(lora_a), self._copy_of(lora_b))
            yield
        finally:
            for factors in own:
                patches.replace_factors(*factors)

    def _copy_of(self, factor: Any) -> Any:
        if isinstance(factor, list):
            return [self._copy_of(part) for part in factor]
        return None if factor is None else self._copies[id(factor)]


class SideStream:
    """Copies adapters to a CUDA (or ROCm) device, beside the stream that computes."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._is_full = False

    def copy(self, model: LoRAModel) -> DeviceCopies | None:
        """Return finished copies; None if the device's memory is full. Called in a thread beside the engine's loop.

        After one failure there is no second attempt: each halts the device.
        """
        if self._is_full:
            return None
        try:
            with torch.cuda.stream(self._stream):
                copies = DeviceCopies(model, self._device)
        except torch.OutOfMemoryError:
            self._is_full = True
            logger.warning("the memory of %s is full: slots are written from the host", self._device)
            return None
        done = torch.cuda.Event(blocking=True)  # sleeps; polling would take the interpreter from the loop
        done.record(self._stream)
        done.synchronize()
        return copies

    def release(self, copies: DeviceCopies) -> None:
        """Free the memory once the computing stream has read the copies. Called in the engine's loop."""
        copies.memory.record_stream(torch.cuda.current_stream(self._device))


def copier_for(device: Any) -> SideStream | None:
    """Return the copies' stream for ``device``; None where slots are in the host's memory."""
    return SideStream(device) if torch.device(device).type == "cuda" else None
