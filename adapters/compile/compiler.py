"""From an adapter of any kind to the canonical one, or to the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.checks.weights import MAX_MAGNITUDE
from adapters.compile import canonical
from adapters.compile.base_weights import BaseWeights
from adapters.compile.factors import (
    EXACT_ERROR,
    MAX_ERROR,
    Cut,
    Factors,
    Spectrum,
    measure,
    numerical_rank,
    rank_within,
    spectrum_of,
    spectrum_of_product,
)
from adapters.compile.lora import Lora
from adapters.compile.source import CompileSource
from adapters.compile.tensor_file import DTYPES
from adapters.errors import AdapterRefused, Fault
from adapters.lora.compile_report import CompileReport
from adapters.lora.first_adapter import LOFTQ
from adapters.lora.ranks import fitting_rank
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE


@dataclass(frozen=True, slots=True)
class CompileBounds:
    """``max_rank``: what the engine holds. ``compress_to``: a rank up to it to cut at, whatever is lost."""

    max_rank: int
    compress_to: int | None = None

    @property
    def rank(self) -> int:
        """The largest rank that may come out."""
        return self.max_rank if self.compress_to is None else self.compress_to


@dataclass(frozen=True, slots=True)
class _Made:
    """Factors of one rank, and how they came to be."""

    kind: str
    method: str
    rank_before: int | None
    factors: Sequence[Factors]
    cut: Cut


def compile_directory(directory: Path, out: Path, base: BaseWeights, bounds: CompileBounds) -> CompileReport:
    """Write the canonical form of the adapter in ``directory`` to ``out`` and report on it.

    The kinds are those of ``kinds.CHANGES``, and LoRA.

    Raises:
        AdapterRefused: with every fault found; ``out`` is untouched.
        OSError: a file cannot be read or written.
    """
    source = CompileSource.read(directory, base)
    made = _from_lora(source, directory, base, bounds) if source.kind == "LORA" else _from_other(source, base, bounds)
    rounded = [factors.rounded(DTYPES[base.model.dtype]) for factors in made.factors]
    _check_magnitudes(rounded)
    declared = source.config.get("base_model_name_or_path")
    declared = declared if isinstance(declared, str) else None
    canonical.write(out, rounded, made.cut.rank, base.model.dtype, base.model.modules, declared)
    return CompileReport(
        kind=made.kind,
        method=made.method,
        rank_before=made.rank_before,
        rank=made.cut.rank,
        error=made.cut.error,
        worst_error=made.cut.worst_error,
        worst_module=made.cut.worst_module,
        rounding=_rounding(made.factors, rounded),
        dropped=source.dropped,
        notes=tuple(_notes(source, base.model)),
    )


def _from_lora(source: CompileSource, directory: Path, base: BaseWeights, bounds: CompileBounds) -> _Made:
    lora = Lora.of(source, base.model)
    if lora.config.use_dora:
        return _cut(_spectra(source, lora, base, bounds), lora.kind, lora.rank, bounds)
    if lora.is_loftq:
        from adapters.compile import loftq  # bitsandbytes takes seconds to import: others go without

        changes = loftq.changes(lora, lora.first(directory, base), base)
        spectra = [spectrum_of(module, change, bounds.rank) for module, change in changes]
        return _cut(spectra, lora.kind, lora.rank, bounds)
    learnt = lora.learnt(directory, base)
    rank = max(factors.rank for factors in learnt)
    if rank > bounds.rank:
        return _cut([spectrum_of_product(factors) for factors in learnt], lora.kind, lora.rank, bounds, over=rank)
    is_folded = lora.is_scaled or rank != lora.rank
    whole = Cut(rank, 0.0, 0.0, learnt[0].module)
    padded = [factors.padded(rank) for factors in learnt]
    return _Made(lora.kind, "folded" if is_folded else "as is", lora.rank, padded, whole)


def _from_other(source: CompileSource, base: BaseWeights, bounds: CompileBounds) -> _Made:
    rank = source.config.get("r")
    spectra = _spectra(source, None, base, bounds)
    return _cut(spectra, source.kind.lower(), rank if isinstance(rank, int) else None, bounds)


def _spectra(source: CompileSource, dora: Lora | None, base: BaseWeights, bounds: CompileBounds) -> list[Spectrum]:
    from adapters.compile import peft_configs, skeleton  # PEFT takes ten seconds to import: a plain LoRA goes without

    if dora is None:
        config = peft_configs.config_of(source.kind, source.config)
    else:
        config = peft_configs.dora_config_of(dora.config, [pair.module for pair in dora.pairs])
    return [spectrum_of(module, change, bounds.rank) for module, change in skeleton.changes(source, config, base)]


def _cut(
    spectra: Sequence[Spectrum], kind: str, rank_before: int | None, bounds: CompileBounds, *, over: int | None = None
) -> _Made:
    """Cut at the smallest rank that loses nothing, or at the bound. ``over``: the rank of a LoRA above the bound."""
    cut = measure(spectra, min(numerical_rank(spectra), bounds.rank))
    # A LoRA's author chose its rank, and can train at another: only what is lost to no one is cut unasked.
    if bounds.compress_to is None and cut.error > (MAX_ERROR if over is None else EXACT_ERROR):
        raise AdapterRefused([_loss(cut, kind, spectra) if over is None else _over(cut, over, bounds)])
    method = "exact" if cut.error <= EXACT_ERROR else "svd"
    return _Made(kind, method, rank_before, [spectrum.cut(cut.rank).padded(cut.rank) for spectrum in spectra], cut)


def _over(cut: Cut, rank: int, bounds: CompileBounds) -> Fault:
    return Fault(
        f"{CONFIG_FILE}: r",
        f"rank {rank}",
        f"at most {bounds.max_rank}: {_server_flag(rank)}compress it with --compress-to {cut.rank}, which changes its "
        f"effect on the weights by {_percent(cut.error)} (worst: {_percent(cut.worst_error)} of {cut.worst_module})",
    )


def _loss(cut: Cut, kind: str, spectra: Sequence[Spectrum]) -> Fault:
    enough = rank_within(spectra, MAX_ERROR)
    otherwise = "QLoRA with init_lora_weights=true" if kind == LOFTQ else "a LoRA"
    return Fault(
        "adapter",
        f"{kind}, whose change to the weights loses {_percent(cut.error)} at rank {cut.rank} "
        f"(worst: {_percent(cut.worst_error)} of {cut.worst_module})",
        f"a loss of at most {_percent(MAX_ERROR)}, for which rank {enough} is enough: {_server_flag(enough)}take the "
        f"loss with --compress-to {cut.rank}, or train {otherwise}",
    )


def _server_flag(rank: int) -> str:
    fitting = fitting_rank(rank)
    return f"start the server with --max-lora-rank {fitting}, " if fitting is not None else ""


def _percent(error: float) -> str:
    return f"{error * 100:.3g} %"


def _check_magnitudes(made: Sequence[Factors]) -> None:
    for factors in made:
        largest = max(float(tensor.abs().max()) for tensor in (factors.a, factors.b))
        if not largest <= MAX_MAGNITUDE:
            needed = f"at most {MAX_MAGNITUDE:g}, more would overflow in the engine: train again, this run diverged"
            where = f"{WEIGHTS_FILE}: {factors.module}"
            raise AdapterRefused([Fault(where, f"a weight of magnitude {largest:.3g} with its scale", needed)])


def _rounding(made: Sequence[Factors], rounded: Sequence[Factors]) -> float:
    meant = sum(factors.norm() ** 2 for factors in made) ** 0.5
    lost = 0.0
    for factors, stored in zip(made, rounded, strict=True):
        # b·a - b'·a' as two small terms: subtracting the products would drown in their own rounding
        of_b = Factors(factors.module, factors.b.double() - stored.b.double(), factors.a.double())
        of_a = Factors(factors.module, stored.b.double(), stored.a.double() - factors.a.double())
        lost += of_b.minus(of_a).norm() ** 2
    return float(lost**0.5 / meant) if meant else 0.0


def _notes(source: CompileSource, base: BaseModel) -> list[str]:
    respelt = source.named.respelt
    notes = [f"{respelt} tensors had other names than PEFT gives them for {base.name}"] if respelt else []
    if source.dropped:
        notes.append("copies of the base model's own weights were left out")
    return notes
