"""What was uploaded: two files, read with suspicion, their tensors by the names that PEFT would give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from adapters import strict_json
from adapters.base_model import HEAD
from adapters.checks.weights import scan
from adapters.compile.base_weights import BaseWeights
from adapters.compile.kinds import refusal
from adapters.compile.tensor_file import TensorFile
from adapters.errors import AdapterRefused, Fault, SafetensorsMalformed
from adapters.lora.peft_config import MAX_CONFIG_BYTES
from adapters.lora.tensor_names import Keys, Named, TensorKey
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE
from adapters.storage.safetensors_header import Header, Tensor, read_header


@dataclass(frozen=True, slots=True)
class CompileSource:
    """An adapter's directory. Tensors are addressed by canonical names."""

    weights: TensorFile
    config: Mapping[str, Any]
    """The fields of adapter_config.json, unread but for ``peft_type``."""
    config_bytes: bytes
    kind: str
    """``peft_type``."""
    named: Named
    dropped: tuple[str, ...]
    """Tensors that are the base's own."""

    @classmethod
    def read(cls, directory: Path, base: BaseWeights) -> Self:
        """Read the config and the header, look at every number, and name every tensor.

        Raises:
            AdapterRefused: a kind that is not compiled, files that are missing, broken or hold numbers that are none,
                names that stand for the same tensor, copies of the base's weights that differ from them.
        """
        faults = [fault for name in FILES if (fault := _file_fault(directory / name)) is not None]
        if faults:
            raise AdapterRefused(faults)
        raw = (directory / CONFIG_FILE).read_bytes()
        config = _parsed(raw)
        kind = config.get("peft_type", "LORA")
        if (fault := refusal(kind)) is not None:
            raise AdapterRefused([fault])
        path = directory / WEIGHTS_FILE
        try:
            header = read_header(path)
            file = TensorFile(path, header)
            faults.extend(scan(path, header).faults)
        except SafetensorsMalformed as malformed:
            raise AdapterRefused([malformed.fault]) from None
        # a tied head has no tensor of its own, but a name by which copies of it go
        modules = {HEAD, *(tensor.rpartition(".")[0] for tensor in base.tensors if tensor.endswith(".weight"))}
        read_key = Keys(modules).read
        keys = [read_key(name) for name in header.tensors]
        copies = [key for key in keys if key.copied() is not None]
        faults.extend(fault for key in copies if (fault := _copy_fault(key, file, base)) is not None)
        named = Named.of(header, (key for key in keys if key.copied() is None), is_lora=kind == "LORA")
        faults.extend(named.faults)
        if faults:
            raise AdapterRefused(faults)
        dropped = tuple(sorted(key.raw for key in copies))
        return cls(file, config, raw, kind, named, dropped)

    @property
    def header(self) -> Header:
        """That of the file, but for the names."""
        return self.named.header

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of that canonical name, as stored."""
        return self.weights.read(self.header.tensors[name])

    def without(self, part: str) -> Header:
        """The header without the tensors that are ``part`` of a module."""
        tensors = {name: tensor for name, tensor in self.header.tensors.items() if not name.endswith(f".{part}")}
        return replace(self.header, tensors=tensors)


def at(tensor: Tensor) -> str:
    """Where a fault of ``tensor`` is."""
    return f"{WEIGHTS_FILE}: {tensor.name}"


def _file_fault(path: Path) -> Fault | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return Fault(path.name, "a link or another special file", "a plain file: copy what it points to")
    if not path.exists():
        needed = "the file that PEFT's save_pretrained(..., safe_serialization=True) writes"
        return Fault(path.name, "no such file", needed)
    if path.name == CONFIG_FILE and path.stat().st_size > MAX_CONFIG_BYTES:
        return Fault(path.name, f"{path.stat().st_size} bytes", f"at most {MAX_CONFIG_BYTES}")
    return None


def _parsed(raw: bytes) -> dict[str, Any]:
    needed = "the file that PEFT's save_pretrained wrote"
    try:
        fields = strict_json.parse(raw)
    except ValueError as error:
        raise AdapterRefused([Fault(CONFIG_FILE, f"text that is not JSON ({error})", needed)]) from None
    if not isinstance(fields, dict):
        raise AdapterRefused([Fault(CONFIG_FILE, "JSON that is no object", needed)])
    return fields


def _copy_fault(key: TensorKey, file: TensorFile, base: BaseWeights) -> Fault | None:
    copied = key.copied()
    assert copied is not None
    if any(base.equals(name, file, file.header.tensors[key.raw]) for name in base.names_of(copied)):
        return None
    return Fault(
        f"{WEIGHTS_FILE}: {key.raw}",
        f"a copy of {copied} that differs from the base model's",
        "no changed copies of the base model's weights, which all adapters share: train a LoRA on this module "
        "instead (modules_to_save=None, bias='none', no tokens added)",
    )
