"""The registry of adapters, versions and aliases. Writes go to a database, reads to the catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import AliasNotFound, VersionInUse, VersionNotFound
from adapters.names import DEFAULT_ALIAS, FineTunedName, check_adapter_name, check_alias
from adapters.registry import rows
from adapters.registry.alias_history import rollback_target
from adapters.registry.catalog import Catalog
from adapters.registry.rows import AliasMove
from adapters.registry.schema import VERSION_TABLE, adapters, versions
from adapters.storage.database import Database, Follower
from adapters.versions import Adapter, Alias, Version

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Unset(Enum):
    """No expectation; None already means "the alias does not exist"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class _Write:
    connection: AsyncConnection
    revision: int


class Registry(Follower):
    """Adapters, versions and aliases, durable and shared between processes.

    A write is in the database and in this process's ``catalog`` before its method returns; other processes' writes
    arrive with ``refresh``, which ``follow`` calls at an interval. Writers take turns. Every write to an adapter except
    ``add_version`` raises AdapterNotFound if there is none. Every write raises StorageUnavailable as ``Database.write``
    does; if its outcome is unknown, the next refresh shows it.
    """

    refresh_failed = "registry.refresh_failed"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.catalog = Catalog()
        self._seen = -1  # the clock when the catalog was read

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Registry]:
        """Open the database at ``url``, bring its tables up to date and read the catalog."""
        async with Database.open(url) as database:
            await database.migrate(MIGRATIONS, VERSION_TABLE)
            registry = cls(database)
            await registry.refresh()
            yield registry

    async def _read(self) -> None:
        async with self.database.read() as connection:
            revision = await rows.now(connection)
            news = await rows.changes(connection, self._seen) if revision > self._seen else ((), ())
        self._update_catalog(revision, *news)

    async def report(self, version: Version) -> dict[str, Any]:
        """Return the report of the checks of ``version``, and of its training if there was one.

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
        """Return every move of the alias, oldest first; empty for an alias that never existed."""
        async with self.database.read() as connection:
            row = await rows.adapter_row(connection, name)
            return [] if row is None else await rows.alias_history(connection, row.id, alias)

    async def is_unused(self, name: str) -> bool:
        """True until an adapter is registered under ``name``; a deleted one still counts."""
        async with self.database.read() as connection:
            return await rows.adapter_row(connection, name) is None

    async def digests(self) -> set[str]:
        """Return the digests of all living versions and originals, from the database: the catalog may lag behind."""
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

        ``alias`` moves to it in the same transaction. The first living version becomes `stable` too, unless it has a
        ``fine_tuned_name``: then it is a checkpoint, and ``name_result`` decides which one becomes `stable`. If that
        name means a version already, because workers race or retry, that version is returned and nothing changes.

        Raises:
            InvalidName: ``name`` or the alias is not valid.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
        """
        check_adapter_name(name)
        moving = {check_alias(alias)} if alias is not None else set()
        columns = {
            "digest": digest,
            "original_digest": original_digest,
            "base_fingerprint": base_fingerprint,
            "rank": rank,
            "size_bytes": size_bytes,
            "source": source,
            "created_at": datetime.now(UTC),
        }
        async with self._write() as write:
            if fine_tuned_name and (named := await rows.fine_tuned_version(write.connection, fine_tuned_name)):
                return named
            adapter, number = await self._number(write, name)
            if fine_tuned_name is None and not await rows.has_more_than_checkpoints(write.connection, adapter.id):
                moving.add(DEFAULT_ALIAS)
            await write.connection.execute(
                insert(versions).values(adapter_id=adapter.id, number=number, report=dict(report), **columns)
            )
            row = await rows.living_version(write.connection, adapter, number)
            if fine_tuned_name is not None:
                await rows.give_name(write.connection, fine_tuned_name, row.id)
            for each in sorted(moving):
                await self._point(write, adapter, each, number)
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
        """Give a version ``fine_tuned_name`` for ever, point ``alias`` to it, and merge ``report`` into its report.

        All or nothing; of a key in both reports the new value is stored. If the name means a version already, this or
        another, that version is returned and nothing changes.

        Raises:
            InvalidName: the alias is not valid.
            VersionNotFound: the adapter has no such version.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
        """
        check_alias(alias)
        async with self._write() as write:
            if named := await rows.fine_tuned_version(write.connection, fine_tuned_name):
                return named
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            await rows.give_name(write.connection, fine_tuned_name, row.id)
            await rows.add_to_report(write.connection, row.id, report)
            await self._point(write, adapter, alias, number)
        return rows.version_value(name, row)

    async def set_pinned(self, name: str, number: int, is_pinned: bool) -> Version:  # noqa: FBT001 - a value
        """Pin a version, so that it stays resident and cannot be deleted, or unpin it.

        Raises:
            VersionNotFound: the adapter has no such version.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            this = versions.c.id == row.id
            await write.connection.execute(update(versions).where(this).values(is_pinned=is_pinned))
            row = await rows.living_version(write.connection, adapter, number)
        return rows.version_value(name, row)

    async def delete_version(self, name: str, number: int, *, with_aliases: bool = False) -> None:
        """Delete a version; its number, id and fine-tuned names are never used again.

        Raises:
            VersionNotFound: the adapter has no such version.
            VersionInUse: it is pinned, or an alias points to it and ``with_aliases`` is False.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            row = await rows.living_version(write.connection, adapter, number)
            living_aliases = await rows.aliases_of(write.connection, adapter.id)
            pointing = [alias for alias in living_aliases if alias.version == number]
            if pointing and not with_aliases:
                names = ", ".join(f"'{alias.name}'" for alias in pointing)
                raise VersionInUse(
                    f"alias {names} points to version '{name}@{number}': move or delete the alias first",
                    param="version",
                )
            if row.is_pinned:
                raise VersionInUse(f"version '{name}@{number}' is pinned: unpin it first", param="version")
            for alias in pointing:
                await rows.drop_alias(write.connection, alias, adapter)
            this = versions.c.id == row.id
            await write.connection.execute(update(versions).where(this).values(deleted_at=datetime.now(UTC)))

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter with all its versions (pinned ones too) and aliases.

        The name may be used again; its version numbers then continue.
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

        Compare-and-set: ``expected`` is the version it must point to now (None: it must not exist), ``generation`` the
        generation it must have now. Without either the move always succeeds.

        Raises:
            InvalidName: the alias is not valid.
            VersionNotFound: the adapter has no such version.
            AliasMoved: an expectation failed; has the alias's present target.
        """
        check_alias(alias)
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await rows.alias_row(write.connection, adapter.id, alias)
            current = None if seen is None else seen.version
            if expected is not UNSET and expected != current:
                target = "nowhere" if expected is None else f"to version {expected}"
                raise rows.moved(name, alias, seen, f"expected: {target}")
            if generation is not UNSET and (seen is None or current is None or generation != seen.generation):
                raise rows.moved(name, alias, seen, f"expected: generation {generation}")
            await rows.living_version(write.connection, adapter, version)
            return await self._point(write, adapter, alias, version)

    async def rollback(self, name: str, alias: str = DEFAULT_ALIAS) -> Alias:
        """Point ``alias`` back to its target before the last move.

        Each further rollback goes one move further back, as a browser's back button does. Versions deleted since are
        skipped. See ``adapters.registry.alias_history``.

        Raises:
            AliasNotFound: there is no such alias.
            VersionNotFound: it never pointed to another version that still exists.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await self._existing_alias(write, adapter, alias)
            living = await rows.living_numbers(write.connection, adapter.id)
            target = rollback_target(await rows.alias_history(write.connection, adapter.id, alias), frozenset(living))
            if target is None:
                raise VersionNotFound(
                    f"alias '{alias}' of '{name}' cannot be rolled back: since it was created it "
                    "has pointed to no other version that still exists; move it to a version instead",
                    param="alias",
                )
            return await rows.point_alias(write.connection, seen, adapter, alias, target, is_rollback=True)

    async def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias. If it is created again, its generation continues.

        Raises:
            AliasNotFound: there is no such alias.
        """
        async with self._write() as write:
            adapter = await rows.changing_adapter(write.connection, name, write.revision)
            seen = await self._existing_alias(write, adapter, alias)
            await rows.drop_alias(write.connection, seen, adapter)

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[_Write]:
        """Open a write; at its end the catalog gets its changes, and those of other writers since the last refresh.

        They are read before the commit, while no other writer can write, so that nothing can fail between the commit
        and the update of the catalog.
        """
        async with self.database.write() as connection:
            revision = await rows.tick(connection)
            yield _Write(connection, revision)
            changed, gone = await rows.changes(connection, self._seen)
        self._update_catalog(revision, changed, gone)

    def _update_catalog(self, revision: int, changed: Iterable[Adapter], gone: Iterable[str]) -> None:
        """Update the catalog to ``revision`` unless it is newer: reads may end in another order than they began."""
        if revision > self._seen:
            self.catalog.replace(changed, gone)
            self._seen = revision

    async def _number(self, write: _Write, name: str) -> tuple[rows.AnyRow, int]:
        """Return the adapter's row, created or undeleted if need be, and the number of its next version."""
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
        """Point an alias to a version, unless it points there already."""
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
