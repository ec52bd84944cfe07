"""Durable usage per day, key, project and adapter: counted in memory, written in batches, each batch exactly once.

A request costs an addition in memory. A server that is killed loses the counts of the last seconds, and counts nothing
twice: each batch has a number, and a batch whose commit had an unknown outcome is written only if its number is new.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from server.access.caller import Caller
from server.accounts.limits import LimitedKind
from server.accounts.schema import usage_rows, usage_writers
from trainer.jobs.job_store import JobStore
from trainer.schema import row_reader

log = structlog.get_logger(__name__)

BASE: Final = "(base)"
"""The adapter of requests that the base model answered."""
_KEYS: Final = ("day", "key_id", "project", "adapter")
_COUNTS: Final = tuple(column.name for column in usage_rows.columns if column.name not in _KEYS)
_WRITER_KEPT_FOR: Final = timedelta(days=7)


@dataclass(slots=True)
class UsageCounts:
    """What is added up. Requests are those with an answer; a batch's lines are requests."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt tokens that the engine had in its prefix cache."""
    training_tokens: int = 0
    training_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """The usage of one day, key, project and adapter."""

    day: date
    key_id: str
    project: str
    adapter: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    training_tokens: int
    training_seconds: float


_usage: Final = row_reader(DailyUsage)
_Counted = dict[tuple[date, str, str, str], UsageCounts]


class UsageLedger:
    """Counts the usage of this server; reads that of all servers that share the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counted: _Counted = {}
        self._batch: _Counted = {}
        """Taken to be written; stays until its commit is certain."""
        self._sequence = 0
        self._writer = uuid.uuid4().hex
        self._writing = asyncio.Lock()

    def counts(self, caller: Caller, adapter: str | None) -> UsageCounts:
        """Return the counts of today to add to, at once: they may be written at the next turn of the event loop.

        ``adapter`` None: the base model.
        """
        key = datetime.now(UTC).date(), caller.key_id or "", caller.project, adapter or BASE
        found = self._counted.get(key)
        if found is None:
            found = self._counted[key] = UsageCounts()
        return found

    async def flush(self) -> None:
        """Write what was counted. Raises StorageUnavailable; the counts are then written by a later call."""
        async with self._writing:
            if not self._batch:
                self._batch, self._counted = self._counted, {}
                self._sequence += 1
            if self._batch:
                async with self._database.write() as connection:
                    await self._write(connection)
                self._batch = {}

    async def persist(self, interval_s: float) -> None:
        """Write every ``interval_s`` seconds until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.try_flush()

    async def try_flush(self) -> None:
        """Write what was counted; while the database is away, the counts stay in memory."""
        try:
            await self.flush()
        except (StorageUnavailable, SQLAlchemyError, OSError) as error:
            log.warning("usage.write_failed", error=str(error))

    async def charge_training(self, jobs: JobStore) -> None:
        """Add what ``jobs`` used since they were charged last; each second and token is charged by one server, once."""
        if not await jobs.has_usage():  # no write transaction every few seconds where no job trains
            return
        async with self._database.write() as connection:
            counted: _Counted = {}
            for used in await jobs.take_usage(connection):
                key = datetime.now(UTC).date(), used.job.key_id or "", used.job.project, used.job.adapter
                counts = counted.setdefault(key, UsageCounts())
                counts.training_tokens += used.tokens
                counts.training_seconds += used.seconds
            if counted:
                await _add(connection, counted)

    async def trained_seconds(self, day: date, kind: LimitedKind, account: str) -> float:
        """Return the seconds for which workers held the jobs of a key or project on ``day``."""
        column = usage_rows.c.key_id if kind == "key" else usage_rows.c.project
        total = select(func.coalesce(func.sum(usage_rows.c.training_seconds), 0.0))
        async with self._database.read() as connection:
            found = await connection.execute(total.where(usage_rows.c.day == day, column == account))
            return float(found.scalar_one())

    async def read(
        self,
        first: date,
        last: date,
        *,
        limit: int,
        key_id: str | None = None,
        project: str | None = None,
        adapter: str | None = None,
    ) -> list[DailyUsage]:
        """Return the usage of the days ``first`` to ``last``, at most ``limit`` rows, oldest first."""
        query = select(usage_rows).where(usage_rows.c.day.between(first, last)).limit(limit)
        for column, value in {"key_id": key_id, "project": project, "adapter": adapter}.items():
            if value is not None:
                query = query.where(usage_rows.c[column] == value)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(*(usage_rows.c[name] for name in _KEYS)))
            return [_usage(row) for row in rows]

    async def _write(self, connection: AsyncConnection) -> None:
        now = datetime.now(UTC)
        upsert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        writer = upsert(usage_writers).values(id=self._writer, sequence=self._sequence, written_at=now)
        is_new = usage_writers.c.sequence < writer.excluded.sequence
        values = {"sequence": writer.excluded.sequence, "written_at": now}
        writer = writer.on_conflict_do_update(index_elements=["id"], set_=values, where=is_new)
        if (await connection.execute(writer.returning(usage_writers.c.sequence))).one_or_none() is None:
            return  # an earlier attempt has committed
        old = usage_writers.c.written_at < now - _WRITER_KEPT_FOR
        await connection.execute(delete(usage_writers).where(old))
        await _add(connection, self._batch)


async def _add(connection: AsyncConnection, counted: _Counted) -> None:
    upsert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = upsert(usage_rows)
    added = {name: usage_rows.c[name] + rows.excluded[name] for name in _COUNTS}
    values = [
        dict(zip(_KEYS, key, strict=True)) | {name: getattr(counts, name) for name in _COUNTS}
        for key, counts in sorted(counted.items())  # one order for all servers: else two could lock each other out
    ]
    await connection.execute(rows.on_conflict_do_update(index_elements=_KEYS, set_=added), values)
