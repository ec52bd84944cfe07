"""Stored LoRAs as numbers, read one module at a time, and their weighted sums. No torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from adapters.lora.factors import Factors
from adapters.lora.lora_tensors import LoraTensors
from adapters.lora.peft_config import PeftConfig
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import Floats, decode
from adapters.storage.safetensors_header import Header, Tensor, read_header


@dataclass(frozen=True)
class StoredLora:
    """A LoRA that passed the checks: both factors of every module, every number finite.

    ``header`` has the tensors by the names that PEFT gives them.
    """

    weights: Path
    config: PeftConfig
    header: Header

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the config and the header of the version in ``directory``.

        Raises:
            OSError: a file cannot be read.
        """
        config = PeftConfig.parse((directory / CONFIG_FILE).read_bytes())
        return cls(directory / WEIGHTS_FILE, config, read_header(directory / WEIGHTS_FILE))

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Each adapted module's out_features, rank and in_features."""
        return {module: (b.shape[0], a.shape[0], a.shape[1]) for module, (b, a) in self._pairs.items()}

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(rank for _, rank, _ in self.shapes.values())

    @property
    def is_scaled(self) -> bool:
        """Whether any module's scale is other than 1."""
        return any(self.scale(module) != 1 for module in self.shapes)

    def scale(self, module: str) -> float:
        """Return the factor of b·a in the change to ``module``: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        rank = self.config.rank_of(module)
        return self.config.alpha_of(module) / (math.sqrt(rank) if self.config.use_rslora else rank)

    def read(self, module: str) -> Factors:
        """Return the factors of ``module`` in float32, without its scale.

        Raises:
            OSError: the file cannot be read.
        """
        b, a = map(self._numbers, self._pairs[module])
        return Factors(b, a)

    def _numbers(self, tensor: Tensor) -> Floats:
        with self.weights.open("rb") as file:
            file.seek(self.header.data_start + tensor.begin)
            return decode(file.read(tensor.end - tensor.begin), tensor.dtype).reshape(tensor.shape)

    @cached_property
    def _pairs(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        pairs = {}
        for pair in LoraTensors.of(self.header).pairs:
            assert pair.b is not None  # the checks refuse half a pair
            assert pair.a is not None
            pairs[pair.module] = (pair.b, pair.a)
        return pairs


@dataclass(frozen=True)
class LinearSum:
    """The exact weighted sum of what LoRAs add to the weights: their factors side by side.

    Each of ``terms`` is a LoRA and its weight; a module need not be in all of them.
    """

    terms: Sequence[tuple[StoredLora, float]]

    @classmethod
    def open(cls, terms: Iterable[tuple[Path, float]]) -> Self:
        """Open the versions in the directories of ``terms``; OSError where a file cannot be read."""
        return cls([(StoredLora.open(directory), weight) for directory, weight in terms])

    @property
    def loras(self) -> Sequence[StoredLora]:
        return [lora for lora, _ in self.terms]

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Each adapted module's out_features and in_features."""
        return {module: (rows, columns) for lora, _ in self.terms for module, (rows, _, columns) in lora.shapes.items()}

    @property
    def rank(self) -> int:
        """The largest rank of any module: the sum over the terms that have it."""
        return sum(self.ranks)

    @cached_property
    def ranks(self) -> Sequence[int]:
        """The terms' ranks in the module where their sum is the largest."""
        each = ([lora.shapes[module][1] for lora, _ in self.terms if module in lora.shapes] for module in self.shapes)
        return max(each, key=sum)

    def read(self, module: str) -> Factors:
        """Return the factors of ``module`` with every weight and scale in them, in float32."""
        present = [(lora, weight) for lora, weight in self.terms if module in lora.shapes]
        parts = [(lora.read(module), np.float32(weight * lora.scale(module))) for lora, weight in present]
        with np.errstate(over="ignore"):  # the checks refuse infinities
            b = np.concatenate([factors.b * scale for factors, scale in parts], axis=1)
        return Factors(b, np.concatenate([factors.a for factors, _ in parts]))
