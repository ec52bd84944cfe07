"""The weighted sum of LoRAs, exactly: their factors side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adapters.lora.stored_lora import Factors, StoredLora


@dataclass(frozen=True)
class LinearSum:
    """What ``terms``, each with its weight, add to the weights together. A module may be in some of them only."""

    terms: Sequence[tuple[StoredLora, float]]

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Each adapted module's out_features and in_features."""
        return {module: (rows, columns) for lora, _ in self.terms for module, (rows, _, columns) in lora.shapes.items()}

    @cached_property
    def rank(self) -> int:
        """The largest rank of any module: the sum over the terms that have it."""
        return max(map(sum, map(self._ranks, self.shapes)))

    @cached_property
    def ranks(self) -> Sequence[int]:
        """What ``rank`` is the sum of."""
        return max(map(self._ranks, self.shapes), key=sum)

    def read(self, module: str) -> Factors:
        """Return the factors of ``module`` with every weight and scale in them, in float32."""
        present = [(lora, weight) for lora, weight in self.terms if module in lora.shapes]
        parts = [(lora.read(module), np.float32(weight * lora.scale(module))) for lora, weight in present]
        with np.errstate(over="ignore"):  # the door refuses infinities
            b = np.concatenate([factors.b * scale for factors, scale in parts], axis=1)
        return Factors(b, np.concatenate([factors.a for factors, _ in parts]))

    def _ranks(self, module: str) -> Sequence[int]:
        return [lora.shapes[module][1] for lora, _ in self.terms if module in lora.shapes]
