from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.base_model import BaseModel
from adapters.names import DEFAULT_PROJECT, FineTunedName
from adapters.registry.registry import Registry
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.storage.staging import Staged, Staging
from adapters.versions import Version

AddVersion = Callable[..., Awaitable[Version]]
WriteAdapter = Callable[..., Path]
Stage = Callable[..., Awaitable[Manifest]]
Changes = dict[str, np.ndarray]

QUERIES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
LORA_BASE = BaseModel.from_shapes(
    "tiny",
    {"model_type": "llama", "tie_word_embeddings": False},
    {
        **{f"model.layers.{layer}.self_attn.{name}": (24, 32) for layer in (0, 1) for name in ("q_proj", "v_proj")},
        "lm_head": (40, 32),
        "model.embed_tokens": (32, 40),
    },
)


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
async def registry(database_url: str) -> AsyncIterator[Registry]:
    async with Registry.open(database_url) as opened:
        yield opened


@pytest.fixture
def add(registry: Registry) -> AddVersion:
    """Adds a version with plausible facts to the registry (or another one given as ``to``)."""

    async def add(
        name: str,
        *,
        alias: str | None = None,
        digest: str = "0" * 64,
        fine_tuned_name: FineTunedName | None = None,
        lora_name: str | None = None,
        project: str = DEFAULT_PROJECT,
        to: Registry = registry,
    ) -> Version:
        return await to.add_version(
            name,
            digest=digest,
            base_fingerprint="base",
            rank=8,
            size_bytes=1000,
            source="upload",
            report={"rank": 8},
            alias=alias,
            fine_tuned_name=fine_tuned_name,
            lora_name=lora_name,
            project=project,
        )

    return add


@pytest.fixture
def write_adapter(tmp_path: Path) -> WriteAdapter:
    """Makes a directory with the two files of an adapter, different for each ``seed``."""

    def write(seed: int = 0, *, under: Path = tmp_path / "sources") -> Path:
        directory = under / f"adapter-{seed}"
        directory.mkdir(parents=True)
        (directory / CONFIG_FILE).write_text(json.dumps({"peft_type": "LORA", "r": 8}))
        (directory / WEIGHTS_FILE).write_bytes(bytes([seed]) * 5000)
        return directory

    return write


@pytest.fixture
def lora_base() -> BaseModel:
    """A base model with untied embeddings."""
    return LORA_BASE


@pytest.fixture
def write_lora(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a directory with a LoRA for ``lora_base``: random numbers for each ``seed``, ``config`` fields replaced."""

    def write(
        seed: int = 0,
        *,
        rank: int = 4,
        modules: Sequence[str] = QUERIES,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> Path:
        random = torch.Generator().manual_seed(seed)
        tensors = {}
        for module in modules:
            rows, columns = LORA_BASE.modules[module]
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                key = f"lora_embedding_{side}" if module.endswith("embed_tokens") else f"lora_{side}.weight"
                numbers = torch.randn(shape, generator=random) * 0.1
                tensors[f"base_model.model.{module}.{key}"] = numbers.to(dtype)
        targets = sorted({module.rpartition(".")[2] for module in modules})
        fields = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": rank,
            "target_modules": targets,
        }
        directory = tmp_path_factory.mktemp("lora")
        (directory / CONFIG_FILE).write_text(json.dumps(fields | config))
        save_file(tensors, directory / WEIGHTS_FILE)
        return directory

    return write


@pytest.fixture
def changes() -> Callable[[Path], Changes]:
    """Forms what the LoRA in a directory adds to each weight, in float64; nothing of ours reads it."""

    def form(directory: Path) -> Changes:
        config = json.loads((directory / CONFIG_FILE).read_text())
        scale = config["lora_alpha"] / (config["r"] ** (0.5 if config.get("use_rslora") else 1))
        tensors = {name: tensor.double() for name, tensor in load_file(directory / WEIGHTS_FILE).items()}
        return {
            name.partition(".lora_")[0].removeprefix("base_model.model."): (
                scale * tensors[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")] @ a
            ).numpy()
            for name, a in tensors.items()
            if "_A" in name
        }

    return form


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "blobs", max_bytes=1_000_000)


@pytest.fixture
def fill() -> Stage:
    """Writes both files into a staging directory, different for each ``seed``."""

    async def fill(staged: Staged, seed: int = 0) -> Manifest:
        await staged.write(CONFIG_FILE, chunks(b'{"r":', b" 8}"))
        await staged.write(WEIGHTS_FILE, chunks(*[bytes([seed]) * 1000] * 5))
        return staged.manifest()

    return fill
