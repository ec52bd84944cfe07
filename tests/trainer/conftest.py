from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import database_clock
from trainer.jobs.job import Job, JobDraft
from trainer.records import Records

Upload = Callable[..., Awaitable[str]]
"""Takes pieces of bytes and fields of the file; returns its id."""
Create = Callable[..., Awaitable[Job]]
"""Takes fields of the draft; returns the job."""

SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}}


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class ClockAhead:
    """The database's clock plus the seconds that a test advanced it by."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    async def __call__(self, connection: AsyncConnection) -> datetime:
        return await database_clock(connection) + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as opened:
        yield opened


@pytest.fixture
def clock() -> ClockAhead:
    return ClockAhead()


@pytest.fixture
async def records(database: Database, data_dir: Path, clock: ClockAhead) -> Records:
    return await Records.open(database, data_dir, max_file_bytes=4_000_000, clock=clock)


@pytest.fixture
def upload(records: Records) -> Upload:
    """Uploads a file and returns its id."""

    async def upload(*pieces: bytes, purpose: str = "fine-tune", filename: str = "train.jsonl", **options: Any) -> str:
        return (await records.files.create(purpose, filename, chunks(*pieces or (b"{}\n",)), **options)).id

    return upload


@pytest.fixture
async def training_file(upload: Upload) -> str:
    return await upload()


@pytest.fixture
def create(records: Records, training_file: str) -> Create:
    """Creates a job that is still to be validated."""

    async def create(**fields: Any) -> Job:
        draft = {"model": "base", "training_file": training_file, "method": SUPERVISED, **fields}
        return await records.jobs.create(JobDraft(**draft))

    return create


@pytest.fixture
def enqueue(records: Records, create: Create) -> Create:
    """Creates a job that waits for a worker."""

    async def enqueue(**fields: Any) -> Job:
        job = await create(**fields)
        return await records.jobs.admit(job.id, job.method)

    return enqueue
