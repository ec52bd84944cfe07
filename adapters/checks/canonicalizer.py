"""From any LoRA that the door admits to its canonical form. No torch.

The engine multiplies B by a scale of alpha and rank, after it rounded both factors to its dtype. Here the scale goes
into B in float32, and both are rounded once: what is computed with them is the same, or nearer to what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, Admitted, admit, inspect
from adapters.checks.report import InspectionReport
from adapters.checks.weights import MAX_MAGNITUDE
from adapters.errors import AdapterRefused, Fault
from adapters.lora import canonical_form
from adapters.lora.canonical_config import targets_of
from adapters.lora.canonical_form import Form, config_bytes, header_bytes
from adapters.lora.compile_report import CompileReport
from adapters.lora.linear_sum import LinearSum
from adapters.lora.rounding import Rounding
from adapters.lora.stored_lora import Factors, StoredLora
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE

AS_IT_CAME: Final = "kept as it came, not in canonical form: it brings a copy of the base model's embeddings"


@dataclass(frozen=True, slots=True)
class Canonical:
    """What is served, and how it was made. ``made`` is None where the files are served as they came."""

    report: InspectionReport
    made: CompileReport | None


def canonicalize(directory: Path, out: Path, base: BaseModel, limits: AdapterLimits) -> Canonical:
    """Inspect the adapter in ``directory``, and write its canonical form into ``out`` if it is not in it already.

    An adapter with copies of the base's embeddings stays as it came: PEFT would read those, and the probe compares.
    Blocks.

    Raises:
        AdapterRefused: with every fault found.
        OSError: a file cannot be read or written.
    """
    admitted = admit(directory, base, limits)
    if admitted.frozen_copies:
        if admitted.respelt:
            raise AdapterRefused([_unread_copy(copy) for copy in sorted(admitted.frozen_copies)])
        report = admitted.report
        return Canonical(replace(report, notes=(*report.notes, AS_IT_CAME)), None)
    form = form_of(admitted.lora, base.modules, base.dtype)
    if _is_canonical(directory, form):
        return Canonical(admitted.report, None)
    rounding = write(admitted.lora, form, out, check=_check_magnitude)
    served = inspect(out, base, limits)
    return Canonical(_with_notes(served, admitted.report), _made(admitted, form, rounding))


def form_of(lora: StoredLora, modules: Iterable[str], dtype: str) -> Form:
    """Return the canonical form of ``lora`` on a base with ``modules``."""
    shapes = {module: (rows, columns) for module, (rows, _, columns) in lora.shapes.items()}
    return Form(
        shapes=shapes,
        rank=max(rank for _, rank, _ in lora.shapes.values()),
        dtype=dtype,
        targets=targets_of(shapes, modules),
        declared_base=lora.config.base_model_name_or_path,
    )


def write(lora: StoredLora, form: Form, out: Path, check: Callable[[str, Factors], None] | None = None) -> Rounding:
    """Write ``lora`` in its ``form`` into ``out``; ``check`` sees each module's factors before they are rounded."""
    scaled, rounding = LinearSum([(lora, 1.0)]), Rounding(form.dtype)

    def factors_of(module: str) -> Factors:
        factors = scaled.read(module)
        if check is not None:
            check(module, factors)
        return rounding.round(factors)

    canonical_form.write(out, form, factors_of)
    return rounding


def _is_canonical(directory: Path, form: Form) -> bool:
    """Whether the files are those of ``form``: its config says scale 1, its header dtype, rank, names and order."""
    if (directory / CONFIG_FILE).read_bytes() != config_bytes(form):
        return False
    header = header_bytes(form)
    with (directory / WEIGHTS_FILE).open("rb") as file:
        return file.read(len(header)) == header


def _check_magnitude(module: str, factors: Factors) -> None:
    largest = float(np.abs(factors.b).max())
    if not largest <= MAX_MAGNITUDE:
        where, found = f"{WEIGHTS_FILE}: {module}", f"a weight of magnitude {largest:.3g} with its scale"
        needed = f"at most {MAX_MAGNITUDE:g}, more would overflow in the engine: train again, this run diverged"
        raise AdapterRefused([Fault(where, found, needed)])


def _unread_copy(module: str) -> Fault:
    return Fault(
        f"{WEIGHTS_FILE}: {module}",
        "a copy of the base model's embedding, among names that PEFT does not give tensors",
        "no copy: save with save_embedding_layers=False",
    )


def _with_notes(served: InspectionReport, came: InspectionReport) -> InspectionReport:
    return replace(served, notes=tuple(dict.fromkeys((*came.notes, *served.notes))))


def _made(admitted: Admitted, form: Form, rounding: Rounding) -> CompileReport:
    lora = admitted.lora
    is_scaled = any(lora.scale(module) != 1 for module in lora.shapes)
    return CompileReport(
        kind="rslora" if lora.config.use_rslora else "lora",
        method="folded" if is_scaled else "as is",
        rank_before=admitted.report.rank,
        rank=form.rank,
        error=0.0,
        worst_error=0.0,
        worst_module=None,
        rounding=rounding.error,
        dropped=(),
        notes=tuple(_notes(admitted)),
    )


def _notes(admitted: Admitted) -> Iterator[str]:
    if admitted.respelt:
        yield f"{admitted.respelt} tensors had other names than PEFT gives them for {admitted.report.base_model}"
