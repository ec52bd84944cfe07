"""The store of uploads: parts on disk until they are joined to a file, for an hour at most."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.names import DEFAULT_PROJECT
from adapters.storage.disk import FileEntry, in_thread
from adapters.storage.orphan_ages import OrphanAges, stats_by_name
from trainer.errors import FileTooLarge, IllegalTransition, InvalidField, UploadNotFound
from trainer.files.file import check_uploadable
from trainer.files.file_store import FileStore, check_fields
from trainer.files.upload import MAX_PART_BYTES, UPLOAD_S, FileUpload, UploadPart, UploadStatus
from trainer.page import belongs_to
from trainer.schema import mint, row_reader, upload_parts, uploads

_PIECE_BYTES: Final = 1 << 20

_upload: Final = row_reader(FileUpload)
_part: Final = row_reader(UploadPart)


@dataclass(frozen=True, slots=True)
class UploadStore:
    """Uploads in parts, which become files of ``files``; several processes may share both.

    Each method with ``upload_id`` raises UploadNotFound for an unknown one, and IllegalTransition for one that was
    completed or cancelled, or has expired.
    """

    files: FileStore
    directory: Path
    _ages: OrphanAges = field(default_factory=OrphanAges, init=False)

    async def create(
        self,
        purpose: str,
        filename: str,
        size_bytes: int,
        *,
        file_expires_after_s: int | None = None,
        project: str = DEFAULT_PROJECT,
    ) -> FileUpload:
        """Create an upload of ``size_bytes`` bytes.

        Raises:
            InvalidField: the purpose, the name or the expiry is out of bounds.
            FileTooLarge: more bytes than the server accepts in one file.
        """
        check_uploadable(purpose)
        check_fields(purpose, filename, file_expires_after_s)
        if size_bytes > self.files.max_bytes:
            raise FileTooLarge(
                f"the file would have {size_bytes} bytes, more than the {self.files.max_bytes} that this server "
                "accepts: split it, or start the server with a larger --max-file-bytes",
                param="bytes",
            )
        async with self.files.database.write() as connection:
            at = await self.files.clock(connection)
            values = {
                "id": mint("upload_"),
                "project": project,
                "created_at": at,
                "expires_at": at + timedelta(seconds=UPLOAD_S),
                "status": UploadStatus.PENDING,
                "filename": filename,
                "purpose": purpose,
                "size_bytes": size_bytes,
                "file_expires_after_s": file_expires_after_s,
            }
            row = (await connection.execute(insert(uploads).values(values).returning(*uploads.c))).one()
        return _upload(row)

    async def check(self, upload_id: str, project: str | None) -> None:
        """Check that the upload is one of ``project``, None: of any; ended or not."""
        statement = select(uploads.c.id).where(uploads.c.id == upload_id, *belongs_to(uploads, project))
        async with self.files.database.read() as connection:
            if (await connection.execute(statement)).first() is None:
                raise _missing(upload_id)

    async def add_part(self, upload_id: str, chunks: AsyncIterator[bytes]) -> UploadPart:
        """Store a part. Parts may be sent at once, and again where a response was lost.

        Raises:
            FileTooLarge: the part is too large, or all parts together have twice the upload's bytes.
        """
        async with self.files.database.read() as connection:
            upload = await self._pending(connection, upload_id)
            stored = await _stored_bytes(connection, upload_id)
        limit = min(MAX_PART_BYTES, 2 * upload.size_bytes - stored)
        part_id = mint("part_")
        path = self.directory / upload_id / part_id
        try:
            async with self._unless_ended(upload_id):
                entry = await FileEntry.write(path, _limited(chunks, limit))
            async with self.files.database.write() as connection:
                await self._pending(connection, upload_id, is_locked=True)  # it may have ended meanwhile
                values = {
                    "id": part_id,
                    "created_at": await self.files.clock(connection),
                    "upload_id": upload_id,
                    "size_bytes": entry.size,
                }
                adding = insert(upload_parts).values(values).returning(*upload_parts.c)
                return _part((await connection.execute(adding)).one())
        except BaseException:
            await in_thread(path.unlink, missing_ok=True)
            raise

    async def complete(self, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None) -> FileUpload:
        """Join the parts in the order of ``part_ids`` to a file; the bytes are copied once. Other parts are dropped.

        Raises:
            InvalidField: a part is unknown or named twice, or the joined bytes have another size or MD5 than stated.
        """
        async with self.files.database.read() as connection:
            upload = await self._pending(connection, upload_id)
            rows = await connection.execute(select(upload_parts).where(upload_parts.c.upload_id == upload_id))
            parts = {row.id: row.size_bytes for row in rows}
        for place, part_id in enumerate(part_ids):
            if part_id not in parts or part_id in part_ids[:place]:
                found = "is named twice" if part_id in parts else "is no part of this upload"
                raise InvalidField(f"part '{part_id:.100}' {found}", param=f"part_ids.{place}")
        size = sum(parts[part_id] for part_id in part_ids)
        if size != upload.size_bytes:
            raise InvalidField(
                f"the parts have {size} bytes together and the upload was created for {upload.size_bytes}: "
                "name all its parts, or create an upload of the right size",
                param="part_ids",
            )
        paths = [self.directory / upload_id / part_id for part_id in part_ids]
        async with self._unless_ended(upload_id):
            file = await self.files.create(
                upload.purpose,
                upload.filename,
                _joined(paths, md5),
                expires_after_s=upload.file_expires_after_s,
                project=upload.project,
            )
        try:
            ended = await self._end(upload_id, UploadStatus.COMPLETED, file_id=file.id)
        except BaseException:  # completed or cancelled at the same time
            await self.files.delete(file.id)
            raise
        return replace(ended, file=file)

    async def cancel(self, upload_id: str) -> FileUpload:
        """End an upload; its parts are deleted."""
        return await self._end(upload_id, UploadStatus.CANCELLED)

    async def sweep(self, grace_s: float) -> Sequence[str]:
        """End the uploads that have expired, and delete parts without a pending upload; return their uploads' ids.

        Parts without a pending upload stay until sweeps have seen them unchanged for ``grace_s`` seconds.
        """
        async with self.files.database.write() as connection:
            is_due = (uploads.c.expires_at <= await self.files.clock(connection)) & _IS_PENDING
            await connection.execute(update(uploads).where(is_due).values(status=UploadStatus.EXPIRED))
            pending = set((await connection.execute(select(uploads.c.id).where(_IS_PENDING))).scalars())
            await connection.execute(delete(upload_parts).where(upload_parts.c.upload_id.not_in(pending)))
        left = sorted(await in_thread(self._old, pending, grace_s))
        for name in left:
            await in_thread(shutil.rmtree, self.directory / name, ignore_errors=True)
        return left

    def _old(self, pending: Set[str], grace_s: float) -> set[str]:
        found = [path for path in self.directory.glob("*") if path.name not in pending]
        return self._ages.old(stats_by_name(found), grace_s)

    async def _end(self, upload_id: str, status: UploadStatus, *, file_id: str | None = None) -> FileUpload:
        async with self.files.database.write() as connection:
            await self._pending(connection, upload_id, is_locked=True)
            ending = update(uploads).where(uploads.c.id == upload_id).values(status=status, file_id=file_id)
            row = (await connection.execute(ending.returning(*uploads.c))).one()
            await connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
        await in_thread(shutil.rmtree, self.directory / upload_id, ignore_errors=True)
        return _upload(row)

    @asynccontextmanager
    async def _unless_ended(self, upload_id: str) -> AsyncIterator[None]:
        """Raise IllegalTransition where a part's file is missing because the upload has ended in the block."""
        try:
            yield
        except FileNotFoundError:
            async with self.files.database.read() as connection:
                await self._pending(connection, upload_id)
            raise

    async def _pending(self, connection: AsyncConnection, upload_id: str, *, is_locked: bool = False) -> FileUpload:
        """Return a pending upload; ``is_locked``: until the end of the transaction."""
        statement = select(uploads).where(uploads.c.id == upload_id)
        row = (await connection.execute(statement.with_for_update() if is_locked else statement)).one_or_none()
        if row is None:
            raise _missing(upload_id)
        status = _status(row, await self.files.clock(connection))
        if status is not UploadStatus.PENDING:
            raise IllegalTransition(f"upload '{upload_id}' is {status}: create another one", status=status)
        return _upload(row)


