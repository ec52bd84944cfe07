"""The store of batches: created, read and cancelled by callers; taken, renewed and ended by the process that works.

A claim on a batch carries a lease and a fencing token, as on a job (``trainer.jobs.queue``): measured by the
database's clock, and lost once another process has taken the batch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from adapters.storage.disk import fsync_directory, in_thread
from adapters.storage.orphan_ages import OrphanAges, stats_by_name
from server.batches.batch import BatchDraft, InputFault, RequestBatch
from server.batches.schema import MIGRATIONS, VERSION_TABLE, batches
from server.batches.state import BATCH_STATES, BatchState, BatchVerb
from server.errors import BatchNotFound
from trainer.clock import Clock, database_clock
from trainer.errors import FileNotFound, IllegalTransition, InvalidField, LeaseLost
from trainer.files.file import Purpose
from trainer.files.file_store import FileStore
from trainer.page import Page, belongs_to, read_page
from trainer.schema import mint, row_reader
from trainer.turns import next_number

WINDOW_S: Final = 24 * 3600
"""Seconds from creation to expiry."""
INPUT: Final = "input.jsonl"
"""Name of a batch's input file in its directory."""

_UNFINISHED: Final = frozenset(BatchState) - BATCH_STATES.terminal
_batch: Final = row_reader(RequestBatch)


@dataclass(frozen=True, slots=True)
class BatchClaim:
    """A process's claim on a batch. ``batch`` is as it was when it was taken."""

    batch: RequestBatch
    worker: str
    token: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class BatchStore:
    """The batches in a database that several processes may share, with the directory of their input and results.

    Each method with ``batch_id`` raises BatchNotFound for an unknown one; each with ``claim`` raises LeaseLost once
    another process has taken the batch. ``project``: only its batches; None: all.
    """

    database: Database
    files: FileStore
    directory: Path
    """On the same file system as the files."""
    clock: Clock = database_clock
    _ages: OrphanAges = field(default_factory=OrphanAges, init=False)

    @classmethod
    async def open(cls, files: FileStore, directory: Path, *, clock: Clock = database_clock) -> BatchStore:
        """Migrate the table in the database of ``files`` and open the store."""
        await files.database.migrate(MIGRATIONS, VERSION_TABLE)
        return cls(files.database, files, directory, clock)

    def directory_of(self, batch: RequestBatch) -> Path:
        """Return the directory with the batch's input and the results so far; it is removed when the batch ends."""
        return self.directory / batch.id

    async def create(self, draft: BatchDraft) -> RequestBatch:
        """Create a batch. Its input is linked into its directory, so that the file may be deleted.

        Raises:
            InvalidField: the input file does not exist in the batch's project, or has another purpose.
        """
        content, batch_id = await self._input(draft.input_file_id, draft.project), mint("batch_")
        await in_thread(_link, content, self.directory / batch_id / INPUT)  # before the row: a crash leaves no row
        async with self.database.write() as connection:
            at = await self.clock(connection)
            values = {
                **asdict(draft),
                "id": batch_id,
                "created_at": at,
                "state": BatchState.VALIDATING,
                "expires_at": at + timedelta(seconds=WINDOW_S),
                **dict.fromkeys(("token", "total", "completed", "failed"), 0),
            }
            return _batch((await connection.execute(insert(batches).values(values).returning(*batches.c))).one())

    async def get(self, batch_id: str, project: str | None = None) -> RequestBatch:
        async with self.database.read() as connection:
            return _batch(await _existing(connection, batch_id, project))

    async def list(
        self, *, after: str | None = None, limit: int = 20, project: str | None = None
    ) -> Page[RequestBatch]:
        """Return the batches before the one with the id ``after``, newest first.

        Raises:
            InvalidField: no batch has the id ``after``, or ``limit`` is out of bounds.
        """
        async with self.database.read() as connection:
            return await read_page(connection, batches, _batch, after=after, limit=limit, project=project)

    async def cancel(self, batch_id: str) -> RequestBatch:
        """Let a batch end with the results it has by now; one that is cancelling already stays so.

        Raises:
            IllegalTransition: the batch has ended, or all its lines have results.
        """
        async with self.database.write() as connection:
            row = await self._move(connection, BatchVerb.CANCEL, batches.c.id == batch_id)
            if row is None:
                row = await _existing(connection, batch_id)
                if row.state != BatchState.CANCELLING:
                    raise IllegalTransition(
                        f"batch '{batch_id}' is {row.state}, which does not allow cancel", status=row.state
                    )
            return _batch(row)

    # -- the process that works on a batch ---------------------------------------------------------------------

    async def take(self, worker: str, lease_s: float) -> BatchClaim | None:
        """Take an unfinished batch whose input is here and that no other process holds; None without one.

        It is the oldest of the project whose turn it is.
        Costs no query while the directory is empty, and no write while there is nothing to take.
        """
        names = await in_thread(_names_in, self.directory)
        if not names:
            return None
        async with self.database.read() as connection:
            is_free = _is_free(names, await self.clock(connection))
            if (await connection.execute(select(batches.c.number).where(is_free).limit(1))).first() is None:
                return None
        async with self.database.write() as connection:
            at = await self.clock(connection)
            is_held = batches.c.state.in_(_UNFINISHED) & (batches.c.lease_until > at)
            is_free, served_at = _is_free(names, at), batches.c.in_progress_at
            next_ = next_number(batches, is_free=is_free, is_held=is_held, served_at=served_at)
            number = (await connection.execute(next_)).scalar_one_or_none()
            if number is None:
                return None
            lease = {"worker": worker, "lease_until": at + timedelta(seconds=lease_s), "token": batches.c.token + 1}
            taking = update(batches).where(batches.c.number == number).values(lease).returning(*batches.c)
            batch = _batch((await connection.execute(taking)).one())
        return BatchClaim(batch, worker, batch.token, lease_s)

    async def renew(self, claim: BatchClaim, *, completed: int, failed: int) -> tuple[RequestBatch, bool]:
        """Renew the lease and write the counts; return the batch as it is now, and whether its time is over."""
        async with self.database.write() as connection:
            at = await self.clock(connection)
            values = {
                "lease_until": at + timedelta(seconds=claim.lease_s),
                "completed": completed,
                "failed": failed,
            }
            renewal = update(batches).where(_is_held_by(claim)).values(values).returning(*batches.c)
            row = (await connection.execute(renewal)).one_or_none()
            if row is None:
                return _batch(await _row_of(connection, claim)), False  # it has ended
            return _batch(row), row.expires_at <= at

    async def move(self, claim: BatchClaim, verb: BatchVerb, **values: Any) -> RequestBatch | None:
        """Apply ``verb`` and write ``values``; None if the batch's state does not allow it: it was cancelled."""
        async with self.database.write() as connection:
            row = await self._move(connection, verb, _is_held_by(claim), **values)
            if row is None:
                await _row_of(connection, claim)
            return None if row is None else _batch(row)

    async def release(self, claim: BatchClaim) -> None:
        """Let other processes take the batch; no effect once one has."""
        async with self.database.write() as connection:
            await connection.execute(update(batches).where(_is_held_by(claim)).values(worker=None, lease_until=None))

    async def remove_directory(self, batch: RequestBatch) -> None:
        await in_thread(shutil.rmtree, self.directory_of(batch), ignore_errors=True)

    async def sweep(self, grace_s: float) -> Sequence[str]:
        """Remove the directories that a crash left without an unfinished batch, the same for ``grace_s`` seconds."""
        names = await in_thread(_names_in, self.directory)
        async with self.database.read() as connection:
            is_living = batches.c.id.in_(names) & batches.c.state.in_(_UNFINISHED)
            living = set((await connection.execute(select(batches.c.id).where(is_living))).scalars())
        orphans = [self.directory / name for name in set(names) - living]
        left = sorted(self._ages.old(await in_thread(stats_by_name, orphans), grace_s))
        for name in left:
            await in_thread(shutil.rmtree, self.directory / name, ignore_errors=True)
        return left

    async def _input(self, file_id: str, project: str) -> Path:
        try:
            file = await self.files.get(file_id, project)
        except FileNotFound:
            reason = "does not exist"
        else:
            if file.purpose == Purpose.BATCH:
                return await self.files.content(file_id)
            reason = f"has the purpose '{file.purpose}'"
        raise InvalidField(
            f"input_file_id '{file_id:.100}' {reason}: upload a file with purpose 'batch'", param="input_file_id"
        )

    async def _move(
        self, connection: AsyncConnection, verb: BatchVerb, *where: ColumnElement[bool], **values: Any
    ) -> Row[Any] | None:
        edges = BATCH_STATES.moves[verb]
        (target,) = set(edges.values())
        values |= {f"{target}_at": await self.clock(connection)}
        if target in BATCH_STATES.terminal:
            values |= {"worker": None, "lease_until": None}
        statement = (
            update(batches)
            .where(batches.c.state.in_(edges), *where)
            .values(state=case(dict(edges), value=batches.c.state), **values)
            .returning(*batches.c)
        )
        return (await connection.execute(statement)).one_or_none()


