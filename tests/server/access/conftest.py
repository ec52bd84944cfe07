from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.storage.database import Database
from server.access.key_ring import KeyRing


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database.open(url) as opened:
        yield opened


@pytest.fixture
async def ring(database: Database) -> KeyRing:
    return await KeyRing.open(database)


@pytest.fixture
async def other_ring(url: str, ring: KeyRing) -> AsyncIterator[KeyRing]:
    """The ring of another process: same file, own connections."""
    async with Database.open(url) as opened:
        yield await KeyRing.open(opened)
