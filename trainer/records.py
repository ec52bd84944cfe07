"""The trainer's stores, over one database and one directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.files.file import MAX_BYTES
from trainer.files.file_store import FileStore
from trainer.files.upload_store import UploadStore
from trainer.jobs.checkpoints import CheckpointStore
from trainer.jobs.events import EventLog
from trainer.jobs.job_store import JobStore
from trainer.jobs.queue import MAX_DEATHS, Queue
from trainer.schema import MIGRATIONS, VERSION_TABLE


@dataclass(frozen=True, slots=True)
class Records:
    """The stores. Processes that share the database and the directory see the same content."""

    files: FileStore
    uploads: UploadStore
    jobs: JobStore
    events: EventLog
    checkpoints: CheckpointStore
    queue: Queue

    @classmethod
    async def open(
        cls,
        database: Database,
        data_dir: Path,
        *,
        max_file_bytes: int = MAX_BYTES,
        max_deaths: int = MAX_DEATHS,
        clock: Clock = database_clock,
    ) -> Records:
        """Migrate the tables in ``database`` and open the stores; files go to ``data_dir/files``, parts of uploads to
        ``data_dir/uploads``.

        The caller closes the database.
        """
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        files = FileStore(database, data_dir / "files", max_bytes=max_file_bytes, clock=clock)
        return cls(
            files,
            UploadStore(files, data_dir / "uploads"),
            JobStore(database, clock=clock),
            EventLog(database),
            CheckpointStore(database, clock=clock),
            Queue(database, max_deaths=max_deaths, clock=clock),
        )
