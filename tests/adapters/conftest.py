from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.names import FineTunedName
from adapters.registry import Registry
from adapters.staging import Staged, Staging
from adapters.versions import Version

AddVersion = Callable[..., Awaitable[Version]]
WriteAdapter = Callable[..., Path]
Stage = Callable[..., Awaitable[Manifest]]


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


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
