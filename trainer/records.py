"""The trainer's stores, over one database and one directory."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.storage.database import Database
from adapters.storage.disk import fsync_directory, in_thread
from trainer.clock import Clock, database_clock
from trainer.evals.eval_store import EvalStore
from trainer.evals.run_queue import EvalRunQueue
from trainer.evals.run_store import EvalRunStore
from trainer.feedback.feedback_store import FeedbackStore
from trainer.files.file import MAX_BYTES
from trainer.files.file_store import FileStore
from trainer.files.upload_store import UploadStore
from trainer.jobs.checkpoints import CheckpointStore
from trainer.jobs.event_log import EventLog
from trainer.jobs.job_store import JobStore
from trainer.jobs.queue import MAX_DEATHS, Queue
from trainer.schema import MIGRATIONS, VERSION_TABLE

DIRECTORY_ID: Final = "directory-id"
"""File with the id of the directory, which jobs carry: their files and runs lie there."""


@dataclass(frozen=True, slots=True)
class Records:
    """The stores. Processes that share the database and the directory see the same content."""

    files: FileStore
    uploads: UploadStore
    jobs: JobStore
    events: EventLog
    checkpoints: CheckpointStore
    queue: Queue
    evals: EvalStore
    eval_runs: EvalRunStore
    eval_queue: EvalRunQueue
    feedback: FeedbackStore

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
        ``data_dir/uploads``. Jobs are checked and trained by processes with the same directory.

        The caller closes the database.
        """
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        store = await in_thread(_directory_id, data_dir)
        files = FileStore(database, data_dir / "files", max_bytes=max_file_bytes, clock=clock)
        return cls(
            files,
            UploadStore(files, data_dir / "uploads"),
            JobStore(database, store, clock=clock),
            EventLog(database),
            CheckpointStore(database, clock=clock),
            Queue(database, store, max_deaths=max_deaths, clock=clock),
            EvalStore(database, clock=clock),
            EvalRunStore(database, clock=clock),
            EvalRunQueue(database, clock=clock),
            FeedbackStore(database, clock=clock),
        )


def _directory_id(directory: Path) -> str:
    """Return the id of ``directory``, which the first process to open it makes."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / DIRECTORY_ID
    if found := _read(path):
        return found
    drawn = secrets.token_hex(16)
    made = directory / f".{DIRECTORY_ID}.{drawn}"  # no process id: containers that share a volume have the same
    with made.open("x") as file:
        file.write(drawn)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)
    except FileExistsError:  # another process was first
        pass
    except OSError:  # a file system without hard links
        made.rename(path)
    made.unlink(missing_ok=True)
    fsync_directory(directory)
    return _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
