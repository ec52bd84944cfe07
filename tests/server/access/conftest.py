from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.storage.database import Database
from server.access.key_ring import KeyRing


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as opened:
        yield opened


@pytest.fixture
async def ring(database: Database) -> KeyRing:
    return await KeyRing.open(database)


@pytest.fixture
async def other_ring(database_url: str, ring: KeyRing) -> AsyncIterator[KeyRing]:
    """The ring of another process: same database, own connections."""
    async with Database.open(database_url) as opened:
        yield await KeyRing.open(opened)
