"""What a LoRA adds to a weight, taken apart into its directions without ever being formed. float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from adapters.lora.stored_lora import Factors
from adapters.storage.number_formats import Floats

Doubles = np.ndarray[Any, np.dtype[np.float64]]

NOISE = 1e-7
"""A direction below this share of the largest is what rounding to float32 left behind."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular values of b·a, largest first, with their directions: ``left`` [out, n] and ``right`` [n, in]."""

    left: Doubles
    values: Doubles
    right: Doubles

    @classmethod
    def of(cls, b: Floats | Doubles, a: Floats | Doubles) -> Self:
        """Take the product of ``b`` [out, rank] and ``a`` [rank, in] apart."""
        outer_b, inner_b = np.linalg.qr(b.astype(np.float64))
        outer_a, inner_a = np.linalg.qr(a.astype(np.float64).T)
        left, values, right = np.linalg.svd(inner_b @ inner_a.T, full_matrices=False)
        return cls(outer_b @ left, values, right @ outer_a.T)

    @property
    def norm(self) -> float:
        """The Frobenius norm of b·a."""
        return self.tail(0)

    def tail(self, rank: int) -> float:
        """Return the Frobenius norm of what a cut at ``rank`` leaves out."""
        return float(np.linalg.norm(self.values[rank:]))

    def cut(self, rank: int) -> Factors:
        """Return the best factors of ``rank`` or less, their norms balanced."""
        root = np.sqrt(self.values[:rank])
        b, a = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        return Factors(b.astype(np.float32), a.astype(np.float32))

    def cleaned(self) -> Spectrum:
        """Return it without the directions that are but noise, such as the padding of a rank."""
        kept = int(np.count_nonzero(self.values > NOISE * self.values.max(initial=0.0)))
        return Spectrum(self.left[:, :kept], self.values[:kept], self.right[:kept])
