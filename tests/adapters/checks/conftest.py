"""A tiny base model and adapters for it, good until a test spoils them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, InspectionReport, inspect_adapter
from adapters.errors import AdapterRefused, Fault

HIDDEN, MIDDLE, VOCABULARY, LAYERS = 16, 24, 40, 2
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (8, HIDDEN),
    "self_attn.v_proj": (8, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MIDDLE, HIDDEN),
    "mlp.up_proj": (MIDDLE, HIDDEN),
    "mlp.down_proj": (HIDDEN, MIDDLE),
}


def linear_modules(layers: int = LAYERS) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in SHAPES.items()}


TIED_BASE = BaseModel.from_shapes("tiny", {"model_type": "llama"}, linear_modules())
UNTIED_BASE = BaseModel.from_shapes(
    "tiny-untied",
    {"model_type": "llama", "tie_word_embeddings": False},
    linear_modules() | {"lm_head": (VOCABULARY, HIDDEN), "model.embed_tokens": (HIDDEN, VOCABULARY)},
)

LIMITS = AdapterLimits(max_rank=16, max_bytes=1 << 20)

Raw = tuple[str, tuple[int, ...], bytes]
"""A tensor as the file holds it: dtype, shape, bytes."""


def encode(array: np.ndarray, dtype: str = "F32") -> Raw:
    if dtype == "BF16":  # truncated, not rounded: good enough for tests
        bits = (array.astype("<f4").view("<u4") >> 16).astype("<u2")
        return dtype, array.shape, bits.tobytes()
    kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1"}[dtype]
    return dtype, array.shape, array.astype(kind).tobytes()


def safetensors_bytes(tensors: dict[str, Raw], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    return framed(json.dumps(header).encode(), b"".join(data for _, _, data in tensors.values()))


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@dataclass
class AdapterFiles:
    """An adapter that a test may spoil before it is written."""

    config: dict[str, Any]
    tensors: dict[str, Raw]
    extra: dict[str, bytes] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)

    @classmethod
    def plain(
        cls,
        *,
        targets: tuple[str, ...] = ("q_proj", "v_proj"),
        modules: dict[str, tuple[int, int]] | None = None,
        rank: Callable[[str], int] = lambda module: 8,
        dtype: str = "F32",
        **config: Any,
    ) -> AdapterFiles:
        random = np.random.default_rng(1)
        tensors = {}
        for module, (rows, columns) in (modules or linear_modules()).items():
            if module.rpartition(".")[2] in targets:
                lookup = module.endswith("embed_tokens")
                for side, shape in (("A", (rank(module), columns)), ("B", (rows, rank(module)))):
                    key = f"lora_embedding_{side}" if lookup else f"lora_{side}.weight"
                    tensors[f"base_model.model.{module}.{key}"] = encode(random.normal(0, 0.02, shape), dtype)
        fields = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "tiny",
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(targets),
        }
        return cls(fields | config, tensors)

    def put(self, key: str, array: np.ndarray, dtype: str = "F32") -> None:
        """Set the tensor of ``key``; a key without the prefix is taken as it is."""
        self.tensors[key] = encode(array, dtype)

    def array(self, key: str) -> np.ndarray:
        dtype, shape, data = self.tensors[key]
        assert dtype == "F32"
        return np.frombuffer(data, "<f4").reshape(shape).copy()

    def poison(self, key: str, number: float) -> None:
        """Make the last number of the tensor ``number``."""
        array = self.array(key)
        array.flat[-1] = number
        self.put(key, array)

    def rename(self, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` in every key."""
        self.tensors = {key.replace(old, new): tensor for key, tensor in self.tensors.items()}

    def weights(self) -> bytes:
        return safetensors_bytes(self.tensors)

    def write(self, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        files = {
            "adapter_config.json": json.dumps(self.config).encode(),
            "adapter_model.safetensors": self.weights(),
        }
        for name, data in (files | self.extra).items():
            if name not in self.without:
                (directory / name).write_bytes(data)
        return directory


MakeAdapter = Callable[..., AdapterFiles]
Admit = Callable[..., InspectionReport]
Refuse = Callable[..., tuple[Fault, ...]]


@pytest.fixture
def tiny_base() -> BaseModel:
    return TIED_BASE


@pytest.fixture
def untied_base() -> BaseModel:
    return UNTIED_BASE


@pytest.fixture
def plain() -> MakeAdapter:
    return AdapterFiles.plain


@pytest.fixture
def admit(tmp_path: Path) -> Admit:
    """Writes the adapter and inspects it."""

    def inspected(
        adapter: AdapterFiles, base: BaseModel = TIED_BASE, limits: AdapterLimits = LIMITS
    ) -> InspectionReport:
        return inspect_adapter(adapter.write(tmp_path / "adapter"), base, limits).report

    return inspected


@pytest.fixture
def refuse(admit: Admit) -> Refuse:
    """Inspects an adapter that must be refused, and gives the faults."""

    def faults_of(adapter: AdapterFiles, **options: Any) -> tuple[Fault, ...]:
        with pytest.raises(AdapterRefused) as refused:
            admit(adapter, **options)
        return refused.value.faults

    return faults_of
