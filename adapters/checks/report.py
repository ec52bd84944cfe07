"""The report on an adapter that passed the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class InspectionReport:
    """Facts about an adapter that passed the checks, as callers of the API see them."""

    rank: int
    """The largest rank of any module: what the engine's slot must hold."""
    ranks: Mapping[int, int]
    """How many modules have each rank."""
    alphas: Mapping[float, int]
    """How many modules have each alpha."""
    use_rslora: bool
    """Scaling is alpha / sqrt(rank) instead of alpha / rank."""
    target_modules: tuple[str, ...]
    """Last parts of the modules' paths, sorted: ``q_proj``, ``v_proj``."""
    modules: int
    tensors: int
    dtypes: tuple[str, ...]
    size_bytes: int
    max_abs: float
    """The largest magnitude of any weight, before scaling."""
    base_model: str
    base_fingerprint: str
    declared_base: str | None
    """``base_model_name_or_path`` as the adapter's author wrote it; not trusted."""
    notes: tuple[str, ...]
    """Worth a look, no reason to refuse."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; the keys of ``ranks`` and ``alphas`` become text."""
        fields: dict[str, Any] = TypeAdapter(InspectionReport).dump_python(self, mode="json")
        for name in ("ranks", "alphas"):
            fields[name] = {f"{key:g}": count for key, count in getattr(self, name).items()}
        return fields
