"""Reads an upload to compile: its two files, untrusted, with the tensors by the names that PEFT would give them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from adapters.base_model import HEAD
from adapters.checks.inspection import file_fault
from adapters.checks.weights import scan
from adapters.compile.kinds import refusal
from adapters.compile.weights import BaseWeights, TensorFile
from adapters.errors import AdapterRefused, Fault, SafetensorsMalformed
from adapters.lora.config_fields import LORA, parse_fields
from adapters.lora.lora_tensors import at
from adapters.lora.tensor_names import NormalizedHeader, TensorKey, TensorKeyParser
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE
from adapters.storage.safetensors_header import Header, read_header


@dataclass(frozen=True, slots=True)
class CompileSource:
    """The files of an uploaded adapter. Tensors are addressed by the names that PEFT would give them."""

    weights: TensorFile
    config: Mapping[str, Any]
    """The fields of adapter_config.json, all but ``peft_type`` unchecked."""
    config_bytes: bytes
    kind: str
    """``peft_type``."""
    normalized: NormalizedHeader
    dropped: tuple[str, ...]
    """Tensors that equal the base's own."""

    @classmethod
    def read(cls, directory: Path, base: BaseWeights) -> Self:
        """Read the config and the header, scan every number, and parse every tensor's name.

        Raises:
            AdapterRefused: a kind that is not compiled, files that are missing or broken, numbers that are not finite,
                names that mean the same tensor, copies of the base's weights that differ from them.
        """
        faults = [fault for name in FILES if (fault := file_fault(directory / name)) is not None]
        if faults:
            raise AdapterRefused(faults)
        raw = (directory / CONFIG_FILE).read_bytes()
        config = parse_fields(raw)
        kind = config.get("peft_type", LORA)
        if (fault := refusal(kind)) is not None:
            raise AdapterRefused([fault])
        path = directory / WEIGHTS_FILE
        try:
            header = read_header(path)
            faults.extend(scan(path, header).faults)
        except SafetensorsMalformed as malformed:
            raise AdapterRefused([malformed.fault]) from None
        file = TensorFile(path, header)
        # a tied head has no tensor of its own, but a name by which copies of it go
        modules = {HEAD, *(tensor.rpartition(".")[0] for tensor in base.tensors if tensor.endswith(".weight"))}
        keys = list(map(TensorKeyParser(modules).parse, header.tensors))
        copies = {key: copied for key in keys if (copied := key.base_tensor()) is not None}
        faults.extend(_copy_faults(copies, file, base))
        own = (key for key in keys if key not in copies)
        normalized = NormalizedHeader.of(header, own, is_lora=kind == "LORA")
        faults.extend(normalized.faults)
        if faults:
            raise AdapterRefused(faults)
        return cls(file, config, raw, kind, normalized, tuple(sorted(key.raw for key in copies)))

    @property
    def header(self) -> Header:
        """The file's header, with normalized names."""
        return self.normalized.header

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor of that name, in its stored dtype."""
        return self.weights.read(self.header.tensors[name])

    def without(self, part: str) -> Header:
        """Return the header without the tensors that are ``part`` of a module."""
        tensors = {name: tensor for name, tensor in self.header.tensors.items() if not name.endswith(f".{part}")}
        return replace(self.header, tensors=tensors)


def _copy_faults(copies: Mapping[TensorKey, str], file: TensorFile, base: BaseWeights) -> Iterator[Fault]:
    needed = (
        "no changed copies of the base model's weights, which all adapters share: train a LoRA on this module "
        "instead (modules_to_save=None, bias='none', no tokens added)"
    )
    for key, copied in copies.items():
        tensor = file.header.tensors[key.raw]
        if not any(base.equals(name, file, tensor) for name in base.names_of(copied)):
            yield Fault(at(tensor), f"a copy of {copied} that differs from the base model's", needed)
