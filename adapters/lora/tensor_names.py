"""The many ways in which tools spell one tensor's name, and the one that PEFT writes.

Known: PEFT (``base_model.model.``), a PEFT model wrapped once more (the prefix doubled), a bare transformers model (no
prefix), multimodal wrappers of a text model (``language_model``), torch.compile (``_orig_mod``), FSDP, activation
checkpointing, DDP and DeepSpeed (``module``), and state dicts that kept the adapter's name (``lora_A.default.weight``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
    """A tensor's name in the file, and what it means: ``part`` of ``module``.

    ``module`` is None where the name holds no module of the base; ``part`` is then the whole name.
    """

    raw: str
    module: str | None
    part: str
    spelt: str
    """The module as the file spells it, without PEFT's own prefix: what its patterns were written for."""

    @property
    def canonical(self) -> str:
        """The name that PEFT would write for a model with the base's module names."""
        return self.raw if self.module is None else f"{PREFIX}{self.module}.{self.part}"

    def factor(self) -> tuple[str, str | None] | None:
        """The LoRA part as PEFT names it and the adapter's name in the key; None: no tensor of a LoRA."""
        if self.module is None or (match := _FACTOR.fullmatch(self.part)) is None:
            return None
        bare = "embedding" in match["part"] or "magnitude" in match["part"]
        return (match["part"] if bare else f"{match['part']}.weight"), match["adapter"]

    def copied(self) -> str | None:
        """The base's tensor that this one would replace (``model.norm.weight``); None: it is no such copy."""
        if self.module is None or (match := _COPY.fullmatch(self.part)) is None:
            return None
        return f"{self.module}.{match['kind']}"


class Keys:
    """Reads names against the modules of one base model."""

    def __init__(self, modules: Iterable[str]) -> None:
        """``modules``: those of the base that tensors may belong to, whether or not they may carry a LoRA."""
        self._modules = frozenset(modules)
        self._by_core: dict[tuple[str, ...], str | None] = {}
        for module in self._modules:
            core = _core(module.split("."))
            self._by_core[core] = None if core in self._by_core else module  # ambiguous: no variant is mapped

    def read(self, raw: str) -> TensorKey:
        """Take ``raw`` apart at the end of the longest module's name that it holds."""
        return self._as_peft_spells(raw) or self._as_others_spell(raw) or TensorKey(raw, None, raw, raw)

    def _as_peft_spells(self, raw: str) -> TensorKey | None:
        parts = raw.removeprefix(PREFIX).split(".")
        for length in range(len(parts) - 1, 0, -1):
            if (module := ".".join(parts[:length])) in self._modules:
                return TensorKey(raw, module, ".".join(parts[length:]), module)
        return None

    def _as_others_spell(self, raw: str) -> TensorKey | None:
        core = _core(raw.split("."))
        for length in range(len(core) - 1, 0, -1):
            if (module := self._by_core.get(core[:length])) is not None:
                part = ".".join(core[length:])
                return TensorKey(raw, module, part, raw.removeprefix(PREFIX).removesuffix(f".{part}"))
        return None


@dataclass(frozen=True, slots=True)
class Named:
    """A file's tensors by the names that PEFT would give them, and how the file spells those."""

    header: Header
    keys: Mapping[str, TensorKey]
    faults: tuple[Fault, ...]
    """Names that stand for the same tensor, or for those of several adapters."""

    @classmethod
    def of(cls, header: Header, keys: Iterable[TensorKey], *, is_lora: bool = True) -> Self:
        """Give the tensors of ``keys``, each a name in ``header``, their names; others are left out."""
        named: dict[str, TensorKey] = {}
        faults = []
        adapters: Counter[str | None] = Counter()
        for key in keys:
            name = key.canonical
            if is_lora and (factor := key.factor()) is not None:
                part, adapter = factor
                adapters[adapter] += 1
                name = f"{PREFIX}{key.module}.{part}"
            if named.setdefault(name, key) is not key:
                where = f"{WEIGHTS_FILE}: {key.raw}"
                faults.append(Fault(where, f"the same tensor as {named[name].raw}", "one of them: save again"))
        if len(adapters) > 1:
            listed = ", ".join(sorted(str(adapter) for adapter in adapters))
            faults.append(
                Fault(WEIGHTS_FILE, f"tensors of several adapters: {listed}", "one adapter: save each by itself")
            )
        tensors = {name: replace(header.tensors[key.raw], name=name) for name, key in named.items()}
        return cls(replace(header, tensors=tensors), named, tuple(faults))

    @property
    def respelt(self) -> int:
        """How many tensors have another name in the file."""
        return sum(name != key.raw for name, key in self.keys.items())

    @property
    def spellings(self) -> Mapping[str, str]:
        """How the file spells each module."""
        return {key.module: key.spelt for key in self.keys.values() if key.module is not None}

    def pattern_faults(self, config: PeftConfig) -> Iterator[Fault]:
        """Yield a fault where a pattern means one thing for the file's name of a module and another for the base's."""
        for module, spelt in self.spellings.items():
            ours = config.rank_of(module), config.alpha_of(module)
            theirs = config.rank_of(spelt), config.alpha_of(spelt)
            if ours != theirs:
                yield Fault(
                    f"{CONFIG_FILE}: alpha_pattern",
                    f"rank and alpha {ours} for {module}, but {theirs} for {spelt}, as {WEIGHTS_FILE} names it",
                    "patterns that mean the same for both, such as the last parts of module names",
                )


def _core(parts: list[str]) -> tuple[str, ...]:
    kept = [part for part in parts if part not in _WRAPPERS]
    start = next((at for at, part in enumerate(kept) if part not in _OUTER), len(kept))
    return tuple(kept[start:])
