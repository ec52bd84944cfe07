"""A stand-in server for the load generator, and the repository."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bench.stand_in import StandIn, run_stand_in


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    async with run_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
