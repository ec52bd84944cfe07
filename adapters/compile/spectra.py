"""Dense changes to weights, taken apart by singular value decomposition, in float64."""

from typing import Final

import torch
from torch import Tensor

from adapters.lora.factors import NEGLIGIBLE, Spectrum

EXACT_SIDE: Final = 1024
"""Up to this smaller side a full decomposition takes about a second on a CPU; of 4096 it takes minutes."""
_OVERSAMPLED: Final = 8
_POWER_ITERATIONS: Final = 2


def spectrum_of(change: Tensor, rank: int) -> Spectrum:
    """Decompose the dense ``change`` [out_features, in_features]; directions are kept up to ``rank``."""
    basis = _range_of(change, rank + _OVERSAMPLED)
    inside = basis.T @ change
    # Most kinds are of low rank by construction: then so many directions are all, and cheap.
    if float(torch.linalg.norm(change - basis @ inside)) <= NEGLIGIBLE * 0.1 * float(torch.linalg.norm(change)):
        left, values, right = torch.linalg.svd(inside, full_matrices=False)
        left = basis @ left
    else:
        left, values, right = torch.linalg.svd(change, full_matrices=False)
    return _kept(left, values, right, rank)


def leading_spectrum(change: Tensor, rank: int) -> Spectrum:
    """Decompose a ``change`` of full rank, of a large one only the ``rank`` strongest directions.

    What those leave out is then one last value, so that norms and tails up to ``rank`` are right.
    """
    if min(change.shape) <= max(EXACT_SIDE, rank + _OVERSAMPLED):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        return _kept(left, values, right, rank)
    basis = _range_of(change, rank + _OVERSAMPLED)
    left, values, right = torch.linalg.svd(basis.T @ change, full_matrices=False)
    rest = change.square().sum() - values[:rank].square().sum()
    return _kept(basis @ left, torch.cat([values[:rank], rest.clamp(min=0).sqrt()[None]]), right, rank)


def _kept(left: Tensor, values: Tensor, right: Tensor, rank: int) -> Spectrum:
    # clones: a view would keep the whole matrix in memory
    return Spectrum(left[:, :rank].clone().cpu().numpy(), values.cpu().numpy(), right[:rank].clone().cpu().numpy())


def _range_of(change: Tensor, size: int) -> Tensor:
    """Return an orthonormal basis of roughly the ``size`` strongest directions (Halko, Martinsson, Tropp 2011)."""
    generator = torch.Generator().manual_seed(0)  # equal adapters must become equal bytes
    size = min(size, *change.shape)
    probe = torch.randn(change.shape[1], size, generator=generator, dtype=change.dtype).to(change.device)
    basis: Tensor = torch.linalg.qr(change @ probe).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis).Q).Q
    return basis
