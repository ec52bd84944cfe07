"""Writes the canonical form of any LoRA that passes the checks. No torch.

The engine multiplies B by a scale of alpha and rank, after it rounded both factors to its dtype. Here the scale goes
into B in float32, and both are rounded once: what is computed with them is the same, or nearer to what was trained.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, InspectionReport, inspect_adapter
from adapters.checks.weights import check_magnitude
from adapters.errors import AdapterRefused, Fault
from adapters.lora.canonical_form import CanonicalForm, CompileReport, write
from adapters.lora.config_fields import shown
from adapters.lora.factors import Factors
from adapters.lora.stored_lora import LinearSum
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE

NOT_CANONICAL: Final = "kept as it came, not in canonical form: it brings a copy of the base model's embeddings"


@dataclass(frozen=True, slots=True)
class Canonical:
    """The report on the adapter that is served, and on its conversion: None where its files stay as uploaded."""

    report: InspectionReport
    compiled: CompileReport | None


def canonicalize(directory: Path, out: Path, base: BaseModel, limits: AdapterLimits) -> Canonical:
    """Inspect the adapter in ``directory``, and write its canonical form into ``out`` unless it has that form already.

    An adapter with copies of the base's embeddings stays as uploaded: PEFT would read those, and the probe compares.
    Blocks.

    Raises:
        AdapterRefused: with every fault found.
        OSError: a file cannot be read or written.
    """
    inspected = inspect_adapter(directory, base, limits)
    if inspected.embedding_copies:
        if inspected.rename_notes:
            found = "a copy of the base model's embedding, among names that PEFT does not give tensors"
            needed = "no copy: save with save_embedding_layers=False"
            copies = sorted(inspected.embedding_copies)
            raise AdapterRefused([Fault(f"{WEIGHTS_FILE}: {module}", found, needed) for module in copies])
        if intricate := inspected.lora.config.intricate_patterns:
            needed = "plain module names: the engine itself matches the patterns of files with such a copy"
            raise AdapterRefused([Fault(f"{CONFIG_FILE}: rank_pattern", shown(intricate[0]), needed)])
        if (directory / CONFIG_FILE).read_bytes().startswith(codecs.BOM_UTF8):
            needed = "UTF-8 without one: the engine itself reads the config of files with such a copy"
            raise AdapterRefused([Fault(CONFIG_FILE, "a byte order mark", needed)])
        report = inspected.report
        return Canonical(replace(report, notes=(*report.notes, NOT_CANONICAL)), None)
    form = CanonicalForm.of(inspected.lora, base.modules, base.dtype)
    if _is_canonical(directory, form):
        return Canonical(inspected.report, None)
    scaled = LinearSum([(inspected.lora, 1.0)])

    def checked(module: str) -> Factors:
        factors = scaled.read(module)
        check_magnitude(module, factors)
        return factors

    rounding = write(out, form, checked)
    served = inspect_adapter(out, base, limits).report
    notes = tuple(dict.fromkeys((*inspected.report.notes, *served.notes)))
    compiled = CompileReport(
        kind="rslora" if inspected.lora.config.use_rslora else "lora",
        method="folded" if inspected.lora.is_scaled else "as is",
        rank_before=inspected.report.rank,
        rank=form.rank,
        rounding=rounding,
        notes=inspected.rename_notes,
    )
    return Canonical(replace(served, notes=notes), compiled)


def _is_canonical(directory: Path, form: CanonicalForm) -> bool:
    """Whether the files are those of ``form``: its config says scale 1, its header dtype, rank, names and order."""
    if (directory / CONFIG_FILE).read_bytes() != form.config:
        return False
    header = form.header
    with (directory / WEIGHTS_FILE).open("rb") as file:
        return file.read(len(header)) == header
