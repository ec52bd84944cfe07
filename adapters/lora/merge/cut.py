"""What is lost when the changes to many modules are cut at one rank. Errors are relative Frobenius norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from adapters.lora.spectrum import Spectrum


@dataclass(slots=True)
class TruncationLoss:
    """Adds up what a cut at ``rank`` loses, module by module."""

    rank: int
    worst_error: float = 0.0
    worst_module: str | None = None
    """The module with the largest error, and that error; None: nothing was lost."""
    _lost: float = 0.0
    _whole: float = 0.0

    def add(self, module: str, spectrum: Spectrum) -> None:
        """Take in the loss of ``module``."""
        lost, whole = spectrum.tail(self.rank), spectrum.norm
        self._lost += lost**2
        self._whole += whole**2
        if whole and lost / whole > self.worst_error:
            self.worst_error, self.worst_module = lost / whole, module

    @property
    def error(self) -> float:
        """The error of all modules together."""
        return math.sqrt(self._lost / self._whole) if self._whole else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        worst = {"worst_error": self.worst_error, "worst_module": self.worst_module}
        return {"rank": self.rank, "error": self.error, **worst}
