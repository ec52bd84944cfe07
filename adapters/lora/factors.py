"""Low-rank factors of a change to a weight: taken apart, cut to a rank, rounded, and measured.

The change is B·A; it is never formed here, only products as small as the rank. All sums run in float64. Errors are
Frobenius norms relative to that of the change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from adapters.storage.number_formats import Numbers, rounded

Doubles = np.ndarray[Any, np.dtype[np.float64]]

NOISE = 1e-7
"""A direction below this share of the largest is what rounding to float32 left behind."""
NEGLIGIBLE = 1e-5
"""A direction that adds less than this to a module's relative error is the arithmetic's noise, and no rank."""


@dataclass(frozen=True, slots=True)
class Factors:
    """``b`` [out_features, rank] times ``a`` [rank, in_features] is what an adapter adds to a module's weight."""

    b: Numbers
    a: Numbers

    @property
    def rank(self) -> int:
        """The rows of ``a``, or columns of ``b``; the rank of their product may be lower."""
        return int(self.a.shape[0])

    @property
    def max_abs(self) -> float:
        """The largest magnitude in either factor."""
        return max(float(np.abs(self.a).max()), float(np.abs(self.b).max()))

    @property
    def squared_norm(self) -> float:
        """The squared Frobenius norm of b·a: tr((bᵀb)(aaᵀ))."""
        b, a = self.b.astype(np.float64), self.a.astype(np.float64)
        return max(0.0, float(np.sum((b.T @ b) * (a @ a.T))))

    def padded(self, rank: int) -> Factors:
        """The same change at a larger ``rank``; the new rows and columns are 0."""
        added = rank - self.rank
        if not added:
            return self
        return Factors(np.pad(self.b, ((0, 0), (0, added))), np.pad(self.a, ((0, added), (0, 0))))

    def rounded(self, dtype: str) -> Factors:
        return Factors(rounded(self.b, dtype), rounded(self.a, dtype))

    def minus(self, other: Factors) -> Factors:
        """The difference of both changes, in float64, as (b - b')·a + b'·(a - a').

        Both terms are small where the factors differ a little; b·a - b'·a' would drown in its own rounding.
        """
        rank = max(self.rank, other.rank)
        ours, theirs = self.padded(rank), other.padded(rank)
        b, a, b2, a2 = (each.astype(np.float64) for each in (ours.b, ours.a, theirs.b, theirs.a))
        return Factors(np.concatenate([b - b2, b2], axis=1), np.concatenate([a, a - a2]))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A change as its singular values, largest first, and the first n of its directions.

    ``left`` is [out_features, n], ``right`` [n, in_features].
    """

    left: Doubles
    values: Doubles
    right: Doubles

    @classmethod
    def of(cls, factors: Factors) -> Self:
        """Decompose the product of ``factors``, with all its directions."""
        outer_b, inner_b = np.linalg.qr(factors.b.astype(np.float64))
        outer_a, inner_a = np.linalg.qr(factors.a.astype(np.float64).T)
        left, values, right = np.linalg.svd(inner_b @ inner_a.T, full_matrices=False)
        return cls(outer_b @ left, values, right @ outer_a.T)

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change."""
        return self.tail(0)

    def tail(self, rank: int) -> float:
        """Return the Frobenius norm of what a cut at ``rank`` leaves out."""
        return float(np.linalg.norm(self.values[rank:]))

    def cut(self, rank: int) -> Factors:
        """Return the best factors of at most ``rank``, in float64, their norms balanced."""
        root = np.sqrt(self.values[:rank])
        return Factors(self.left[:, :rank] * root, root[:, None] * self.right[:rank])

    def cleaned(self) -> Spectrum:
        """Return the spectrum without directions that are noise, such as those that pad a rank."""
        kept = int(np.count_nonzero(self.values > NOISE * self.values.max(initial=0.0)))
        return Spectrum(self.left[:, :kept], self.values[:kept], self.right[:kept])


def rank_within(spectra: Collection[Spectrum], error: float) -> int:
    """Return the smallest rank, at least 1, at which a cut of all ``spectra`` together loses at most ``error``."""
    longest = max(len(spectrum.values) for spectrum in spectra)
    lost = np.zeros(longest)  # by the rank of the cut, squared
    for spectrum in spectra:
        lost[: len(spectrum.values)] += np.cumsum(spectrum.values[::-1] ** 2)[::-1]
    return max(1, int(np.count_nonzero(lost > error**2 * lost[0])))


def numerical_rank(spectra: Iterable[Spectrum]) -> int:
    """Return the smallest rank, at least 1, at which no spectrum loses more than ``NEGLIGIBLE``."""
    return max(rank_within([spectrum], NEGLIGIBLE) for spectrum in spectra)


@dataclass(slots=True)
class TruncationLoss:
    """What cutting the changes to many modules at ``rank`` loses, added up module by module."""

    rank: int
    worst_error: float = 0.0
    worst_module: str | None = None
    """The module with the largest error, and that error; None: nothing was lost."""
    _lost: float = 0.0
    _whole: float = 0.0

    @classmethod
    def of(cls, spectra: Iterable[tuple[str, Spectrum]], rank: int) -> Self:
        """Return the loss of a cut of all ``spectra``, each with its module, at ``rank``."""
        loss = cls(rank)
        for module, spectrum in spectra:
            loss.add(module, spectrum)
        return loss

    def add(self, module: str, spectrum: Spectrum) -> None:
        lost, whole = spectrum.tail(self.rank), spectrum.norm
        self._lost += lost**2
        self._whole += whole**2
        if whole and lost / whole > self.worst_error:
            self.worst_error, self.worst_module = lost / whole, module

    @property
    def error(self) -> float:
        """The error of all modules together."""
        return math.sqrt(self._lost / self._whole) if self._whole else 0.0

    def __str__(self) -> str:
        worst = f" (worst: {percentage(self.worst_error)} of {self.worst_module})" if self.worst_module else ""
        return f"{percentage(self.error)}{worst}"

    def to_json(self) -> dict[str, Any]:
        worst = {"worst_error": self.worst_error, "worst_module": self.worst_module}
        return {"rank": self.rank, "error": self.error, **worst}


def percentage(error: float) -> str:
    return f"{error * 100:.3g} %"
