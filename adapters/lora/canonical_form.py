"""The canonical form, written without torch, a module at a time: plain LoRA of one rank and scale 1.

The bytes are those that safetensors' own writer would make of the same numbers: tensors in the order of their names,
in which vLLM reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base_model import EMBEDDING
from adapters.lora.canonical_config import canonical_config
from adapters.lora.stored_lora import Factors
from adapters.lora.tensor_names import PREFIX
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.storage.number_formats import encode
from adapters.storage.safetensors_header import DTYPE_BITS, LENGTH_BYTES


@dataclass(frozen=True, slots=True)
class Form:
    """What the files say of themselves: ``shapes`` are out_features and in_features by module."""

    shapes: Mapping[str, tuple[int, int]]
    rank: int
    dtype: str
    targets: list[str]
    declared_base: str | None


def write(directory: Path, form: Form, factors_of: Callable[[str], Factors]) -> None:
    """Write the two files into ``directory``. Factors of a smaller rank than the form's are padded with 0.

    ``factors_of`` is asked once for each module, in the order in which they are stored.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_bytes(config_bytes(form))
    with (directory / WEIGHTS_FILE).open("wb") as file:
        file.write(header_bytes(form))
        for module in _ordered(form.shapes):
            made = factors_of(module)
            padding = form.rank - made.a.shape[0]
            file.write(encode(np.pad(made.a, ((0, padding), (0, 0))), form.dtype))
            file.write(encode(np.pad(made.b, ((0, 0), (0, padding))), form.dtype))


def config_bytes(form: Form) -> bytes:
    """Return what adapter_config.json holds."""
    config = canonical_config(form.rank, form.targets, form.declared_base)
    return (json.dumps(config, indent=2) + "\n").encode()


def header_bytes(form: Form) -> bytes:
    """Return what the file of weights begins with, its length included."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in _tensors(form):
        size = shape[0] * shape[1] * DTYPE_BITS[form.dtype] // 8
        entries[name] = {"dtype": form.dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _tensors(form: Form) -> Iterator[tuple[str, tuple[int, int]]]:
    for module in _ordered(form.shapes):
        rows, columns = form.shapes[module]
        yield _name(module, "A"), (form.rank, columns)
        yield _name(module, "B"), (rows, form.rank)


def _ordered(modules: Iterable[str]) -> list[str]:
    return sorted(modules, key=lambda module: _name(module, "A"))


def _name(module: str, side: str) -> str:
    form = "lora_embedding_{}" if module.rpartition(".")[2] == EMBEDDING else "lora_{}.weight"
    return f"{PREFIX}{module}.{form.format(side)}"
