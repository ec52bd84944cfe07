"""The directory of the trainer's stores tells processes which jobs are theirs."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from adapters.storage.database import Database
from trainer.records import DIRECTORY_ID, Records


async def store_of(database: Database, directory: Path) -> str:
    return (await Records.open(database, directory)).jobs.store


async def test_a_directory_has_one_id_whoever_opens_it_first(database: Database, tmp_path: Path) -> None:
    stores = await asyncio.gather(*(store_of(database, tmp_path / "a") for _ in range(20)))
    assert len(set(stores)) == 1
    assert await store_of(database, tmp_path / "a") == stores[0]
    assert [path.name for path in (tmp_path / "a").iterdir() if DIRECTORY_ID in path.name] == [DIRECTORY_ID]
    assert await store_of(database, tmp_path / "b") != stores[0]


async def test_a_directory_has_an_id_on_a_disk_without_hard_links(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = await store_of(database, tmp_path / "a")
    assert store == await store_of(database, tmp_path / "a") != ""


async def test_a_directory_that_has_an_id_is_opened_on_a_full_disk(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_of(database, tmp_path / "a")

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.records.secrets.token_hex", full)  # asked for before anything is written
    assert await store_of(database, tmp_path / "a") == store
