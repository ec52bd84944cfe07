"""Compares the base model that an adapter's config names with the one that is served."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from adapters import strict_json
from adapters.errors import AdapterRefused, Fault
from adapters.lora.config_fields import shown
from adapters.lora.peft_config import MAX_CONFIG_BYTES
from adapters.storage.manifest import CONFIG_FILE

FORCE = "publish it with force_base=true (--force-base)"

_PARTS = re.compile(r"[/\\]")
_WORDS = re.compile(r"[-_.]+")
"""Between two words of a name: ModelScope writes "___" for a dot."""
_NUMBERED = re.compile(r"(?<=[a-z])(?=[0-9])")
"""Where some write a hyphen and others do not: "Llama-3" and "Llama3"."""
_HUBS = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf-mirror\.com|modelscope\.cn/models)/|hf://")
_PATH = re.compile(
    r"[/~.\\]|[A-Za-z]:[/\\]|[a-z0-9]+://|(?:[^/\\]*[/\\]){2}"
    r"|(?:checkpoints?|content|data|experiments|models?|outputs?|results?|runs?|saves?|tmp|work|workspace)[/\\]"
    r"|(?:[^/\\]*[/\\])?checkpoint-[0-9]+$"
)
"""What no hub id begins with: a hub id is ``org/name``, and ``outputs`` is the directory of a trainer."""
_REPACKED = re.compile(
    r"unsloth|bnb|awq|gptq|gguf|mlx|hqq|eetq|exl[23]|(?:nv|mx)?fp[48]|int[48]|[48]bit|w\d{1,2}a\d{1,2}|quantized|b?fp?16"
)
"""Suffixes of the names of copies in another number format."""
_FAMILY = re.compile(r"(?P<family>\w{1,80}?)(?:For[A-Z]\w{0,80}|LMHeadModel|Model)")


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """The served base model's names, by their cores, and the families of its architectures.

    An adapter may name its base by a path, which says nothing about it, and by any known spelling of its name.
    """

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
        if isinstance(declared, str) and not names_no_base(declared) and _core(declared) not in self.cores:
            needed = f"an adapter for {self.shown_as}, which is served: train it on that; if both are one, {FORCE}"
            yield Fault(f"{CONFIG_FILE}: base_model_name_or_path", shown(declared), needed)
        mapping = config.get("auto_mapping")
        class_name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        family = _family(class_name) if isinstance(class_name, str) else None
        if family is not None and self.families and family not in self.families:
            needed = f"one of {', '.join(sorted(self.families))}, which {self.shown_as} is; if it is one, {FORCE}"
            yield Fault(f"{CONFIG_FILE}: auto_mapping.base_model_class", shown(class_name), needed)


def names_no_base(declared: str) -> bool:
    """Whether ``declared``, a config's base_model_name_or_path, is empty or a path: the shapes decide then.

    A path into the hub's cache names a model of the hub.
    """
    parts = _parts(declared)
    is_path = _PATH.match(_HUBS.sub("", "/".join(parts), count=1)) is not None
    return parts == [""] or (is_path and not _is_snapshot(parts))


def _config(path: Path) -> dict[str, Any]:
    try:
        return {} if path.stat().st_size > MAX_CONFIG_BYTES else strict_json.fields_in(path)
    except OSError:
        return {}


def _parts(name: str) -> list[str]:
    return _PARTS.split(name.strip().rstrip("/\\"))


def _core(name: str) -> str:
    """Return the part that names of one model share: the last, in lower case, without its revision or format."""
    parts = _parts(name)
    last = parts[-3].rpartition("--")[2] if _is_snapshot(parts) else parts[-1]
    first, *words = _WORDS.split(last.lower().partition("@")[0])
    kept = [first, *takewhile(lambda word: not _REPACKED.fullmatch(word), words)]
    spelled = [part for word in kept for part in _NUMBERED.split(word)]
    if spelled[:2] == ["meta", "llama"]:  # Meta renamed its models
        del spelled[0]
    if spelled[-1] == "hf":  # converted from Meta's own format
        del spelled[-1]
    return "-".join(spelled)


def _is_snapshot(parts: Sequence[str]) -> bool:
    """Whether the parts of a path lie in the hub's cache, where a model is named by its commit."""
    return len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--")


def _family(class_name: str) -> str | None:
    """Return ``Qwen3`` for ``Qwen3ForCausalLM``; None for a wrapper of any model, such as ``OptimizedModule``."""
    match = _FAMILY.fullmatch(class_name)
    return match["family"] if match and not class_name.startswith("Peft") else None
