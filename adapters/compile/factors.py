"""Low-rank factors of a change to a weight: made, cut to a rank, measured. All numbers in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-5
"""A direction that adds less than this to a module's relative error is the arithmetic's noise, and no rank."""
EXACT_ERROR = 1e-3
"""Up to this relative error a factorisation counts as exact: rounding factors to bfloat16 costs about twice that."""
MAX_ERROR = 0.02
"""Up to this relative error a factorisation is taken unasked."""
_OVERSAMPLED = 8
_POWER_ITERATIONS = 2


@dataclass(frozen=True, slots=True)
class Factors:
    """``b`` [out_features, rank] times ``a`` [rank, in_features] is what an adapter adds to ``module``'s weight."""

    module: str
    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """The columns of ``b``, or rows of ``a``; what they span may be less."""
        return int(self.a.shape[0])

    def padded(self, rank: int) -> Factors:
        """The same change at a larger rank; the new rows and columns are 0."""
        more = rank - self.rank
        return Factors(
            self.module,
            torch.nn.functional.pad(self.b, (0, more)),
            torch.nn.functional.pad(self.a, (0, 0, 0, more)),
        )

    def rounded(self, dtype: torch.dtype) -> Factors:
        """The factors as they are stored in ``dtype``."""
        return Factors(self.module, self.b.to(dtype).contiguous(), self.a.to(dtype).contiguous())

    def norm(self) -> float:
        """The Frobenius norm of b·a, without forming it."""
        gram = (self.b.double().T @ self.b.double()) * (self.a.double() @ self.a.double().T)
        return float(gram.sum().clamp(min=0).sqrt())

    def minus(self, other: Factors) -> Factors:
        """The difference, at the sum of both ranks."""
        b = torch.cat([self.b.double(), -other.b.double()], dim=1)
        return Factors(self.module, b, torch.cat([self.a.double(), other.a.double()]))


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A change as its singular vectors up to some rank, and all its singular values, largest first."""

    module: str
    left: Tensor
    values: Tensor
    right: Tensor

    def tail(self, rank: int) -> float:
        """The Frobenius norm of what a cut at ``rank`` leaves out."""
        return float(torch.linalg.vector_norm(self.values[rank:]))

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change."""
        return self.tail(0)

    def cut(self, rank: int) -> Factors:
        """The best factors of that rank, which must not be above the one asked for when this was made."""
        root = self.values[:rank].sqrt()
        return Factors(self.module, self.left[:, :rank] * root, root[:, None] * self.right[:rank])


def spectrum_of(module: str, change: Tensor, rank: int) -> Spectrum:
    """Take the dense ``change`` [out_features, in_features] apart; keep vectors up to ``rank``."""
    basis = _range_of(change, rank + _OVERSAMPLED)
    inside = basis.T @ change
    # Most kinds are of low rank by construction: then a look at that many directions is all, and cheap.
    if float(torch.linalg.norm(change - basis @ inside)) <= NEGLIGIBLE * 0.1 * float(torch.linalg.norm(change)):
        left, values, right = torch.linalg.svd(inside, full_matrices=False)
        return Spectrum(module, (basis @ left)[:, :rank].clone(), values, right[:rank].clone())
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    return Spectrum(module, left[:, :rank].clone(), values, right[:rank].clone())


def spectrum_of_product(factors: Factors) -> Spectrum:
    """Take the product of ``factors`` apart without forming it."""
    outer_b, inner_b = torch.linalg.qr(factors.b.double())
    outer_a, inner_a = torch.linalg.qr(factors.a.double().T)
    left, values, right = torch.linalg.svd(inner_b @ inner_a.T, full_matrices=False)
    return Spectrum(factors.module, outer_b @ left, values, right @ outer_a.T)


def _range_of(change: Tensor, size: int) -> Tensor:
    """An orthonormal basis of the ``size`` strongest directions, roughly (Halko, Martinsson, Tropp 2011)."""
    generator = torch.Generator().manual_seed(0)  # equal adapters must become equal bytes
    size = min(size, *change.shape)
    probe = torch.randn(change.shape[1], size, generator=generator, dtype=change.dtype)
    basis: Tensor = torch.linalg.qr(change @ probe).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis).Q).Q
    return basis


@dataclass(frozen=True, slots=True)
class Cut:
    """What is lost when all of an adapter's changes are cut at one rank."""

    rank: int
    error: float
    worst_error: float
    worst_module: str


def measure(spectra: Sequence[Spectrum], rank: int) -> Cut:
    """The relative error of a cut at ``rank``, of all modules together and of the worst."""
    total = sum(spectrum.norm**2 for spectrum in spectra) ** 0.5
    lost = sum(spectrum.tail(rank) ** 2 for spectrum in spectra) ** 0.5
    worst = max(spectra, key=lambda spectrum: _relative(spectrum.tail(rank), spectrum.norm))
    return Cut(rank, _relative(lost, total), _relative(worst.tail(rank), worst.norm), worst.module)


def rank_within(spectra: Sequence[Spectrum], error: float) -> int:
    """The smallest rank, 1 or more, at which all modules together lose at most ``error``."""
    high = max(len(spectrum.values) for spectrum in spectra)
    low = 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(spectra, middle).error <= error else (middle + 1, high)
    return low


def numerical_rank(spectra: Sequence[Spectrum]) -> int:
    """The smallest rank, 1 or more, at which no module loses more than ``NEGLIGIBLE``."""
    rank = 1
    for spectrum in spectra:
        while rank < len(spectrum.values) and spectrum.tail(rank) > NEGLIGIBLE * spectrum.norm:
            rank += 1
    return rank


def _relative(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
