"""The canonical form of an adapter: plain LoRA of one rank and scale 1, written without torch, a module at a time.

The bytes are those that safetensors' own writer makes of the same numbers: tensors in the order of their names, in
which vLLM reads them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.base_model import EMBEDDING
from adapters.lora.factors import Factors
from adapters.lora.stored_lora import LinearSum, StoredLora
from adapters.lora.tensor_names import PREFIX
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import encode
from adapters.storage.safetensors_header import DTYPE_BITS, LENGTH_BYTES


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """All of an adapter's two files but its numbers."""

    shapes: Mapping[str, tuple[int, int]]
    """out_features and in_features by adapted module."""
    rank: int
    dtype: str
    base_modules: Collection[str]
    """The modules of the base model that may carry a LoRA."""
    declared_base: str | None
    """``base_model_name_or_path``."""

    @classmethod
    def of(cls, lora: StoredLora, base_modules: Collection[str], dtype: str) -> CanonicalForm:
        """Return the form of ``lora`` by itself."""
        whole = LinearSum([(lora, 1.0)])
        return cls(whole.shapes, whole.rank, dtype, base_modules, lora.config.base_model_name_or_path)

    @property
    def config(self) -> bytes:
        return (json.dumps(canonical_config(self.rank, self._targets(), self.declared_base), indent=2) + "\n").encode()

    @property
    def header(self) -> bytes:
        """The beginning of the file of weights: its header, and the header's length before it."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, shape in self._tensors():
            size = shape[0] * shape[1] * DTYPE_BITS[self.dtype] // 8
            entries[name] = {"dtype": self.dtype, "shape": shape, "data_offsets": [position, position + size]}
            position += size
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    @property
    def modules(self) -> list[str]:
        """The adapted modules in the order in which they are stored."""
        return sorted(self.shapes, key=lambda module: _name(module, "A"))

    def _tensors(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for module in self.modules:
            rows, columns = self.shapes[module]
            yield _name(module, "A"), (self.rank, columns)
            yield _name(module, "B"), (rows, self.rank)

    def _targets(self) -> list[str]:
        """target_modules: the last part of a name where all such modules of the base are adapted, else whole names."""
        alike: defaultdict[str, set[str]] = defaultdict(set)
        for module in self.base_modules:
            alike[module.rpartition(".")[2]].add(module)
        adapted = self.shapes.keys()
        return sorted(set().union(*({last} if named <= adapted else named & adapted for last, named in alike.items())))


def canonical_config(rank: int, targets: Sequence[str], declared_base: str | None) -> dict[str, Any]:
    return {
        "base_model_name_or_path": declared_base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


@dataclass(frozen=True, slots=True)
class CompileReport:
    """How an adapter became plain LoRA. Errors are Frobenius norms: |result - original| / |original|."""

    kind: str
    """``lora``, ``rslora``, ``dora``, ``pissa``, ... or PEFT's name of another type in lower case."""
    method: str
    """``as is``: only names, dtype and padding may differ; ``folded``: the scale, or the initial adapter, went into
    the factors; ``exact``: factored, the error is at most ``compiler.EXACT_ERROR``; ``svd``: factored with a loss."""
    rank_before: int | None
    """The largest rank that the adapter had; None where its kind has none."""
    rank: int
    rounding: float
    """What storing in the base's dtype adds: relative error of the stored factors' product."""
    error: float = 0.0
    """Of the change to all modules together, before rounding."""
    worst_error: float = 0.0
    worst_module: str | None = None
    """The module with the largest error, and that error; None where nothing can have been lost."""
    dropped: tuple[str, ...] = ()
    """Tensors that equal the base's own and were left out."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"dropped": list(self.dropped), "notes": list(self.notes)}


def write(directory: Path, form: CanonicalForm, factors_of: Callable[[str], Factors]) -> float:
    """Write the two files into ``directory``; return the relative error that rounding to the form's dtype adds.

    ``factors_of`` is called once for each module, in the order in which they are stored; factors of a smaller rank
    than the form's are padded with 0.
    """
    moved = whole = 0.0
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_bytes(form.config)
    with (directory / WEIGHTS_FILE).open("wb") as file:
        file.write(form.header)
        for module in form.modules:
            factors = factors_of(module)
            stored = factors.rounded(form.dtype)
            moved += factors.minus(stored).squared_norm
            whole += factors.squared_norm
            padded = stored.padded(form.rank)
            file.write(encode(padded.a, form.dtype))
            file.write(encode(padded.b, form.dtype))
    return math.sqrt(moved / whole) if whole else 0.0


def _name(module: str, side: str) -> str:
    suffix = f"lora_embedding_{side}" if module.rpartition(".")[2] == EMBEDDING else f"lora_{side}.weight"
    return f"{PREFIX}{module}.{suffix}"
