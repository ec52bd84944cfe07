"""The report on how an adapter was brought into canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class CompileReport:
    """How an adapter became plain LoRA. Errors are Frobenius norms: |result - original| / |original|."""

    kind: str
    """``lora``, ``rslora``, ``dora``, ``pissa``, ... or PEFT's name of another type in lower case."""
    method: str
    """``as is``: only names, dtype and padding may differ; ``folded``: the scale, or the initial adapter, went into
    the factors; ``exact``: factored, the error is at most ``compiler.EXACT_ERROR``; ``svd``: factored with a loss."""
    rank_before: int | None
    """The largest rank that the adapter had; None where its kind has none."""
    rank: int
    error: float
    """Of the change to all modules together, before rounding."""
    worst_error: float
    worst_module: str | None
    """The module with the largest error, and that error; None where nothing can have been lost."""
    rounding: float
    """What storing in the base's dtype adds: relative error of the stored factors' product."""
    dropped: tuple[str, ...]
    """Tensors that equal the base's own and were left out."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"dropped": list(self.dropped), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The report that ``to_json`` wrote; TypeError or KeyError for anything else."""
        return cls(**{**fields, "dropped": tuple(fields["dropped"]), "notes": tuple(fields["notes"])})
