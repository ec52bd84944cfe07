"""The registry of adapters, versions and aliases. Writes go to a database, reads to the catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import NameTaken, ShareNotFound, VersionInUse, VersionNotFound
from adapters.gate import Requirement, passes
from adapters.names import (
    DEFAULT_ALIAS,
    DEFAULT_PROJECT,
    FineTunedName,
    check_adapter_name,
    check_alias,
    check_lora_name,
    check_project,
)
from adapters.registry.alias_rows import AliasMove, alias_moved, alias_value, requirement_of, rollback_target
from adapters.registry.catalog_follower import CatalogFollower, read_news
from adapters.registry.rollout_rows import AnyRow
from adapters.registry.rows import Rows, version_value
from adapters.registry.schema import VERSION_TABLE, installation, versions
from adapters.storage.database import Database
from adapters.versions import Alias, Version

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Unset(Enum):
    """No expectation; None already means "the alias does not exist"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


class Registry(CatalogFollower):
    """Adapters, versions and aliases, durable and shared between processes.

    A write is in the database and in this process's ``catalog`` before its method returns; other processes' writes
    arrive with ``refresh``, which ``follow`` calls at an interval, and ``look_up`` where a name is unknown. Writers
    take turns. Every write but ``add_version`` raises AdapterNotFound or VersionNotFound if the adapter or version that
    it is given does not exist, and InvalidName if the alias is not valid. It raises StorageUnavailable as
    ``Database.write`` does; if its outcome is unknown, the next refresh shows it.
    """

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Registry]:
        """Open the database at ``url``, bring its tables up to date and read the catalog."""
        async with Database.open(url) as database:
            await database.migrate(MIGRATIONS, VERSION_TABLE)
            registry = cls(database)
            await registry.refresh()
            yield registry

    async def report(self, version: Version) -> dict[str, Any]:
        """Return the report of the checks and the training of ``version``; VersionNotFound if it was deleted."""
        statement = select(versions.c.report).where(versions.c.id == version.id, versions.c.deleted_at.is_(None))
        async with self.database.read() as connection:
            report = (await connection.execute(statement)).scalar_one_or_none()
        if report is None:
            raise VersionNotFound(f"version '{version.name}' was deleted", param="version")
        return dict(report)

    async def target_modules(self, base_fingerprint: str) -> dict[int, list[str]]:
        """Return the last parts of the adapted modules' names of each living version for that base, by version id."""
        named = versions.c.report["target_modules"]
        of_base = (versions.c.base_fingerprint == base_fingerprint, versions.c.deleted_at.is_(None))
        async with self.database.read() as connection:
            rows = await connection.execute(select(versions.c.id, named).where(*of_base))
            return {version: list(modules or ()) for version, modules in rows}

    async def renderers(self) -> dict[int, str]:
        """Return the ``renderer_sha256`` of every version that was trained here, by the version's id."""
        sha256 = versions.c.report["training"]["renderer_sha256"].as_string()
        statement = select(versions.c.id, sha256).where(versions.c.deleted_at.is_(None), sha256.is_not(None))
        async with self.database.read() as connection:
            return {row[0]: row[1] for row in await connection.execute(statement)}

    async def moves(self, name: str, alias: str = DEFAULT_ALIAS) -> list[AliasMove]:
        """Return every move of the alias, oldest first; empty for an alias that never existed."""
        async with self.database.read() as connection:
            rows = Rows(connection)
            adapter = await rows.adapter(name)
            return [] if adapter is None else await rows.alias_history(adapter, alias)

    async def owner(self, name: str) -> str | None:
        """Return the project of the adapter called ``name``, a deleted one too; None: no adapter ever had the name."""
        async with self.database.read() as connection:
            row = await Rows(connection).adapter(name)
            return None if row is None else row.project

    async def name_to_load(self, lora_name: str, project: str, reserved: Container[str] = ()) -> str:
        """Return the name of the adapter that ``project`` may load as ``lora_name``; see ``Rows.name_to_load``."""
        async with self.database.read() as connection:
            return await Rows(connection).name_to_load(lora_name, project, reserved)

    async def digests(self) -> set[str]:
        """Return the digests of all living versions and originals, from the database: the catalog may lag behind."""
        async with self.database.read() as connection:
            return await Rows(connection).living_digests()

    async def known_digests(self) -> set[str]:
        """Return the digests of all versions and originals that ever were, deleted ones included."""
        async with self.database.read() as connection:
            return await Rows(connection).known_digests()

    async def installation(self) -> str:
        """Return the id of this installation: that of its database, which is made once."""
        async with self.database.read() as connection:
            return str((await connection.execute(select(installation.c.id))).scalar_one())

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
        lora_name: str | None = None,
        is_first: bool = False,
        is_in_place: bool = False,
        project: str = DEFAULT_PROJECT,
    ) -> Version:
        """Add the next version of the adapter ``name``, creating the adapter if need be.

        ``alias`` moves to it in the same transaction. The first living version becomes `stable` too, unless it has a
        ``fine_tuned_name``: then it is a checkpoint, and ``name_result`` decides which one becomes `stable`. If that
        name means a version already, because workers race or retry, that version is returned and nothing changes.
        A new adapter may be called by its ``lora_name`` too.

        Raises:
            InvalidName: ``name``, the alias or ``lora_name`` is not valid.
            NameNotAllowed: the adapter, deleted or not, belongs to another project than ``project``.
            NameTaken: the version that ``fine_tuned_name`` means was deleted; ``lora_name`` means something else;
                ``is_first``, and ``name`` was used before.
            VerdictNeeded: ``alias`` demands a verdict that ``report`` does not have.
        """
        check_adapter_name(name)
        if lora_name is not None:
            check_lora_name(lora_name)
        if alias is not None:
            check_alias(alias)
        async with self.write() as rows:
            if fine_tuned_name and (named := await rows.fine_tuned_version(fine_tuned_name)):
                return named
            if is_first and await rows.adapter(name) is not None:
                raise NameTaken(f"there is or was an adapter named '{name}'", param="name")
            adapter, number = await rows.next_number(name, lora_name, project)
            is_first = fine_tuned_name is None and not await rows.has_more_than_checkpoints(adapter)
            row = await rows.add_version(
                adapter_id=adapter.id,
                number=number,
                digest=digest,
                original_digest=original_digest,
                base_fingerprint=base_fingerprint,
                rank=rank,
                size_bytes=size_bytes,
                source=source,
                report=dict(report),
                created_at=datetime.now(UTC),
                is_in_place=is_in_place,
            )
            if fine_tuned_name is not None:
                await rows.give_name(fine_tuned_name, row)
            if alias is not None:
                await rows.point(adapter, alias, number, await rows.alias(adapter, alias), report)
            if is_first and alias != DEFAULT_ALIAS:
                await _point_if_it_passes(rows, adapter, DEFAULT_ALIAS, number, report)
        return version_value(name, row)

    async def name_result(
        self,
        name: str,
        number: int,
        fine_tuned_name: FineTunedName,
        *,
        alias: str = DEFAULT_ALIAS,
        report: Mapping[str, Any],
        check: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> Version:
        """Give a version ``fine_tuned_name`` for ever, point ``alias`` to it, and merge ``report`` into its report.

        An alias that demands a verdict which the version lacks stays where it is. All or nothing; of a key in both
        reports the new value is stored. If the name means a version already, this or another, that version is returned
        and nothing changes. ``check`` runs in the transaction, and prevents it by raising an error.

        Raises:
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
        """
        check_alias(alias)
        async with self.write() as rows:
            if named := await rows.fine_tuned_version(fine_tuned_name):
                return named
            if check is not None:
                await check(rows.connection)
            adapter = await rows.changing_adapter(name)
            row = await rows.living_version(adapter, number)
            await rows.give_name(fine_tuned_name, row)
            await rows.add_to_report(row, report)
            await _point_if_it_passes(rows, adapter, alias, number, await rows.report(row))
        return version_value(name, row)

    async def set_pinned(self, name: str, number: int, is_pinned: bool) -> Version:  # noqa: FBT001 - a value
        """Pin a version: it stays resident and cannot be deleted; or unpin it."""
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            row = await rows.change_version(await rows.living_version(adapter, number), is_pinned=is_pinned)
        return version_value(name, row)

    async def set_quarantine(self, version: Version, reason: str | None) -> Version:
        """Record why requests for ``version`` are refused; None: they are not.

        Raises:
            VersionNotFound: other bytes have its number, in a database that was restored from a backup.
        """
        async with self.write() as rows:
            adapter = await rows.changing_adapter(version.adapter)
            row = await rows.living_version(adapter, version.number)
            if row.digest != version.digest:
                raise VersionNotFound(f"version '{version.name}' has other weights now", param="version")
            return version_value(version.adapter, await rows.change_version(row, quarantine=reason))

    async def delete_version(self, name: str, number: int, *, with_aliases: bool = False) -> None:
        """Delete a version; its number, id and fine-tuned names are never used again.

        Raises:
            VersionInUse: it is pinned, or an alias points to it and ``with_aliases`` is False.
        """
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            row = await rows.living_version(adapter, number)
            pointing = [alias for alias in await rows.living_aliases(adapter) if alias.version == number]
            if pointing and not with_aliases:
                names = ", ".join(f"'{alias.name}'" for alias in pointing)
                raise VersionInUse(
                    f"alias {names} points to version '{name}@{number}': move or delete the alias first",
                    param="version",
                )
            if row.is_pinned:
                raise VersionInUse(f"version '{name}@{number}' is pinned: unpin it first", param="version")
            for alias in pointing:
                await rows.move_alias(adapter, alias.name, alias, None)
            await rows.end_by_deletion(adapter, number)
            await rows.change_version(row, deleted_at=datetime.now(UTC))

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter with all its versions (pinned ones too) and aliases.

        The name may be used again; its version numbers then continue.
        """
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            for alias in await rows.living_aliases(adapter):
                await rows.move_alias(adapter, alias.name, alias, None)
            await rows.delete_adapter(adapter)

    async def share(self, name: str, project: str) -> None:
        """Let another project use and read an adapter; InvalidName if ``project`` is not valid."""
        check_project(project)
        async with self.write() as rows:
            await rows.share(await rows.changing_adapter(name), project)

    async def unshare(self, name: str, project: str) -> None:
        """End a share; ShareNotFound if there is none."""
        async with self.write() as rows:
            if not await rows.unshare(await rows.changing_adapter(name), project):
                raise ShareNotFound(f"adapter '{name}' is not shared with a project '{project:.64}'", param="project")

    async def move_alias(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        expected: int | Literal[Unset.UNSET] | None = UNSET,
        generation: int | Literal[Unset.UNSET] = UNSET,
        require: Requirement | Literal[Unset.UNSET] | None = UNSET,
        is_forced: bool = False,
    ) -> Alias:
        """Point ``alias`` to ``version``, creating it if need be. Moving it to where it is changes nothing.

        Compare-and-set: ``expected`` is the version it must point to now (None: it must not exist), ``generation`` the
        generation it must have now. Without either the move always succeeds.

        Args:
            require: the verdict that the alias demands from this move on; UNSET: as before.
            is_forced: whether to move it without that verdict.

        Raises:
            AliasMoved: an expectation failed; has the alias's present target.
            VerdictNeeded: the version lacks the verdict that the alias demands.
        """
        check_alias(alias)
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            seen = await rows.alias(adapter, alias)
            current = None if seen is None else seen.version
            if expected is not UNSET and expected != current:
                target = "nowhere" if expected is None else f"to version {expected}"
                raise alias_moved(name, alias, seen, f"expected: {target}")
            if generation is not UNSET and (seen is None or current is None or generation != seen.generation):
                raise alias_moved(name, alias, seen, f"expected: generation {generation}")
            report = await rows.report(await rows.living_version(adapter, version))
            demanded = requirement_of(seen) if require is UNSET else require
            row = await rows.point(adapter, alias, version, seen, report, requirement=demanded, is_forced=is_forced)
            if require is not UNSET:
                row = await rows.require(adapter, alias, require)
            return alias_value(name, row)

    async def rollback(self, name: str, alias: str = DEFAULT_ALIAS) -> Alias:
        """Point ``alias`` back to its target before the last move.

        Each further rollback goes one move further back, as a browser's back button does. Versions deleted since are
        skipped.

        Raises:
            AliasNotFound: there is no such alias.
            VersionNotFound: it never pointed to another version that still exists.
        """
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            seen = await rows.existing_alias(adapter, alias)
            target = rollback_target(await rows.alias_history(adapter, alias), await rows.living_numbers(adapter))
            if target is None:
                raise VersionNotFound(
                    f"alias '{alias}' of '{name}' cannot be rolled back: since it was created it "
                    "has pointed to no other version that still exists; move it to a version instead",
                    param="alias",
                )
            return alias_value(name, await rows.move_alias(adapter, alias, seen, target, is_rollback=True))

    async def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias; AliasNotFound if there is none. If it is created again, its generation continues."""
        async with self.write() as rows:
            adapter = await rows.changing_adapter(name)
            seen = await rows.existing_alias(adapter, alias)
            await rows.move_alias(adapter, alias, seen, None)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Rows]:
        """Open a write transaction; at its end the catalog gets its changes, and others' since the last refresh.

        They are read before the commit, while no other writer can write, so that nothing can fail between the commit
        and the update of the catalog.
        """
        async with self.database.write() as connection:
            rows = Rows(connection)
            revision = await rows.tick()
            yield rows
            seen = self._seen
            news = await read_news(rows, seen)
        self._update_catalog(seen, revision, news)


async def _point_if_it_passes(rows: Rows, adapter: AnyRow, alias: str, number: int, report: Mapping[str, Any]) -> None:
    """Point an alias to a version, unless it demands a verdict that ``report`` lacks."""
    seen = await rows.alias(adapter, alias)
    if passes(requirement_of(seen), report):
        await rows.point(adapter, alias, number, seen, report)