def faults_as_json(faults: Sequence[InputFault]) -> list[dict[str, Any]]:
    """Return ``faults`` as the column ``errors`` holds them."""
    return [asdict(fault) for fault in faults]


async def _existing(connection: AsyncConnection, batch_id: str, project: str | None = None) -> Row[Any]:
    statement = select(batches).where(batches.c.id == batch_id, *belongs_to(batches, project))
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise BatchNotFound(
            f"no batch has the id '{batch_id:.100}'; list the batches to see which exist", param="batch_id"
        )
    return row


def _is_held_by(claim: BatchClaim) -> ColumnElement[bool]:
    return and_(batches.c.id == claim.batch.id, batches.c.token == claim.token, batches.c.state.in_(_UNFINISHED))


async def _row_of(connection: AsyncConnection, claim: BatchClaim) -> Row[Any]:
    row = await _existing(connection, claim.batch.id)
    if row.token != claim.token:
        raise LeaseLost(f"another process has taken batch '{row.id}'; nothing was written")
    return row


def _is_free(names: Sequence[str], at: datetime) -> ColumnElement[bool]:
    is_unheld = or_(batches.c.lease_until.is_(None), batches.c.lease_until <= at)
    return batches.c.id.in_(names) & batches.c.state.in_(_UNFINISHED) & is_unheld


def _link(content: Path, target: Path) -> None:
    target.parent.mkdir(parents=True)
    os.link(content, target)
    for directory in target.parents[:3]:  # the directory of all batches may be new too
        fsync_directory(directory)


def _names_in(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]
