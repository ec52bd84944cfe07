"""The registry: which adapters, versions and aliases exist. Writes go to a database, reads to the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

import structlog
from sqlalchemy import insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import AliasNotFound, StorageUnavailable, VersionInUse, VersionNotFound
from adapters.names import DEFAULT_ALIAS, FineTunedName, check_adapter_name, check_alias
from adapters.registry import rows
from adapters.registry.alias_history import before
from adapters.registry.catalog import Catalog
from adapters.registry.rows import AliasMove
from adapters.registry.schema import VERSION_TABLE, adapters, versions
from adapters.storage.database import Database
from adapters.versions import Adapter, Alias, Version

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_log = structlog.get_logger(__name__)


class Unset(Enum):
    """An expectation that the caller did not state; None already means "the alias does not exist"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class _Write:
    connection: AsyncConnection
    revision: int


class Registry:
    """Adapters, versions and aliases, durable and shared between processes.

    A write is in the database and in this process's ``catalog`` before its method returns; other processes'
    writes arrive with ``refresh``, which ``follow`` calls at an interval. Writers take turns.
    Every write that names an adapter, ``add_version`` apart, raises AdapterNotFound if there is none. Every write
    raises StorageUnavailable as ``Database.write`` does: where the outcome is not known, ``follow`` brings it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.catalog = Catalog()
        self._seen = -1  # the clock when what the catalog holds was read
        self._stamp: int | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Registry]:
        """Open the database at ``url``, bring its tables up to date and read the catalog."""
        async with Database.open(url) as database:
            await database.migrate(MIGRATIONS, VERSION_TABLE)
            registry = cls(database)
            await registry.refresh()
            yield registry

    async def refresh(self) -> None:
        """Bring the catalog up to the database; nearly free when nobody has committed anything."""
        stamp = self.database.stamp()
        if stamp is not None and stamp == self._stamp:
            return
        async with self.database.read() as connection:
            revision = await rows.now(connection)
            news = await rows.changes(connection, self._seen) if revision > self._seen else ((), ())
        self._take_in(revision, *news)
        self._stamp = stamp

    async def follow(self, interval_s: float) -> None:
        """Refresh every ``interval_s`` seconds until cancelled; while the database is away the catalog stays."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except (StorageUnavailable, SQLAlchemyError, OSError) as error:
                _log.warning("registry.refresh_failed", error=str(error))

    async def report(self, version: Version) -> dict[str, Any]:
        """Return what the door measured when ``version`` was published, and what training reported if it was trained.

        Raises:
            VersionNotFound: it was deleted.
        """
        statement = select(versions.c.report).where(versions.c.id == version.id, versions.c.deleted_at.is_(None))
        async with self.database.read() as connection:
            report = (await connection.execute(statement)).scalar_one_or_none()
        if report is None:
            raise VersionNotFound(f"version '{version.name}' was deleted", param="version")
        return dict(report)

    async def moves(self, name: str, alias: str = DEFAULT_ALIAS) -> list[AliasMove]:
        """Return every move the alias ever made, oldest first; empty for an alias that never was."""
        async with self.database.read() as connection:
            row = await rows.adapter_row(connection, name)
            return [] if row is None else await rows.alias_history(connection, row.id, alias)

    async def is_unused(self, name: str) -> bool:
        """True until an adapter is registered under ``name``; a deleted one still counts."""
        async with self.database.read() as connection:
            return await rows.adapter_row(connection, name) is None

    async def digests(self) -> set[str]:
        """Return the digests of all living versions and originals, from the database: the catalog may be behind."""
        async with self.database.read() as connection:
            return await rows.living_digests(connection)

    async def add_version(
        self,
        name: str,
        *,
        digest: str,
        base_fingerprint: str,
        rank: int,
        size_bytes: int,
        source: str,
        report: Mapping[str, Any],
        original_digest: str | None = None,
        alias: str | None = None,
        fine_tuned_name: FineTunedName | None = None,
    ) -> Version:
        """Add the next version of the adapter ``name``, creating the adapter if need be.

        ``alias`` moves to it in the same transaction. The first living version becomes `stable` too, but none with a
        ``fine_tuned_name`` does: it is a checkpoint, and ``name_result`` says which one counts. Where that name means
        a version already, as when two workers race or one tries again, that version is returned and nothing changes.

        Raises:
            InvalidName: the adapter or the alias may not be called so.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
        """
        check_adapter_name(name)
        wanted = {check_alias(alias)} if alias is not None else set()
        made = {
            "digest": digest,
            "original_digest": original_digest,
            "base_fingerprint": base_fingerprint,
            "rank": rank,
            "size_bytes": size_bytes,
            "source": source,
            "created_at": datetime.now(UTC),
        }
        async with self._write() as write:
            if fine_tuned_name is not None and (
                there := await rows.fine_tuned_version(write.connection, fine_tuned_name)
            ):
                return there
            adapter, number = await self._number(write, name)
            if fine_tuned_name is None and not await rows.has_more_than_checkpoints(write.connection, adapter.id):
                wanted.add(DEFAULT_ALIAS)
            await write.connection.execute(
                insert(versions).values(adapter_id=adapter.id, number=number, report=dict(report), **made)
            )
            row = await rows.living_version(write.connection, adapter, number)
            if fine_tuned_name is not None:
                await rows.give_name(write.connection, fine_tuned_name, row.id)
            for moved in sorted(wanted):
                await self._point(write, adapter, moved, number)
        return rows.version_value(name, row)

    async def name_result(
        self,
        name: str,
        number: int,
        fine_tuned_name: FineTunedName,
        *,
        alias: str = DEFAULT_ALIAS,
        report: Mapping[str, Any],
    ) -> Version:
        """Let ``fine_tuned_name`` mean a version for ever, point ``alias`` to it, and add ``report`` to its report.

        All of it or nothing; a key that both reports have gets the new value. Where the name means a version already,
        this or another, that version is returned and nothing changes.

        Raises:
            InvalidName: the alias may not be called so.
            VersionNotFound: there is none of that number.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
        """
        check_alias(alias)
        async with self._write() as write:
            if there := await rows.fine_tuned_version(write.connection, fine_tuned_name):
                return there
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            await rows.give_name(write.connection, fine_tuned_name, row.id)
            await rows.add_to_report(write.connection, row.id, report)
            await self._point(write, adapter, alias, number)
        return rows.version_value(name, row)

    async def set_pinned(self, name: str, number: int, is_pinned: bool) -> Version:  # noqa: FBT001 - a value
        """Pin a version (it stays resident and cannot be deleted) or let go of it.

        Raises:
            VersionNotFound: there is none of that number.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            this = versions.c.id == row.id
            await write.connection.execute(update(versions).where(this).values(is_pinned=is_pinned))
            row = await rows.living_version(write.connection, adapter, number)
        return rows.version_value(name, row)

    async def delete_version(self, name: str, number: int, *, with_aliases: bool = False) -> None:
        """Delete a version; its number, its id and its fine-tuned names are never given again.

        Raises:
            VersionNotFound: there is none of that number.
            VersionInUse: it is pinned, or an alias points to it that is not to go ``with_aliases``.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            living_aliases = await rows.aliases_of(write.connection, adapter.id)
            holding = [alias for alias in living_aliases if alias.version == number]
            if holding and not with_aliases:
                held_by = ", ".join(f"'{alias.name}'" for alias in holding)
                raise VersionInUse(
                    f"version '{name}@{number}' is held by alias {held_by}: move or delete the alias first",
                    param="version",
                )
            if row.is_pinned:
                raise VersionInUse(f"version '{name}@{number}' is pinned: unpin it first", param="version")
            for alias in holding:
                await rows.drop_alias(write.connection, alias, adapter)
            this = versions.c.id == row.id
            await write.connection.execute(update(versions).where(this).values(deleted_at=datetime.now(UTC)))

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter with all its versions (pinned ones too) and aliases.

        The name may be used again; numbering then goes on where it stopped.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            for alias in await rows.aliases_of(write.connection, adapter.id):
                await rows.drop_alias(write.connection, alias, adapter)
            at = datetime.now(UTC)
            its_living = (versions.c.adapter_id == adapter.id, versions.c.deleted_at.is_(None))
            await write.connection.execute(update(versions).where(*its_living).values(deleted_at=at, is_pinned=False))
            await write.connection.execute(update(adapters).where(adapters.c.id == adapter.id).values(deleted_at=at))

    async def move_alias(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        expected: int | Literal[Unset.UNSET] | None = UNSET,
        generation: int | Literal[Unset.UNSET] = UNSET,
    ) -> Alias:
        """Point ``alias`` to ``version``, creating it if need be. Moving it to where it is changes nothing.

        ``expected``: the version it must point to now (None: it must not exist); ``generation``: the
        generation it must have now. Without either the caller always wins: writers take turns.

        Raises:
            InvalidName: the alias may not be called so.
            VersionNotFound: there is none of that number.
            AliasMoved: an expectation failed; carries where the alias is now.
        """
        check_alias(alias)
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await rows.alias_row(write.connection, adapter.id, alias)
            current = None if seen is None else seen.version
            if expected is not UNSET and expected != current:
                spoken = "nowhere" if expected is None else f"to version {expected}"
                raise rows.moved(name, alias, seen, f"expected: {spoken}")
            if generation is not UNSET and (seen is None or current is None or generation != seen.generation):
                raise rows.moved(name, alias, seen, f"expected: generation {generation}")
            await rows.living_version(write.connection, adapter, version)
            return await self._point(write, adapter, alias, version)

    async def rollback(self, name: str, alias: str = DEFAULT_ALIAS) -> Alias:
        """Point ``alias`` back to where it pointed before its last move.

        Works as a browser's back button: each further rollback goes one move further back, a move in between
        starts from there, and versions deleted since are passed over. See ``adapters.registry.alias_history``.

        Raises:
            AliasNotFound: there is no such alias.
            VersionNotFound: it never pointed anywhere else that still exists.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await self._existing_alias(write, adapter, alias)
            living = await rows.living_numbers(write.connection, adapter.id)
            target = before(await rows.alias_history(write.connection, adapter.id, alias), frozenset(living))
            if target is None:
                raise VersionNotFound(
                    f"alias '{alias}' of '{name}' has nowhere to go back to: since it was created it "
                    "has pointed to no other version that still exists; move it to a version instead",
                    param="alias",
                )
            return await rows.point_alias(write.connection, seen, adapter, alias, target, is_rollback=True)

    async def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias. If it is created again, its generation goes on from here.

        Raises:
            AliasNotFound: there is no such alias.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await self._existing_alias(write, adapter, alias)
            await rows.drop_alias(write.connection, seen, adapter)

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[_Write]:
        """Open a write; at its end the catalog takes in what it did, and what others did since the last refresh.

        That is read before the commit, by whose end nobody else can have written: so nothing that can fail stands
        between the commit and the catalog.
        """
        async with self.database.write() as connection:
            revision = await rows.tick(connection)
            yield _Write(connection, revision)
            changed, gone = await rows.changes(connection, self._seen)
        self._take_in(revision, changed, gone)

    def _take_in(self, revision: int, changed: Iterable[Adapter], gone: Iterable[str]) -> None:
        """Bring the catalog to ``revision``, unless it is further: reads may end in another order than they began."""
        if revision > self._seen:
            self.catalog.replace(changed, gone)
            self._seen = revision

    async def _number(self, write: _Write, name: str) -> tuple[rows.AnyRow, int]:
        """Return the adapter's row, created or revived if need be, and the number of its next version."""
        row = await rows.adapter_row(write.connection, name)
        number = 1 if row is None else row.next_version
        state: dict[str, Any] = {"next_version": number + 1, "revision": write.revision}
        if row is None or row.deleted_at is not None:
            state |= {"created_at": datetime.now(UTC), "deleted_at": None}
        if row is None:
            await write.connection.execute(insert(adapters).values(name=name, **state))
        else:
            await write.connection.execute(update(adapters).where(adapters.c.id == row.id).values(**state))
        row = await rows.adapter_row(write.connection, name)
        assert row is not None
        return row, number

    async def _point(self, write: _Write, adapter: rows.AnyRow, alias: str, version: int) -> Alias:
        """Point an alias forward, unless it is there already."""
        seen = await rows.alias_row(write.connection, adapter.id, alias)
        if seen is not None and seen.version == version:
            return rows.alias_value(adapter.name, seen)
        return await rows.point_alias(write.connection, seen, adapter, alias, version)

    async def _existing_alias(self, write: _Write, adapter: rows.AnyRow, alias: str) -> rows.AnyRow:
        seen = await rows.alias_row(write.connection, adapter.id, alias)
        if seen is None or seen.version is None:
            existing = ", ".join(f"'{row.name}'" for row in await rows.aliases_of(write.connection, adapter.id))
            raise AliasNotFound(
                f"adapter '{adapter.name}' has no alias '{alias}'; its aliases: {existing or 'none'}",
                param="alias",
            )
        return seen
