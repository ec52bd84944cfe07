"""Options and fixtures of the whole test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.storage import orphan_ages
from tests.postgres import PostgresServer
from tests.process_clock import ProcessClock


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=("fake", "vllm"), default="fake", help="engine that test_contract.py is about")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer.running() as server:
        yield server


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: of SQLite, or of the kind that ``on_both_databases`` asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url


@pytest.fixture
def process_clock(monkeypatch: pytest.MonkeyPatch) -> ProcessClock:
    clock = ProcessClock()
    monkeypatch.setattr(orphan_ages, "monotonic", lambda: clock.now_s)
    return clock
