"""The registry's SQL: functions of one or two statements, called inside a transaction that the registry opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import AdapterNotFound, AliasMoved, NameTaken, VersionNotFound
from adapters.names import FineTunedName
from adapters.registry.catalog import SHOWN
from adapters.registry.schema import adapters, alias_moves, aliases, clock, fine_tuned_names, versions
from adapters.versions import Adapter, Alias, Version

AnyRow = Row[Any]

VERSION_COLUMNS = tuple(column for column in versions.c if column.name not in ("report", "deleted_at"))
"""The columns of a ``Version``: all but the report, which may be large."""


_VERSION_FIELDS = tuple(column.name for column in VERSION_COLUMNS if column.name != "adapter_id")


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One entry of an alias's history. ``from_version`` None: created; ``to_version`` None: deleted."""

    from_version: int | None
    to_version: int | None
    generation: int
    is_rollback: bool
    at: datetime


async def tick(connection: AsyncConnection) -> int:
    """Increment the clock and return it. First in each write: its row lock admits one writer at a time."""
    await connection.execute(update(clock).values(revision=clock.c.revision + 1))
    return await now(connection)


async def now(connection: AsyncConnection) -> int:
    """Return the clock."""
    return int((await connection.execute(select(clock.c.revision))).scalar_one())


async def adapter_row(connection: AsyncConnection, name: str) -> AnyRow | None:
    """Return the row of the adapter ``name``, deleted or not."""
    return (await connection.execute(select(adapters).where(adapters.c.name == name))).one_or_none()


async def changing_adapter(connection: AsyncConnection, name: str, revision: int) -> AnyRow:
    """Return the row of the living adapter ``name`` and store that it changed at ``revision``.

    Raises:
        AdapterNotFound: there is none.
    """
    row = await adapter_row(connection, name)
    if row is None or row.deleted_at is not None:
        raise AdapterNotFound(f"no adapter is named '{name}'; list the adapters to see which exist", param="name")
    await connection.execute(update(adapters).where(adapters.c.id == row.id).values(revision=revision))
    return row


async def living_numbers(connection: AsyncConnection, adapter_id: int) -> list[int]:
    """Return the numbers of the adapter's living versions, ascending."""
    statement = select(versions.c.number).where(versions.c.adapter_id == adapter_id, versions.c.deleted_at.is_(None))
    return list((await connection.execute(statement.order_by(versions.c.number))).scalars())


