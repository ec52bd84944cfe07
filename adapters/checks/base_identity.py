"""Compares the base model that an adapter's config names with the one that is served."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from adapters import strict_json
from adapters.errors import AdapterRefused, Fault
from adapters.lora.peft_config import MAX_CONFIG_BYTES, shown
from adapters.storage.manifest import CONFIG_FILE

FORCE = "publish it with force_base=true (--force-base)"

_PARTS = re.compile(r"[/\\]")
_WORDS = re.compile(r"[-_.]")
_REPACKED = re.compile(r"unsloth|bnb|awq|gptq|gguf|fp8|int[48]|[48]bit|w\d{1,2}a\d{1,2}|quantized")
"""Suffixes of the names of quantised copies."""
_FAMILY = re.compile(r"(?P<family>\w{1,80}?)(?:For[A-Z]\w{0,80}|LMHeadModel|Model)")


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """The served base model's names, by their cores, and the families of its architectures."""

    shown_as: str
    cores: frozenset[str]
    families: frozenset[str]

    @classmethod
    def of(cls, names: tuple[str, ...], directory: Path, architectures: tuple[str, ...]) -> Self:
        """``names``: those it is served by. The name of its ``directory`` is one more.

        So is that of a snapshot in the hub's cache, a commit: our own training runs name the base model by it.
        """
        path = directory.absolute()
        cores = {_core(name) for name in (*names, str(path), path.name)}
        return cls(names[0], frozenset(cores), frozenset(filter(None, map(_family, architectures))))

    def check(self, directory: Path) -> None:
        """Check the base model that the adapter in ``directory`` declares, if its config can be read.

        Raises:
            AdapterRefused: it declares another base model, or another architecture.
        """
        if faults := list(self._faults(_config(directory / CONFIG_FILE))):
            raise AdapterRefused(faults)

    def _faults(self, config: dict[str, Any]) -> Iterator[Fault]:
        declared = config.get("base_model_name_or_path")
        if isinstance(declared, str) and declared.strip() and _core(declared) not in self.cores:
            needed = f"an adapter for {self.shown_as}, which is served: train it on that; if both are one, {FORCE}"
            yield Fault(f"{CONFIG_FILE}: base_model_name_or_path", shown(declared), needed)
        mapping = config.get("auto_mapping")
        class_name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        family = _family(class_name) if isinstance(class_name, str) else None
        if family is not None and self.families and family not in self.families:
            needed = f"one of {', '.join(sorted(self.families))}, which {self.shown_as} is; if it is one, {FORCE}"
            yield Fault(f"{CONFIG_FILE}: auto_mapping.base_model_class", shown(class_name), needed)


def _config(path: Path) -> dict[str, Any]:
    try:
        return {} if path.stat().st_size > MAX_CONFIG_BYTES else strict_json.fields_in(path)
    except OSError:
        return {}


def _core(name: str) -> str:
    """Return the part that names of one model share: the last, in lower case, without suffixes of quantised copies."""
    parts = _PARTS.split(name.strip().rstrip("/\\"))
    is_snapshot = len(parts) > 2 and parts[-2] == "snapshots"  # in the hub's cache, where it is named by its commit
    last = parts[-3].rpartition("--")[2] if is_snapshot else parts[-1]
    first, *words = _WORDS.split(last.lower())
    return "-".join([first, *takewhile(lambda word: not _REPACKED.fullmatch(word), words)])


def _family(class_name: str) -> str | None:
    """Return ``Qwen3`` for ``Qwen3ForCausalLM``; None for a wrapper of any model, such as ``OptimizedModule``."""
    match = _FAMILY.fullmatch(class_name)
    return match["family"] if match and not class_name.startswith("Peft") else None
