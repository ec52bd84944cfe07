"""Torch's factors in the canonical form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adapters.compile.factors import Factors
from adapters.lora import canonical_form, stored_lora
from adapters.lora.canonical_config import targets_of
from adapters.lora.canonical_form import Form


def write(
    directory: Path,
    made: Sequence[Factors],
    rank: int,
    dtype: str,
    modules: Iterable[str],
    declared_base: str | None,
) -> None:
    """Write the two files. Equal factors become equal bytes.

    ``made`` has numbers that ``dtype`` holds, and at most ``rank``; ``modules`` is all that may carry a LoRA in the
    base.
    """
    by_module = {factors.module: factors for factors in made}
    form = Form(
        shapes={module: (factors.b.shape[0], factors.a.shape[1]) for module, factors in by_module.items()},
        rank=rank,
        dtype=dtype,
        targets=targets_of(by_module, modules),
        declared_base=declared_base,
    )

    def numbers_of(module: str) -> stored_lora.Factors:
        factors = by_module[module]
        return stored_lora.Factors(b=factors.b.float().numpy(), a=factors.a.float().numpy())

    canonical_form.write(directory, form, numbers_of)
