"""A stored LoRA as numbers, read one module at a time. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from adapters.lora.lora_tensors import LoraTensors, Pair
from adapters.lora.peft_config import PeftConfig
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import Floats, decode
from adapters.storage.safetensors_header import Header, Tensor, read_header


@dataclass(frozen=True, slots=True)
class Factors:
    """``b`` [out_features, rank] times ``a`` [rank, in_features] is what is added to a module's weight."""

    b: Floats
    a: Floats


@dataclass(frozen=True)
class StoredLora:
    """The two files of a version, which passed the door: plain LoRA, whole, every number finite."""

    weights: Path
    config: PeftConfig
    header: Header

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the config and the header of the version in ``directory``; OSError where that cannot be done."""
        config = PeftConfig.parse((directory / CONFIG_FILE).read_bytes())
        return cls(directory / WEIGHTS_FILE, config, read_header(directory / WEIGHTS_FILE))

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """Each adapted module's out_features, rank and in_features."""
        return {module: (*_b(pair).shape, _a(pair).shape[1]) for module, pair in self._pairs.items()}  # type: ignore[misc]

    def scale(self, module: str) -> float:
        """Return what the product of the factors of ``module`` is multiplied with."""
        rank = self.config.rank_of(module)
        return self.config.alpha_of(module) / (math.sqrt(rank) if self.config.use_rslora else rank)

    def read(self, module: str) -> Factors:
        """Return the factors of ``module`` as stored, without its scale; OSError where the file cannot be read."""
        pair = self._pairs[module]
        return Factors(b=self._numbers(_b(pair)), a=self._numbers(_a(pair)))

    def _numbers(self, tensor: Tensor) -> Floats:
        with self.weights.open("rb") as file:
            file.seek(self.header.data_start + tensor.begin)
            return decode(file.read(tensor.end - tensor.begin), tensor.dtype).reshape(tensor.shape)

    @cached_property
    def _pairs(self) -> Mapping[str, Pair]:
        return {pair.module: pair for pair in LoraTensors.of(self.header).pairs}


def _a(pair: Pair) -> Tensor:
    assert pair.a is not None  # the door lets no half pair in
    return pair.a


def _b(pair: Pair) -> Tensor:
    assert pair.b is not None
    return pair.b
