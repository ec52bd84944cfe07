"""Normalizes tensor names: the many that tools write for one tensor become the one that PEFT writes.

Known: PEFT (``base_model.model.``), a PEFT model wrapped once more (the prefix doubled), a bare transformers model (no
prefix), multimodal wrappers of a text model (``language_model``), torch.compile (``_orig_mod``), FSDP, activation
checkpointing, DDP and DeepSpeed (``module``), and state dicts that kept the adapter's name (``lora_A.default.weight``).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from adapters.errors import Fault
from adapters.lora.peft_config import PeftConfig
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.safetensors_header import Header

PREFIX = "base_model.model."

_OUTER = frozenset({"base_model", "model", "module", "language_model"})
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_FACTOR = re.compile(
    r"(?P<part>lora_(?:[AB]|embedding_[AB]|magnitude_vector))(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.weight)?"
)
_COPY = re.compile(r"(?:base_layer\.|original_module\.|modules_to_save\.(?:[^.]+\.)?)?(?P<kind>weight|bias)")


@dataclass(frozen=True, slots=True)
class TensorKey:
    """A parsed tensor name: ``part`` of ``module``.

    ``module`` is None where the name holds no module of the base; ``part`` is then the whole name.
    """

    raw: str
    module: str | None
    part: str
    name_in_file: str
    """The module's name in the file, without PEFT's own prefix; the config's patterns were written for it."""

    @property
    def canonical(self) -> str:
        """The name that PEFT would write for a model with the base's module names."""
        return self.raw if self.module is None else f"{PREFIX}{self.module}.{self.part}"

    def factor(self) -> tuple[str, str | None] | None:
        """Return the LoRA part as PEFT names it and the adapter's name in the key; None: no tensor of a LoRA."""
        if self.module is None or (match := _FACTOR.fullmatch(self.part)) is None:
            return None
        bare = "embedding" in match["part"] or "magnitude" in match["part"]
        return (match["part"] if bare else f"{match['part']}.weight"), match["adapter"]

    def base_tensor(self) -> str | None:
        """Return the base's tensor of which this is a copy (``model.norm.weight``); None: it is no copy."""
        if self.module is None or (match := _COPY.fullmatch(self.part)) is None:
            return None
        return f"{self.module}.{match['kind']}"


class TensorKeyParser:
    """Parses tensor names against the modules of one base model."""

    def __init__(self, modules: Iterable[str]) -> None:
        """``modules``: those of the base that tensors may belong to, whether or not they may carry a LoRA."""
        self._exact = {tuple(module.split(".")): module for module in modules}
        self._by_core: dict[tuple[str, ...], str | None] = {}
        for parts, module in self._exact.items():
            core = _core(parts)
            self._by_core[core] = None if core in self._by_core else module  # ambiguous: no variant is mapped

    def parse(self, raw: str) -> TensorKey:
        """Split ``raw`` after the longest name of a module that it holds."""
        name = raw.removeprefix(PREFIX)
        for parts, modules in ((tuple(name.split(".")), self._exact), (_core(raw.split(".")), self._by_core)):
            for length in range(len(parts) - 1, 0, -1):
                if (module := modules.get(parts[:length])) is not None:
                    part = ".".join(parts[length:])
                    return TensorKey(raw, module, part, name.removesuffix(f".{part}"))
        return TensorKey(raw, None, raw, raw)


@dataclass(frozen=True, slots=True)
class NormalizedHeader:
    """A file's header with the names that PEFT would give its tensors, and the names in the file."""

    header: Header
    keys: Mapping[str, TensorKey]
    """By the names in ``header``."""
    faults: tuple[Fault, ...]
    """Names that mean the same tensor, or tensors of several adapters."""

    @classmethod
    def of(cls, header: Header, keys: Iterable[TensorKey], *, is_lora: bool = True) -> Self:
        """Normalize the names of the tensors of ``keys``, each a name in ``header``; other tensors are left out."""
        by_name: dict[str, TensorKey] = {}
        faults = []
        adapters: Counter[str | None] = Counter()
        for key in keys:
            name = key.canonical
            if is_lora and (factor := key.factor()) is not None:
                part, adapter = factor
                adapters[adapter] += 1
                name = f"{PREFIX}{key.module}.{part}"
            if by_name.setdefault(name, key) is not key:
                found = f"the same tensor as {by_name[name].raw}"
                faults.append(Fault(f"{WEIGHTS_FILE}: {key.raw}", found, "one of them: save again"))
        if len(adapters) > 1:
            found = f"tensors of several adapters: {', '.join(sorted(map(str, adapters)))}"
            faults.append(Fault(WEIGHTS_FILE, found, "one adapter: save each by itself"))
        tensors = {name: replace(header.tensors[key.raw], name=name) for name, key in by_name.items()}
        return cls(replace(header, tensors=tensors), by_name, tuple(faults))

    def notes(self, base: str) -> list[str]:
        """Return the note for a report that tensors have other names in the file; ``base``: the base model's name."""
        renamed = sum(name != key.raw for name, key in self.keys.items())
        return [f"{renamed} tensors had other names than PEFT gives them for {base}"] if renamed else []

    @property
    def names_in_file(self) -> Mapping[str, str]:
        """The name in the file of each module."""
        return {key.module: key.name_in_file for key in self.keys.values() if key.module is not None}

    def pattern_faults(self, config: PeftConfig) -> Iterator[Fault]:
        """Yield a fault where a pattern gives a module's name in the file another rank or alpha than its own name."""
        for module, stored in self.names_in_file.items():
            expected = config.rank_of(module), config.alpha_of(module)
            other = config.rank_of(stored), config.alpha_of(stored)
            if expected != other:
                found = f"rank and alpha {expected} for {module}, but {other} for {stored}, its name in the file"
                needed = "patterns that mean the same for both, such as the last parts of module names"
                yield Fault(f"{CONFIG_FILE}: alpha_pattern", found, needed)


def _core(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of a name without the wrappers' and without the outer models'."""
    kept = [part for part in parts if part not in _WRAPPERS]
    start = next((at for at, part in enumerate(kept) if part not in _OUTER), len(kept))
    return tuple(kept[start:])
