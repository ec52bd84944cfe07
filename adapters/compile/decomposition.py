"""Decomposes dense changes to weights: the one part of LoRA's algebra that needs torch's speed."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.lora.factors import NEGLIGIBLE, Spectrum

_OVERSAMPLED = 8
_POWER_ITERATIONS = 2


def spectrum_of(change: Tensor, rank: int) -> Spectrum:
    """Decompose the dense ``change`` [out_features, in_features], in float64; directions are kept up to ``rank``."""
    basis = _range_of(change, rank + _OVERSAMPLED)
    inside = basis.T @ change
    # Most kinds are of low rank by construction: then so many directions are all, and cheap.
    if float(torch.linalg.norm(change - basis @ inside)) <= NEGLIGIBLE * 0.1 * float(torch.linalg.norm(change)):
        left, values, right = torch.linalg.svd(inside, full_matrices=False)
        left = basis @ left
    else:
        left, values, right = torch.linalg.svd(change, full_matrices=False)
    # clones: a view would keep the whole matrix in memory
    return Spectrum(left[:, :rank].clone().numpy(), values.numpy(), right[:rank].clone().numpy())


def _range_of(change: Tensor, size: int) -> Tensor:
    """Return an orthonormal basis of roughly the ``size`` strongest directions (Halko, Martinsson, Tropp 2011)."""
    generator = torch.Generator().manual_seed(0)  # equal adapters must become equal bytes
    size = min(size, *change.shape)
    probe = torch.randn(change.shape[1], size, generator=generator, dtype=change.dtype)
    basis: Tensor = torch.linalg.qr(change @ probe).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis).Q).Q
    return basis
