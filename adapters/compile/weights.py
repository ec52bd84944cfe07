"""Weights of safetensors files, read one tensor at a time.

safetensors' own reader is not used: it maps the whole file as private memory, so that a limit on this process's memory
would count every byte of a base model's shard.
"""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from adapters.base_model import EMBEDDING, HEAD, BaseModel, headers_in
from adapters.storage.safetensors_header import Header, Tensor

_CHUNK = 4 << 20  # numbers

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


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file and its header."""

    path: Path
    header: Header

    def read(self, tensor: Tensor) -> torch.Tensor:
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


class BaseWeights:
    """The safetensors files of a base model; only their headers stay in memory."""

    def __init__(self, directory: Path) -> None:
        """Read the files' headers.

        Raises:
            BaseModelUnreadable: config.json or the weights are missing, broken or quantised.
        """
        self.model = BaseModel.from_directory(directory, directory.name)
        files = (TensorFile(path, header) for path, header in headers_in(directory))
        self._files = {name: file for file in files for name in file.header.tensors}

    @property
    def tensors(self) -> Set[str]:
        return self._files.keys()

    @property
    def dtypes(self) -> Mapping[str, str]:
        """The stored format of each tensor, as safetensors names it."""
        return {name: file.header.tensors[name].dtype for name, file in self._files.items()}

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor of that name, in its stored dtype."""
        return self._files[name].read(self._tensor(name))

    def equals(self, name: str, file: TensorFile, copy: Tensor) -> bool:
        """Whether ``copy`` in ``file``, rounded to the base's dtype, equals the base's tensor ``name``."""
        original = self._tensor(name)
        if original.shape != copy.shape or not {original.dtype, copy.dtype} <= DTYPES.keys():
            return False
        return all(
            torch.equal(chunk, copied.to(chunk.dtype))
            for chunk, copied in zip(_chunks(self._files[name], original), _chunks(file, copy), strict=True)
        )

    def names_of(self, name: str) -> Iterator[str]:
        """Yield ``name`` if there is such a tensor; for a tied output head, the embedding whose weight it shares."""
        if name in self._files:
            yield name
        elif name == f"{HEAD}.weight":
            yield from (stored for stored in self._files if stored.endswith(f"{EMBEDDING}.weight"))

    def _tensor(self, name: str) -> Tensor:
        return self._files[name].header.tensors[name]


def _chunks(file: TensorFile, tensor: Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, math.prod(tensor.shape), _CHUNK):
        yield file.numbers(tensor, start, _CHUNK)