async def living_version(connection: AsyncConnection, adapter: AnyRow, number: int) -> AnyRow:
    """Return the row of a living version.

    Raises:
        VersionNotFound: there is none of that number, or it was deleted.
    """
    statement = select(*VERSION_COLUMNS).where(
        versions.c.adapter_id == adapter.id, versions.c.number == number, versions.c.deleted_at.is_(None)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        newest = (await living_numbers(connection, adapter.id))[-SHOWN:]
        living = ", ".join(map(str, reversed(newest))) or "none"
        raise VersionNotFound(
            f"adapter '{adapter.name}' has no version {number}; its newest versions: {living}",
            param="version",
        )
    return row


async def has_more_than_checkpoints(connection: AsyncConnection, adapter_id: int) -> bool:
    """Return whether a living version of the adapter is something else than a training job's checkpoint."""
    statement = (
        select(fine_tuned_names.c.name)
        .select_from(versions.outerjoin(fine_tuned_names, fine_tuned_names.c.version_id == versions.c.id))
        .where(versions.c.adapter_id == adapter_id, versions.c.deleted_at.is_(None))
    )
    names = (await connection.execute(statement)).scalars()
    return any(name is None or not FineTunedName(name).is_checkpoint for name in names)


async def fine_tuned_version(connection: AsyncConnection, name: FineTunedName) -> Version | None:
    """Return the version that ``name`` means; None: no version ever had the name.

    Raises:
        NameTaken: that version was deleted.
    """
    statement = (
        select(*VERSION_COLUMNS)
        .add_columns(versions.c.deleted_at, adapters.c.name.label("adapter"))
        .join(adapters, adapters.c.id == versions.c.adapter_id)
        .join(fine_tuned_names, fine_tuned_names.c.version_id == versions.c.id)
        .where(fine_tuned_names.c.name == name.text)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    if row.deleted_at is not None:
        raise NameTaken(
            f"'{name}' named version '{row.adapter}@{row.number}', which was deleted, and is never given to another: "
            "train again, in a new job",
            param="fine_tuned_name",
        )
    return version_value(row.adapter, row)


async def give_name(connection: AsyncConnection, name: FineTunedName, version_id: int) -> None:
    """Give a version ``name``, which no version had before."""
    await connection.execute(insert(fine_tuned_names).values(name=name.text, version_id=version_id))


async def add_to_report(connection: AsyncConnection, version_id: int, report: Mapping[str, Any]) -> None:
    """Merge ``report`` into a version's report."""
    this = versions.c.id == version_id
    stored = (await connection.execute(select(versions.c.report).where(this))).scalar_one()
    await connection.execute(update(versions).where(this).values(report={**stored, **report}))


async def alias_row(connection: AsyncConnection, adapter_id: int, name: str) -> AnyRow | None:
    """Return the row of an alias; its ``version`` is None if the alias was deleted."""
    statement = select(aliases).where(aliases.c.adapter_id == adapter_id, aliases.c.name == name)
    return (await connection.execute(statement)).one_or_none()


async def point_alias(
    connection: AsyncConnection,
    seen: AnyRow | None,
    adapter: AnyRow,
    name: str,
    to: int,
    *,
    is_rollback: bool = False,
) -> Alias:
    """Point an alias to version ``to`` if its generation is still that of ``seen`` (None: it never existed).

    Raises:
        AliasMoved: another writer changed the alias.
    """
    generation, at = await _swap_alias(connection, seen, adapter, name, to, is_rollback=is_rollback)
    return Alias(adapter.name, name, to, generation, at)


async def drop_alias(connection: AsyncConnection, seen: AnyRow, adapter: AnyRow) -> None:
    """Delete an alias if its generation is still that of ``seen``.

    Raises:
        AliasMoved: another writer changed the alias.
    """
    await _swap_alias(connection, seen, adapter, seen.name, None, is_rollback=False)


async def _swap_alias(
    connection: AsyncConnection,
    seen: AnyRow | None,
    adapter: AnyRow,
    name: str,
    to: int | None,
    *,
    is_rollback: bool,
) -> tuple[int, datetime]:
    at = datetime.now(UTC)
    generation = 1 if seen is None else seen.generation + 1
    state = {"version": to, "generation": generation, "updated_at": at}
    if seen is None:
        await connection.execute(insert(aliases).values(adapter_id=adapter.id, name=name, **state))
    else:
        same = (
            aliases.c.adapter_id == adapter.id,
            aliases.c.name == name,
            aliases.c.generation == seen.generation,
        )
        if (await connection.execute(update(aliases).where(*same).values(**state))).rowcount != 1:
            raise moved(adapter.name, name, await alias_row(connection, adapter.id, name), "no longer as just read")
    move = {
        "from_version": None if seen is None else seen.version,
        "to_version": to,
        "is_rollback": is_rollback,
    }
    await connection.execute(
        insert(alias_moves).values(adapter_id=adapter.id, alias=name, generation=generation, at=at, **move)
    )
    return generation, at


def moved(adapter: str, alias: str, row: AnyRow | None, instead: str) -> AliasMoved:
    """Return the error for an alias in the state ``row``, ``instead`` of the expected one."""
    if row is None or row.version is None:
        return AliasMoved(f"alias '{alias}' of '{adapter}' does not exist, {instead}", current=None, generation=None)
    return AliasMoved(
        f"alias '{alias}' of '{adapter}' points to version {row.version} (generation {row.generation}), "
        f"{instead}: read it again, then decide",
        current=row.version,
        generation=row.generation,
    )


async def alias_history(connection: AsyncConnection, adapter_id: int, alias: str) -> list[AliasMove]:
    """Return every move of an alias, oldest first."""
    columns = [alias_moves.c[name] for name in ("from_version", "to_version", "generation", "is_rollback", "at")]
    statement = select(*columns).where(alias_moves.c.adapter_id == adapter_id, alias_moves.c.alias == alias)
    return [AliasMove(*row) for row in await connection.execute(statement.order_by(alias_moves.c.generation))]


async def aliases_of(connection: AsyncConnection, adapter_id: int) -> Sequence[AnyRow]:
    """Return the rows of an adapter's living aliases."""
    statement = select(aliases).where(aliases.c.adapter_id == adapter_id, aliases.c.version.is_not(None))
    return (await connection.execute(statement.order_by(aliases.c.name))).all()


async def living_digests(connection: AsyncConnection) -> set[str]:
    """Return the digests of all living versions, and of their originals."""
    living = versions.c.deleted_at.is_(None)
    served = select(versions.c.digest).where(living)
    originals = select(versions.c.original_digest).where(living, versions.c.original_digest.is_not(None))
    return set((await connection.execute(served.union(originals))).scalars())


async def changes(connection: AsyncConnection, since: int) -> tuple[list[Adapter], list[str]]:
    """Return the adapters that changed since the clock showed ``since``, and the names of those deleted."""
    changed = adapters.c.revision > since
    living = (changed, adapters.c.deleted_at.is_(None))
    is_living_version = versions.c.deleted_at.is_(None)
    of_version = adapters.c.id == versions.c.adapter_id
    found_versions = select(*VERSION_COLUMNS).join(adapters, of_version).where(*living, is_living_version)
    found_aliases = select(aliases).join(adapters).where(*living, aliases.c.version.is_not(None))
    found_names = (
        select(versions.c.adapter_id, fine_tuned_names.c.name, versions.c.number)
        .join(versions, versions.c.id == fine_tuned_names.c.version_id)
        .join(adapters, of_version)
        .where(*living, is_living_version)
    )
    rows = (await connection.execute(select(adapters).where(changed))).all()
    version_rows = await _by_adapter(connection, found_versions.order_by(versions.c.number))
    alias_rows = await _by_adapter(connection, found_aliases.order_by(aliases.c.name))
    name_rows = await _by_adapter(connection, found_names.order_by(versions.c.number, fine_tuned_names.c.name))
    return (
        [
            _adapter(row, version_rows[row.id], alias_rows[row.id], name_rows[row.id])
            for row in rows
            if row.deleted_at is None
        ],
        [row.name for row in rows if row.deleted_at is not None],
    )


async def _by_adapter(connection: AsyncConnection, statement: Select[Any]) -> dict[int, list[AnyRow]]:
    grouped: dict[int, list[AnyRow]] = defaultdict(list)
    for row in await connection.execute(statement):
        grouped[row.adapter_id].append(row)
    return grouped


def version_value(adapter: str, row: AnyRow) -> Version:
    """Return the row (of ``VERSION_COLUMNS``) as a value."""
    return Version(adapter=adapter, **{name: getattr(row, name) for name in _VERSION_FIELDS})


def alias_value(adapter: str, row: AnyRow) -> Alias:
    """Return the row of a living alias as a value."""
    return Alias(adapter, row.name, row.version, row.generation, row.updated_at)


def _adapter(row: AnyRow, version_rows: list[AnyRow], alias_rows: list[AnyRow], name_rows: list[AnyRow]) -> Adapter:
    return Adapter(
        name=row.name,
        created_at=row.created_at,
        versions=MappingProxyType({found.number: version_value(row.name, found) for found in version_rows}),
        aliases=MappingProxyType({found.name: alias_value(row.name, found) for found in alias_rows}),
        fine_tuned=MappingProxyType({found.name: found.number for found in name_rows}),
    )
