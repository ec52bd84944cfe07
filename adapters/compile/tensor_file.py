"""The tensors of a safetensors file, one at a time.

Not safetensors' own reader: it maps the whole file as private memory, so that a limit on this process's memory would
count every byte of a base model's shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from adapters.storage.safetensors_header import Header, Tensor

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""The dtypes that can be read."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file and its header, which was checked when it was read."""

    path: Path
    header: Header

    def read(self, tensor: Tensor) -> torch.Tensor:
        """Return ``tensor``, one of the header's."""
        return self.numbers(tensor, 0, math.prod(tensor.shape)).reshape(tensor.shape)

    def numbers(self, tensor: Tensor, start: int, count: int) -> torch.Tensor:
        """Return up to ``count`` consecutive numbers of ``tensor`` from index ``start``."""
        dtype = DTYPES[tensor.dtype]
        begin = tensor.begin + start * dtype.itemsize
        size = min(count * dtype.itemsize, tensor.end - begin)
        if size == 0:
            return torch.empty(0, dtype=dtype)
        with self.path.open("rb") as file:
            file.seek(self.header.data_start + begin)
            return torch.frombuffer(bytearray(file.read(size)), dtype=dtype)
