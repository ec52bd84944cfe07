"""Decides whether an uploaded LoRA adapter may be served.

vLLM answers several kinds of broken adapter with 200 and wrong text, and some damage every other request (NaN weights).
So the files are checked before the engine sees them: their names, the config, the header, every shape against the base
model, every number. No torch, no engine, no code from the upload.
"""

import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adapters.base_model import BaseModel
from adapters.checks.base_identity import names_no_base
from adapters.checks.weights import WeightScan, scan
from adapters.errors import MAX_FAULTS, AdapterRefused, Fault, SafetensorsMalformed
from adapters.lora.config_fields import ignored_note, shown
from adapters.lora.lora_tensors import LoraTensors
from adapters.lora.peft_config import MAX_CONFIG_BYTES, PeftConfig
from adapters.lora.ranks import rank_fault
from adapters.lora.stored_lora import StoredLora
from adapters.lora.tensor_names import NormalizedHeader, TensorKeyParser
from adapters.sources.source import PICKLE_SUFFIXES, pickle_fault
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE
from adapters.storage.safetensors_header import read_header

README = "README.md"


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """The engine's --max-lora-rank, and a bound on the sum of an adapter's files.

    ``unserved``: modules of the base model on which the engine gives adapters no effect.
    """

    max_rank: int
    max_bytes: int
    unserved: Sequence[str] = ()


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


@dataclass(frozen=True, slots=True)
class InspectedAdapter:
    """A LoRA that passed the checks."""

    report: InspectionReport
    lora: StoredLora
    """Its tensors by the names that PEFT gives them."""
    embedding_copies: frozenset[str]
    """The base model's embeddings of which it has copies."""
    rename_notes: tuple[str, ...]
    """That tensors have other names in its file; empty: none has."""


@dataclass(frozen=True, slots=True)
class _Weights:
    config: PeftConfig | None
    """Settled for the modules of the base model and of the file."""
    normalized: NormalizedHeader
    tensors: LoraTensors
    scan: WeightScan


def inspect_adapter(directory: Path, base: BaseModel, limits: AdapterLimits) -> InspectedAdapter:
    """Check the adapter in ``directory`` against ``base`` and ``limits``.

    Reads all weights, a chunk at a time, and writes nothing. Blocks: run it off the event loop.

    Raises:
        AdapterRefused: with every fault found, up to ``MAX_FAULTS``.
        OSError: a file cannot be read.
    """
    faults: list[Fault] = []
    sizes = _readable_files(directory, limits, faults)
    config = _read_config(directory / CONFIG_FILE, limits, faults) if CONFIG_FILE in sizes else None
    weights = _read_weights(directory / WEIGHTS_FILE, base, config, faults) if WEIGHTS_FILE in sizes else None
    if weights is not None:
        faults.extend(_unserved_faults(weights.tensors, limits))
    if faults or weights is None or (config := weights.config) is None:
        more = [Fault("adapter", "more faults than are listed", "mend the listed ones first")]
        raise AdapterRefused(faults if len(faults) <= MAX_FAULTS else faults[:MAX_FAULTS] + more)
    return InspectedAdapter(
        report=_report(base, config, weights, sum(sizes.values())),
        lora=StoredLora(directory / WEIGHTS_FILE, config, weights.normalized.header),
        embedding_copies=frozenset(weights.tensors.embedding_copies),
        rename_notes=tuple(weights.normalized.notes(base.name)),
    )


def _readable_files(directory: Path, limits: AdapterLimits, faults: list[Fault]) -> dict[str, int]:
    """Return the sizes in bytes of the files that may be read, by name; add the faults of the others to ``faults``."""
    entries = sorted(directory.iterdir())
    missing = [directory / name for name in FILES if directory / name not in entries]
    sizes: dict[str, int] = {}
    for entry in [*entries, *missing]:
        if (fault := _entry_fault(entry)) is not None:
            faults.append(fault)
        else:
            sizes[entry.name] = entry.stat().st_size
    if (total := sum(sizes.values())) > limits.max_bytes:
        faults.append(Fault("adapter", f"{total} bytes", f"at most {limits.max_bytes}: save in bf16, lower the rank"))
        sizes.pop(WEIGHTS_FILE, None)
    return sizes


def _entry_fault(entry: Path) -> Fault | None:
    name = ascii(entry.name)[1:-1]
    if entry.suffix.lower() in PICKLE_SUFFIXES:
        return pickle_fault(entry.name)
    if entry.name not in {*FILES, README}:
        kind = "a directory" if stat.S_ISDIR(entry.lstat().st_mode) else "a file that is no part of an adapter"
        return Fault(name, kind, f"{CONFIG_FILE} and {WEIGHTS_FILE} at the top and nothing else: remove it")
    return file_fault(entry)