_IS_PENDING: Final = uploads.c.status == UploadStatus.PENDING


def _missing(upload_id: str) -> UploadNotFound:
    return UploadNotFound(f"no upload has the id '{upload_id:.100}'; POST /v1/uploads creates one", param="upload_id")


def _status(row: Row[Any], at: datetime) -> UploadStatus:
    is_over = row.status == UploadStatus.PENDING and row.expires_at <= at
    return UploadStatus.EXPIRED if is_over else UploadStatus(row.status)


async def _stored_bytes(connection: AsyncConnection, upload_id: str) -> int:
    total = select(func.sum(upload_parts.c.size_bytes)).where(upload_parts.c.upload_id == upload_id)
    return (await connection.execute(total)).scalar_one() or 0


async def _limited(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise FileTooLarge(
                f"the part has more than {max(0, limit)} bytes: a part has at most {MAX_PART_BYTES}, and all parts "
                "together, those sent again included, twice the bytes that the upload was created for",
                param="data",
            )
        yield chunk


async def _joined(paths: Sequence[Path], md5: str | None) -> AsyncIterator[bytes]:
    """Yield the bytes of all files. Raises InvalidField at the end if they have another MD5 than ``md5``."""
    digest = hashlib.md5(usedforsecurity=False)
    for path in paths:
        with path.open("rb") as file:
            while piece := await in_thread(file.read, _PIECE_BYTES):
                await in_thread(digest.update, piece)
                yield piece
    if md5 is not None and digest.hexdigest() != md5.strip().lower():
        raise InvalidField(
            f"the joined parts have the MD5 {digest.hexdigest()}: name the parts in their order, or send them again",
            param="md5",
        )
