"""A large change is taken apart by its strongest directions alone, and what they leave out is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.compile import spectra
from adapters.compile.spectra import leading_spectrum
from adapters.lora.factors import rank_within

RANK = 12


@pytest.fixture
def change() -> torch.Tensor:
    """Of full rank; its singular values fall slowly, as those of a full fine-tuning do."""
    left, right = (torch.linalg.qr(torch.randn(n, 96, dtype=torch.float64)).Q for n in (128, 96))
    return left * torch.linspace(1, 96, 96, dtype=torch.float64) ** -0.7 @ right.T


def test_the_strongest_directions_are_nearly_those_of_a_full_decomposition(
    change: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = leading_spectrum(change, RANK)
    assert len(exact.values) == 96
    monkeypatch.setattr(spectra, "EXACT_SIDE", 16)
    leading = leading_spectrum(change, RANK)
    assert len(leading.values) == RANK + 1
    assert leading.norm == pytest.approx(exact.norm)
    for rank in (1, 4, RANK):
        assert exact.tail(rank) <= leading.tail(rank) * (1 + 1e-9)
        assert leading.tail(rank) == pytest.approx(exact.tail(rank), rel=0.01)
        factors = leading.cut(rank)
        assert np.linalg.norm(change.numpy() - factors.b @ factors.a) == pytest.approx(leading.tail(rank))
    assert rank_within([leading], leading.tail(4) / leading.norm + 1e-9) == 4
    assert rank_within([leading], 0.001) > RANK


def test_equal_changes_have_equal_spectra(change: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "EXACT_SIDE", 16)
    first, second = (leading_spectrum(change.clone(), RANK) for _ in range(2))
    assert np.array_equal(first.left, second.left)
    assert np.array_equal(first.values, second.values)
