"""The many ways in which tools spell one tensor's name, and the one that PEFT writes.

Known: PEFT (``base_model.model.``), a PEFT model wrapped once more (the prefix doubled), a bare transformers model (no
prefix), multimodal wrappers of a text model (``language_model``), torch.compile (``_orig_mod``), FSDP, activation
checkpointing, DDP and DeepSpeed (``module``), and state dicts that kept the adapter's name (``lora_A.default.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PREFIX = "base_model.model."

_OUTER = frozenset({"base_model", "model", "module", "language_model"})
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_FACTOR = re.compile(
    r"(?P<part>lora_(?:[AB]|embedding_[AB]|magnitude_vector))(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.weight)?"
)
_COPY = re.compile(r"(?:base_layer\.|original_module\.|modules_to_save\.(?:[^.]+\.)?)?(?P<kind>weight|bias)")


@dataclass(frozen=True, slots=True)
class Key:
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
        """``modules``: everything of the base that has a tensor, whether or not it may carry a LoRA."""
        self._by_core: dict[tuple[str, ...], str | None] = {}
        for module in modules:
            core = _core(module.split("."))
            self._by_core[core] = None if core in self._by_core else module  # ambiguous: no variant is mapped

    def read(self, raw: str) -> Key:
        """Take ``raw`` apart at the end of the longest module's name that it holds."""
        core = _core(raw.split("."))
        for length in range(len(core) - 1, 0, -1):
            if (module := self._by_core.get(core[:length])) is not None:
                part = ".".join(core[length:])
                return Key(raw, module, part, raw.removeprefix(PREFIX).removesuffix(f".{part}"))
        return Key(raw, None, raw, raw)


def _core(parts: list[str]) -> tuple[str, ...]:
    kept = [part for part in parts if part not in _WRAPPERS]
    start = next((at for at, part in enumerate(kept) if part not in _OUTER), len(kept))
    return tuple(kept[start:])
