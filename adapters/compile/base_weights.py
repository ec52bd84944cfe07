"""The base model's weights, read one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from pathlib import Path

import torch

from adapters.base_model import EMBEDDING, HEAD, BaseModel
from adapters.compile.tensor_file import DTYPES, TensorFile
from adapters.errors import BaseModelUnreadable, SafetensorsMalformed
from adapters.storage.safetensors_header import BASE_HEADER, Tensor, read_header

_NUMBERS = 4 << 20


class BaseWeights:
    """The safetensors files of a base model; only their headers stay in memory."""

    def __init__(self, directory: Path) -> None:
        """Read the files' headers.

        Raises:
            BaseModelUnreadable: config.json or the weights are missing, broken or quantised.
        """
        self.model = BaseModel.from_directory(directory, directory.name)
        self._files: dict[str, TensorFile] = {}
        # Mistral ships the same weights twice; consolidated*.safetensors names them otherwise.
        for path in sorted(directory.glob("model*.safetensors")) or sorted(directory.glob("*.safetensors")):
            try:
                file = TensorFile(path, read_header(path, BASE_HEADER))
            except (OSError, SafetensorsMalformed) as error:
                raise BaseModelUnreadable(f"{path} cannot be read: {error}") from error
            self._files.update(dict.fromkeys(file.header.tensors, file))

    @property
    def tensors(self) -> Set[str]:
        """The names of all tensors."""
        return self._files.keys()

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor of that name, in its stored dtype."""
        return self._files[name].read(self._tensor(name))

    def equals(self, name: str, file: TensorFile, copy: Tensor) -> bool:
        """Whether ``copy`` in ``file``, rounded to the base's dtype, is the base's ``name``."""
        ours = self._tensor(name)
        if ours.shape != copy.shape or ours.dtype not in DTYPES or copy.dtype not in DTYPES:
            return False
        return all(
            torch.equal(mine, theirs.to(mine.dtype))
            for mine, theirs in zip(_numbers(self._files[name], ours), _numbers(file, copy), strict=True)
        )

    def names_of(self, name: str) -> Iterator[str]:
        """Yield ``name`` if there is such a tensor; for a tied output head, the embedding whose weight it shares."""
        if name in self._files:
            yield name
        elif name == f"{HEAD}.weight":
            yield from (stored for stored in self._files if stored.endswith(f"{EMBEDDING}.weight"))

    def _tensor(self, name: str) -> Tensor:
        return self._files[name].header.tensors[name]


def _numbers(file: TensorFile, tensor: Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, math.prod(tensor.shape), _NUMBERS):
        yield file.numbers(tensor, start, _NUMBERS)
