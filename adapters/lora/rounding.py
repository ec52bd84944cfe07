"""What it costs to store numbers in a dtype."""

from __future__ import annotations

import math

import numpy as np

from adapters.lora.spectrum import Doubles
from adapters.lora.stored_lora import Factors
from adapters.storage.number_formats import rounded


class Rounding:
    """Rounds factors to ``dtype``, and adds up how far their products move."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._moved = 0.0
        self._whole = 0.0

    def round(self, made: Factors) -> Factors:
        """Return ``made`` as it will be stored."""
        stored = Factors(rounded(made.b, self.dtype), rounded(made.a, self.dtype))
        b, a, b2, a2 = (each.astype(np.float64) for each in (made.b, made.a, stored.b, stored.a))
        # b·a - b'·a' as two small terms: subtracting the products would drown in their own rounding
        self._moved += _squared(np.concatenate([b - b2, b2], axis=1), np.concatenate([a, a - a2]))
        self._whole += _squared(b, a)
        return stored

    @property
    def error(self) -> float:
        """The Frobenius norm of how far all products moved, relative to their own."""
        return math.sqrt(self._moved / self._whole) if self._whole > 0 else 0.0


def _squared(b: Doubles, a: Doubles) -> float:
    """Return the squared Frobenius norm of b·a without forming it: tr((bᵀb)(aaᵀ))."""
    return max(0.0, float(np.sum((b.T @ b) * (a @ a.T))))
