"""The store of files: rows in the database, bytes in a directory; several processes may share both."""

from collections.abc import AsyncIterator, Collection, Sequence, Set
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.names import DEFAULT_PROJECT
from adapters.storage.database import Database
from adapters.storage.disk import FileEntry, in_thread
from adapters.storage.orphan_ages import OrphanAges, stats_by_name
from trainer.clock import Clock, database_clock
from trainer.errors import FileCorrupt, FileInUse, FileNotFound, FileTooLarge, InvalidField
from trainer.files.file import MAX_BYTES, UPLOADABLE, File, Purpose
from trainer.page import MAX_LIMIT, Page, belongs_to, read_page
from trainer.schema import feedback, files, jobs, mint, row_reader, upload_parts, uploads

MAX_FILENAME_LENGTH: Final = 255
EXPIRY_S: Final = range(3600, 30 * 24 * 3600 + 1)
"""Seconds from creation to expiry: an hour to 30 days."""

_LIVING: Final = files.c.deleted_at.is_(None)
_file: Final = row_reader(File)


@dataclass(frozen=True, slots=True)
class FileStore:
    """Uploaded files and the result files of jobs.

    The bytes are durable before the row is: a crash leaves bytes without a row, never a row without bytes.
    Each method with ``file_id`` raises FileNotFound for an unknown one. ``project``: only its files; None: all.
    """

    database: Database
    directory: Path
    max_bytes: int = MAX_BYTES
    clock: Clock = database_clock
    _ages: OrphanAges = field(default_factory=OrphanAges, init=False)

    async def create(
        self,
        purpose: str,
        filename: str,
        chunks: AsyncIterator[bytes],
        *,
        expires_after_s: int | None = None,
        project: str = DEFAULT_PROJECT,
    ) -> File:
        """Store ``chunks`` as a new file. A file for ``batch`` expires after 30 days by default.

        Raises:
            InvalidField: the purpose, the name or the expiry is out of bounds.
            FileTooLarge: more bytes than the server accepts from callers.
            StorageFull: the disk has no space left.
        """
        check_fields(purpose, filename, expires_after_s)
        if expires_after_s is None and purpose == Purpose.BATCH:
            expires_after_s = EXPIRY_S[-1]
        file_id = mint("file-")
        limited = self._limited(chunks) if purpose in UPLOADABLE else chunks
        entry = await self._write(self.directory / file_id, limited)
        async with self.database.write() as connection:
            at = await self.clock(connection)
            row = await connection.execute(
                insert(files)
                .values(
                    id=file_id,
                    project=project,
                    created_at=at,
                    filename=filename,
                    purpose=purpose,
                    status="processed",  # OpenAI's word; jobs validate the content themselves
                    size_bytes=entry.size,
                    sha256=entry.sha256,
                    expires_at=None if expires_after_s is None else at + timedelta(seconds=expires_after_s),
                )
                .returning(*files.c)
            )
            return _file(row.one())

    async def get(self, file_id: str, project: str | None = None) -> File:
        async with self.database.read() as connection:
            return _file(await _existing(connection, file_id, project))

    async def list(
        self,
        *,
        after: str | None = None,
        limit: int = MAX_LIMIT,
        newest_first: bool = True,
        purpose: str | None = None,
        project: str | None = None,
    ) -> Page[File]:
        """Return the files that follow the one with the id ``after``, of one purpose or of all.

        Raises:
            InvalidField: no file has the id ``after``, or ``limit`` is out of bounds.
        """
        where = [_LIVING] if purpose is None else [_LIVING, files.c.purpose == purpose]
        async with self.database.read() as connection:
            return await read_page(
                connection, files, _file, *where, after=after, limit=limit, newest_first=newest_first, project=project
            )

    async def content(self, file_id: str) -> Path:
        """Return the path of the file's bytes; once opened, it stays readable when the file is deleted.

        Raises:
            FileCorrupt: its bytes are gone or cut short.
        """
        file = await self.get(file_id)
        path = self.directory / file_id
        if await in_thread(_size, path) != file.size_bytes:
            raise FileCorrupt(
                f"the bytes of file '{file_id}' are gone or cut short, or lie in another server's --data-dir: ask that "
                "server, or delete the file and upload it again"
            )
        return path

    async def stored_bytes(self, project: str) -> int:
        """Return the bytes of the files of ``project``, of the parts of its uploads and of its feedback."""
        is_project = (files.c.project == project, _LIVING)
        whole = select(func.coalesce(func.sum(files.c.size_bytes), 0)).where(*is_project)
        parts = select(func.coalesce(func.sum(upload_parts.c.size_bytes), 0))
        parts = parts.join(uploads, uploads.c.id == upload_parts.c.upload_id).where(uploads.c.project == project)
        feedback_bytes = select(func.coalesce(func.sum(feedback.c.size_bytes), 0)).where(feedback.c.project == project)
        async with self.database.read() as connection:
            return sum([int((await connection.execute(each)).scalar_one()) for each in (whole, parts, feedback_bytes)])

    async def delete(self, file_id: str) -> None:
        """Delete a file and its bytes.

        Raises:
            FileInUse: an unfinished job needs it.
        """
        async with self.database.write() as connection:
            await _existing(connection, file_id, is_locked=True)
            if needed := await _needed_by_jobs(connection, {file_id}):
                raise FileInUse(
                    f"job '{needed[file_id]}' still needs file '{file_id}': cancel the job, or wait until it has ended",
                    param="file_id",
                )
            await self._mark_deleted(connection, {file_id})
        await in_thread(self._remove, [file_id])

    async def sweep(self, grace_s: float) -> Sequence[str]:
        """Delete the expired files, and bytes that a crash left without a row; return the ids of both.

        A file that an unfinished job needs stays until the job has ended. Bytes without a row stay until
        sweeps have seen them unchanged for ``grace_s`` seconds, which must exceed the longest pause of an upload.
        """
        async with self.database.write() as connection:
            expired = files.c.expires_at <= await self.clock(connection)
            due = set(
                (await connection.execute(select(files.c.id).where(expired, _LIVING).with_for_update())).scalars()
            )
            due -= (await _needed_by_jobs(connection, due)).keys()
            await self._mark_deleted(connection, due)
        async with self.database.read() as connection:
            living = set((await connection.execute(select(files.c.id).where(_LIVING))).scalars())
        orphans = await in_thread(self._orphans, living, grace_s)
        await in_thread(self._remove, due | orphans)
        return sorted(due | orphans)

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a new file durably. Leaves no file when it raises."""
        try:
            return await FileEntry.write(path, chunks)
        except BaseException:
            await in_thread(path.unlink, missing_ok=True)
            raise

    async def _limited(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.max_bytes:
                raise FileTooLarge(
                    f"the file has more than the {self.max_bytes} bytes this server accepts: "
                    "split it, or raise the server's limit",
                    param="file",
                )
            yield chunk

    async def _mark_deleted(self, connection: AsyncConnection, file_ids: Collection[str]) -> None:
        at = await self.clock(connection)
        await connection.execute(update(files).where(files.c.id.in_(file_ids)).values(deleted_at=at))

    def _remove(self, file_ids: Collection[str]) -> None:
        for file_id in file_ids:
            (self.directory / file_id).unlink(missing_ok=True)

    def _orphans(self, living: Set[str], grace_s: float) -> set[str]:
        found = [path for path in self.directory.glob("file-*") if path.name not in living]
        return self._ages.old(stats_by_name(found), grace_s)


async def _needed_by_jobs(connection: AsyncConnection, file_ids: Set[str]) -> dict[str, str]:
    """Return the files among ``file_ids`` that unfinished jobs need, each with the id of one such job."""
    needs = or_(jobs.c.training_file.in_(file_ids), jobs.c.validation_file.in_(file_ids))
    columns = (jobs.c.id, jobs.c.training_file, jobs.c.validation_file)
    rows = await connection.execute(select(*columns).where(needs, jobs.c.finished_at.is_(None)))
    return {file_id: row.id for row in rows for file_id in file_ids & {row.training_file, row.validation_file}}


def check_fields(purpose: str, filename: str, expires_after_s: int | None) -> None:
    """Check the fields of a new file. Raises InvalidField for the first that is out of bounds."""
    if purpose not in frozenset(Purpose):
        raise InvalidField(f"purpose is one of {', '.join(Purpose)}", param="purpose")
    if not (filename.strip() and filename.isprintable() and len(filename) <= MAX_FILENAME_LENGTH):
        raise InvalidField(f"a file's name has 1 to {MAX_FILENAME_LENGTH} printable characters", param="file")
    if expires_after_s is not None and expires_after_s not in EXPIRY_S:
        raise InvalidField(
            f"a file may expire {EXPIRY_S[0]} to {EXPIRY_S[-1]} seconds after its creation",
            param="expires_after.seconds",
        )


async def _existing(
    connection: AsyncConnection, file_id: str, project: str | None = None, *, is_locked: bool = False
) -> Row[Any]:
    """Return the row of a file that was not deleted; ``is_locked``: until the end of the transaction."""
    statement = select(files).where(files.c.id == file_id, _LIVING, *belongs_to(files, project))
    row = (await connection.execute(statement.with_for_update() if is_locked else statement)).one_or_none()
    if row is None:
        raise FileNotFound(
            f"no file has the id '{file_id}', or it was deleted; list the files to see which exist", param="file_id"
        )
    return row


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
