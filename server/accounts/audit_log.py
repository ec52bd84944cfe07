"""The audit log: a row for each write of the control plane. Rows are only added; each has the hash of the row before.

Changing or removing a row breaks the chain from there on. Removing the last rows breaks nothing, so operators keep the
newest hash elsewhere: ``patchbay audit verify`` prints it, and a later one that has that row proves what came before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from getpass import getuser
from hashlib import sha256
from typing import Any, Final

import structlog
from sqlalchemy import insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from server.accounts.schema import MIGRATIONS, VERSION_TABLE, audit_rows
from trainer.schema import row_reader

log = structlog.get_logger(__name__)

FIRST_HASH: Final = "0" * 64
"""``previous_hash`` of the first row."""
_PAGE: Final = 500
_LOCK: Final = 0x61756474
"""PostgreSQL advisory lock key: processes add rows one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One write and its outcome. Texts are empty where a write has no such part."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    key_id: str
    project: str
    address: str
    """Network address of the caller."""
    action: str
    """Method and route, such as ``DELETE /v1/adapters/{name}``, or the command that wrote to the database directly."""
    parameters: Mapping[str, Any]
    """Parameters of the route's path."""
    status: int
    """HTTP status of the response; 200 for a command that wrote directly."""
    result: str = ""
    """Id of what the write made or changed, as the response has it."""
    request_id: str = ""

    def hash_after(self, number: int, previous_hash: str) -> str:
        """Return the hash of the row ``number`` that follows the row with ``previous_hash``; 64 hex digits."""
        fields = {name: getattr(self, name) for name in AuditEvent.__slots__} | {"at": self.at.isoformat()}
        return sha256(json.dumps([number, previous_hash, fields], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow(AuditEvent):
    """An event as it is stored."""

    number: int
    """Counted from 1."""
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """The result of walking the chain."""

    rows: int
    """Rows that are as they were written, from the first one on."""
    hash: str
    """Hash of the last of them."""
    broken: int | None
    """Number of the first row that was changed, or that is missing; None: the chain is whole."""


_row: Final = row_reader(AuditRow)


class AuditLog:
    """The log of all processes that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[AuditEvent] = []
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database) -> AuditLog:
        """Migrate the tables of accounts in ``database``; the caller closes the database."""
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        return cls(database)

    async def add(self, event: AuditEvent) -> None:
        """Add a row for ``event``, which has happened already.

        While the database does not answer, the event is logged, and a row is added for it with the next event.
        """
        self._waiting.append(event)
        async with self._writing:
            waiting = list(self._waiting)  # all but the first are of calls that wait for the lock
            try:
                if waiting:
                    await self._write(waiting)
            except (StorageUnavailable, SQLAlchemyError, OSError) as error:
                fields = {name: getattr(event, name) for name in ("action", "key_id", "status", "result")}
                log.error("audit.write_failed", error=str(error), parameters=dict(event.parameters), **fields)
                return
            del self._waiting[: len(waiting)]

    async def add_command(self, command: str, result: str) -> None:
        """Add a row for a command that has written to the database itself, in the name of the user who ran it."""
        await self.add(
            AuditEvent(
                key_id="",
                project="",
                address="",
                action=command,
                parameters={"user": getuser()},
                status=200,
                result=result,
            )
        )

    async def _write(self, events: list[AuditEvent]) -> None:
        async with self._database.write() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            number, previous = await _last(connection)
            values = []
            for event in events:
                number += 1
                fields = {name: getattr(event, name) for name in AuditEvent.__slots__}
                values.append({**fields, "number": number, "previous_hash": previous})
                previous = values[-1]["hash"] = event.hash_after(number, previous)
            await connection.execute(insert(audit_rows), values)

    async def list(self, *, after: int | None, limit: int) -> tuple[list[AuditRow], bool]:
        """Return the rows that follow row number ``after``, newest first, and whether there are more."""
        query = select(audit_rows).order_by(audit_rows.c.number.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(audit_rows.c.number < after)
        async with self._database.read() as connection:
            rows = [_row(row) for row in await connection.execute(query)]
        return rows[:limit], len(rows) > limit

    async def verify(self) -> AuditVerdict:
        """Compute the hash of each row anew, from the first row on."""
        number, previous = 0, FIRST_HASH
        while True:
            query = select(audit_rows).where(audit_rows.c.number > number).order_by(audit_rows.c.number).limit(_PAGE)
            async with self._database.read() as connection:
                rows = [_row(row) for row in await connection.execute(query)]
            for row in rows:
                is_next = row.number == number + 1 and row.previous_hash == previous
                if not is_next or row.hash != row.hash_after(row.number, previous):
                    return AuditVerdict(number, previous, number + 1)
                number, previous = row.number, row.hash
            if len(rows) < _PAGE:
                return AuditVerdict(number, previous, None)


async def _last(connection: AsyncConnection) -> tuple[int, str]:
    query = select(audit_rows.c.number, audit_rows.c.hash).order_by(audit_rows.c.number.desc()).limit(1)
    row = (await connection.execute(query)).first()
    return (0, FIRST_HASH) if row is None else (row.number, row.hash)