def file_fault(path: Path) -> Fault | None:
    """Return the fault of an adapter's file that is missing, no plain file, or a config too large to read."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        needed = "the file that PEFT's save_pretrained(..., safe_serialization=True) writes"
        return Fault(path.name, "no such file", needed)
    if not stat.S_ISREG(status.st_mode):
        return Fault(path.name, "a link or another special file", "a plain file: copy what it points to")
    if path.name == CONFIG_FILE and status.st_size > MAX_CONFIG_BYTES:
        return Fault(path.name, f"{status.st_size} bytes", f"at most {MAX_CONFIG_BYTES}")
    return None


def _read_config(path: Path, limits: AdapterLimits, faults: list[Fault]) -> PeftConfig | None:
    try:
        config, invalid = PeftConfig.read(path.read_bytes())
    except AdapterRefused as refused:
        faults.extend(refused.faults)
        return None
    faults.extend([*invalid, *config.unservable()])
    # The engine goes by the largest rank that the config names, whether or not a module has it.
    cut = f"have it cut with --compress-to {limits.max_rank} (compress_to over HTTP), which reports what is lost"
    for field, rank in config.ranks.items():
        if rank > limits.max_rank:
            faults.append(rank_fault(f"{CONFIG_FILE}: {field}", rank, limits.max_rank, cut))
    return None if invalid else config


def _read_weights(path: Path, base: BaseModel, config: PeftConfig | None, faults: list[Fault]) -> _Weights | None:
    try:
        header = read_header(path)
        normalized = NormalizedHeader.of(header, map(TensorKeyParser(base.modules).parse, header.tensors))
        tensors = LoraTensors.of(normalized.header)
        scanned = scan(path, normalized.header)
    except SafetensorsMalformed as malformed:
        faults.append(malformed.fault)
        return None
    try:
        config = None if config is None else config.settled({*base.modules, *normalized.names_in_file.values()})
    except AdapterRefused as refused:
        faults.extend(refused.faults)
        config = None
    weights = _Weights(config, normalized, tensors, scanned)
    faults.extend(scanned.faults)
    tensor_faults = tensors.faults(base, config, normalized.names_in_file)
    faults.extend(islice(chain(normalized.faults, tensor_faults), MAX_FAULTS + 1))
    if config is not None and not faults:
        faults.extend(normalized.pattern_faults(config))
    if not tensors.empty and tensors.are_inert(scanned.zero):
        needed = "trained weights: this adapter would answer exactly as the base model does"
        faults.append(Fault(WEIGHTS_FILE, "only zeros in lora_A or lora_B of every module", needed))
    return weights


def _unserved_faults(tensors: LoraTensors, limits: AdapterLimits) -> Iterator[Fault]:
    """Yield a fault if there is LoRA on modules where the engine would give it no effect, or would refuse it."""
    unserved = sorted({pair.module for pair in tensors.pairs}.intersection(limits.unserved))
    if unserved:
        names = ", ".join(sorted({module.rpartition(".")[2] for module in unserved}))
        count = f"{len(unserved)} module{'s'[: len(unserved) > 1]}"
        found = f"LoRA on {count} where this server serves none, such as {unserved[0]}"
        needed = (
            f"target_modules without {names} there: train again without them; where vLLM supports them, the server's "
            "flags --lora-target-modules and --enable-tower-connector-lora decide"
        )
        yield Fault(WEIGHTS_FILE, found, needed)


def _report(base: BaseModel, config: PeftConfig, weights: _Weights, size_bytes: int) -> InspectionReport:
    modules = [pair.module for pair in weights.tensors.pairs]
    ranks = Counter(config.rank_of(module) for module in modules)
    return InspectionReport(
        rank=max(ranks),
        ranks=dict(sorted(ranks.items())),
        alphas=dict(sorted(Counter(config.alpha_of(module) for module in modules).items())),
        use_rslora=bool(config.use_rslora),
        target_modules=tuple(sorted({module.rpartition(".")[2] for module in modules})),
        modules=len(modules),
        tensors=len(weights.normalized.header.tensors),
        dtypes=tuple(sorted({tensor.dtype for tensor in weights.normalized.header.tensors.values()})),
        size_bytes=size_bytes,
        max_abs=weights.scan.max_abs,
        base_model=base.name,
        base_fingerprint=base.fingerprint,
        declared_base=config.base_model_name_or_path,
        notes=tuple(_notes(base, config, weights.tensors, modules)),
    )


def _notes(base: BaseModel, config: PeftConfig, tensors: LoraTensors, modules: list[str]) -> Iterator[str]:
    declared = config.base_model_name_or_path
    if declared and names_no_base(declared):
        yield f"base_model_name_or_path is {shown(declared)}, a path, which names no base; its shapes fit {base.name}"
    elif declared and Path(declared).name.lower() != Path(base.name).name.lower():
        yield f"made for {declared}, as its config says; its shapes fit {base.name}"
    if tensors.embedding_copies:
        yield f"copies of the base model's weights are not read: {', '.join(sorted(tensors.embedding_copies))}"
    yield from ignored_note(config.ignored)
    if isinstance(config.target_modules, list):
        left_out = len(config.targeted(base.modules)) - len(modules)
        if left_out:
            yield f"{left_out} modules that target_modules names have no tensors and stay as in the base"
