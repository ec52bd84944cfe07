"""Compiles an adapter of any kind to the canonical form, or refuses it with the reason."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.checks.weights import check_magnitude
from adapters.compile.lora import UploadedLora
from adapters.compile.source import CompileSource
from adapters.compile.spectra import spectrum_of
from adapters.compile.weights import BaseWeights
from adapters.errors import AdapterRefused, Fault
from adapters.lora.canonical_form import CanonicalForm, CompileReport, write
from adapters.lora.config_fields import LORA, ignored_fields, ignored_note
from adapters.lora.factors import Factors, Spectrum, TruncationLoss, numerical_rank, percentage, rank_within
from adapters.lora.initial_adapter import LOFTQ
from adapters.lora.peft_config import PeftConfig
from adapters.lora.ranks import rank_fault, server_option
from adapters.storage.manifest import CONFIG_FILE

EXACT_ERROR = 1e-3
"""Up to this relative error a factorisation counts as exact: rounding factors to bfloat16 costs about twice that."""
MAX_ERROR = 0.02
"""Up to this relative error a factorisation is taken without --compress-to."""
COPIES_DROPPED: Final = "copies of the base model's own weights were left out"


@dataclass(frozen=True, slots=True)
class CompileBounds:
    """``max_rank``: the engine's largest. ``compress_to``: a rank up to it to cut at, whatever is lost."""

    max_rank: int
    compress_to: int | None = None

    @property
    def rank(self) -> int:
        """The largest rank of the result."""
        return self.max_rank if self.compress_to is None else self.compress_to


@dataclass(frozen=True, slots=True)
class _Factored:
    """Factors by module, and how they were made."""

    kind: str
    method: str
    rank_before: int | None
    factors: Mapping[str, Factors]
    loss: TruncationLoss


def compile_directory(directory: Path, out: Path, base: BaseWeights, bounds: CompileBounds) -> CompileReport:
    """Write the canonical form of the adapter in ``directory`` to ``out`` and report on it.

    The kinds are those of ``kinds.CHANGES``, and LoRA.

    Raises:
        AdapterRefused: with every fault found; ``out`` is untouched.
        OSError: a file cannot be read or written.
    """
    source = CompileSource.read(directory, base)
    made = _from_lora(source, directory, base, bounds) if source.kind == "LORA" else _from_other(source, base, bounds)
    for module, factors in made.factors.items():
        check_magnitude(module, factors)
    shapes = {module: (factors.b.shape[0], factors.a.shape[1]) for module, factors in made.factors.items()}
    declared = source.config.get("base_model_name_or_path")
    declared = declared if isinstance(declared, str) else None
    form = CanonicalForm(shapes, made.loss.rank, base.model.dtype, base.model.modules, declared)
    return CompileReport(
        kind=made.kind,
        method=made.method,
        rank_before=made.rank_before,
        **made.loss.to_json(),
        rounding=write(out, form, made.factors.__getitem__),
        dropped=source.dropped,
        notes=(
            *source.normalized.notes(base.model.name),
            *([COPIES_DROPPED] if source.dropped else []),
            *ignored_note(ignored_fields(source.config, _known_fields(source.kind))),
        ),
    )


def _known_fields(kind: str) -> Container[str]:
    if kind == LORA:
        return PeftConfig.model_fields
    from adapters.compile import peft_configs  # PEFT takes seconds to import

    return peft_configs.known_fields(kind)


def _from_lora(source: CompileSource, directory: Path, base: BaseWeights, bounds: CompileBounds) -> _Factored:
    lora = UploadedLora.of(source, base.model)
    rank_before = lora.rank
    if lora.config.use_dora:
        return _cut(_spectra(source, lora, base, bounds), lora.kind, rank_before, bounds)
    if lora.init == LOFTQ:
        from adapters.compile import loftq  # bitsandbytes takes seconds to import: others go without

        changes = loftq.changes(lora, lora.initial(directory, base), base)
        spectra = {module: spectrum_of(change, bounds.rank) for module, change in changes}
        return _cut(spectra, lora.kind, rank_before, bounds)
    learnt = lora.trained_change(directory, base)
    factors = {module: learnt.read(module) for module in learnt.shapes}
    if learnt.rank > bounds.rank:
        spectra = {module: Spectrum.of(whole) for module, whole in factors.items()}
        return _cut(spectra, lora.kind, rank_before, bounds, over=learnt.rank)
    is_folded = lora.is_scaled or learnt.rank != rank_before
    return _Factored(lora.kind, "folded" if is_folded else "as is", rank_before, factors, TruncationLoss(learnt.rank))


def _from_other(source: CompileSource, base: BaseWeights, bounds: CompileBounds) -> _Factored:
    rank = source.config.get("r")
    spectra = _spectra(source, None, base, bounds)
    return _cut(spectra, source.kind.lower(), rank if isinstance(rank, int) else None, bounds)


def _spectra(
    source: CompileSource, dora: UploadedLora | None, base: BaseWeights, bounds: CompileBounds
) -> dict[str, Spectrum]:
    from adapters.compile import peft_configs, skeleton  # PEFT takes ten seconds to import: a plain LoRA goes without

    if dora is None:
        config = peft_configs.config_of(source.kind, source.config)
    else:
        config = peft_configs.dora_config_of(dora.config, list(dora.shapes))
    return {module: spectrum_of(change, bounds.rank) for module, change in skeleton.changes(source, config, base)}


def _cut(
    spectra: Mapping[str, Spectrum],
    kind: str,
    rank_before: int | None,
    bounds: CompileBounds,
    *,
    over: int | None = None,
) -> _Factored:
    """Cut at the smallest rank that loses nothing, or at the bound. ``over``: the rank of a LoRA above the bound."""
    rank = min(numerical_rank(spectra.values()), bounds.rank)
    loss = TruncationLoss.of(spectra.items(), rank)
    # A LoRA's author chose its rank, and can train at another: only what makes no difference is cut unasked.
    if bounds.compress_to is None and loss.error > (MAX_ERROR if over is None else EXACT_ERROR):
        if over is None:
            raise AdapterRefused([_loss(loss, kind, spectra)])
        otherwise = f"compress it with --compress-to {rank}, which changes its effect on the weights by {loss}"
        raise AdapterRefused([rank_fault(f"{CONFIG_FILE}: r", over, bounds.max_rank, otherwise)])
    method = "exact" if loss.error <= EXACT_ERROR else "svd"
    factors = {module: spectrum.cut(rank) for module, spectrum in spectra.items()}
    return _Factored(kind, method, rank_before, factors, loss)


def _loss(loss: TruncationLoss, kind: str, spectra: Mapping[str, Spectrum]) -> Fault:
    enough = rank_within(spectra.values(), MAX_ERROR)
    training = "train QLoRA with init_lora_weights=true" if kind == LOFTQ else "train a LoRA"
    options = filter(None, [server_option(enough), f"take the loss with --compress-to {loss.rank}", f"or {training}"])
    return Fault(
        "adapter",
        f"{kind}, whose change to the weights, cut at rank {loss.rank}, loses {loss}",
        f"a loss of at most {percentage(MAX_ERROR)}, for which rank {enough} is enough: {', '.join(options)}",
    )
