"""The registry's SQL, in a transaction that the registry opened."""

import secrets
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import Select, delete, func, insert, select, update

from adapters.errors import AdapterNotFound, InvalidName, NameNotAllowed, NameTaken, VersionNotFound
from adapters.gate import Requirement, check_gate, passes
from adapters.names import FineTunedName, Reference, name_for
from adapters.registry.alias_rows import AliasRows, alias_value, requirement_of
from adapters.registry.catalog import SHOWN
from adapters.registry.rollout_rows import IS_ACTIVE, AnyRow, rollout_value
from adapters.registry.schema import (
    adapters,
    aliases,
    clock,
    fine_tuned_names,
    revisions,
    rollouts,
    shares,
    versions,
)
from adapters.versions import Adapter, Version

VERSION_COLUMNS = tuple(column for column in versions.c if column.name not in ("report", "deleted_at"))
"""The columns of a ``Version``: all but the report, which may be large."""

KEPT_REVISIONS = 10_000
"""Revisions whose tokens are kept; a process that has not looked for so many writes reads everything."""

_VERSION_FIELDS = tuple(column.name for column in VERSION_COLUMNS if column.name != "adapter_id")
_IS_LIVING = versions.c.deleted_at.is_(None)
_REVISION = select(clock.c.revision).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Revision:
    """A moment of the registry's clock. In a database restored from a backup, a number returns with another token."""

    number: int
    token: str | None
    """None: written by a process of an older release."""


@dataclass(frozen=True, slots=True)
class Rows(AliasRows):
    """The registry's rows as the transaction of ``connection`` reads and changes them."""

    async def tick(self) -> Revision:
        """Increment the clock and return it. First in each write: the lock on its row admits one writer at a time."""
        increment = update(clock).values(revision=clock.c.revision + 1).returning(clock.c.revision)
        revision = Revision((await self.connection.execute(increment)).scalar_one(), secrets.token_hex(8))
        await self.connection.execute(delete(revisions).where(revisions.c.number <= revision.number - KEPT_REVISIONS))
        await self.connection.execute(insert(revisions).values(number=revision.number, token=revision.token))
        return revision

    async def revision(self) -> Revision:
        with_token = clock.outerjoin(revisions, revisions.c.number == clock.c.revision)
        statement = select(clock.c.revision, revisions.c.token).select_from(with_token)
        return Revision(*(await self.connection.execute(statement)).one())

    async def has_been_at(self, revision: Revision) -> bool:
        """Whether the clock showed ``revision``; no longer known after ``KEPT_REVISIONS`` writes."""
        statement = select(revisions.c.token).where(revisions.c.number == revision.number)
        return (await self.connection.execute(statement)).scalar_one_or_none() == revision.token

    async def adapter(self, name: str) -> AnyRow | None:
        """Return the row of the adapter ``name``, deleted or not."""
        return (await self.connection.execute(select(adapters).where(adapters.c.name == name))).one_or_none()

    async def adapter_called(self, lora_name: str) -> AnyRow | None:
        """Return the row of the adapter with that lora name, deleted or not; None: no adapter has it."""
        return (await self.connection.execute(select(adapters).where(adapters.c.lora_name == lora_name))).one_or_none()

    async def name_to_load(self, lora_name: str, project: str, reserved: Container[str]) -> str:
        """Return the name of the adapter that was loaded as ``lora_name``; else the one that it would get now.

        Names in ``reserved`` are left out. Raises as ``check_lora_name``.
        """
        name = name_for(lora_name)
        if (holder := await self.adapter_called(lora_name)) is not None:
            name = holder.name
        else:
            row = await self.adapter(name)
            is_free = row is None or (row.project == project and row.deleted_at and row.lora_name is None)
            name = name_for(lora_name, is_taken=not is_free or name in reserved)
        await self.check_lora_name(lora_name, name, project)
        return name

    async def check_lora_name(self, lora_name: str, name: str, project: str) -> None:
        """Check that the adapter ``name`` of ``project`` may be called ``lora_name``, which may read as ``sql@3`` does.

        Raises:
            NameNotAllowed: an adapter of another project has it, or its versions and aliases are named so.
            NameTaken: another adapter has it, or it means an alias or a version, deleted or not, of one.
        """
        holder = await self.adapter_called(lora_name)
        if holder is not None and holder.project != project:
            raise NameNotAllowed(lora_name, param="lora_name")
        if holder is not None and holder.name != name:
            raise NameTaken(f"'{lora_name}' is the name of another adapter", param="lora_name")
        try:
            meant = Reference.parse(lora_name)
        except InvalidName:
            return
        owner = await self.adapter(meant.adapter)
        if owner is not None and owner.project != project:
            raise NameNotAllowed(lora_name, param="lora_name")
        if owner is not None and holder is None and await self._means_something(meant, owner):
            raise NameTaken(
                f"'{lora_name}' means a version of '{meant.adapter}', which never changes: choose another name",
                param="lora_name",
            )

    async def _means_something(self, reference: Reference, adapter: AnyRow) -> bool:
        if reference.version is not None:
            return bool(reference.version < adapter.next_version)
        alias = await self.alias(adapter, reference.alias)
        return alias is not None and alias.version is not None

    async def _check_new_name(self, name: str, project: str) -> None:
        """Raise NameNotAllowed where adapters of other projects have lora names such as ``name@3``."""
        prefix = f"{name}@"
        begins = func.substr(adapters.c.lora_name, 1, len(prefix)) == prefix
        statement = select(adapters.c.id).where(
            adapters.c.lora_name.is_not(None), begins, adapters.c.project != project
        )
        if (await self.connection.execute(statement.limit(1))).first() is not None:
            raise NameNotAllowed(name)

    async def changing_adapter(self, name: str) -> AnyRow:
        """Return the row of an adapter that is not deleted, and mark it as changed now; else AdapterNotFound."""
        row = await self.adapter(name)
        if row is None or row.deleted_at is not None:
            raise AdapterNotFound(f"no adapter is named '{name}'; list the adapters to see which exist", param="name")
        await self.connection.execute(update(adapters).where(adapters.c.id == row.id).values(revision=_REVISION))
        return row

    async def next_number(self, name: str, lora_name: str | None, project: str) -> tuple[AnyRow, int]:
        """Return the adapter's row, created or undeleted if need be, and the number of its next version.

        A new adapter gets ``lora_name``. A number is left out where ``name@number`` is an adapter's lora name.

        Raises:
            NameNotAllowed: the adapter, deleted or not, belongs to another project, or what its versions would be
                called does.
            NameTaken: the adapter has another lora name; or as ``check_lora_name``.
        """
        row = await self.adapter(name)
        if row is None:
            await self._check_new_name(name, project)
        elif row.project != project:
            raise NameNotAllowed(name)
        if lora_name is not None:
            await self.check_lora_name(lora_name, name, project)
        number = 1 if row is None else row.next_version
        while await self.adapter_called(f"{name}@{number}") is not None:
            number += 1
        state: dict[str, Any] = {"next_version": number + 1, "revision": _REVISION}
        if row is None or row.deleted_at is not None:
            kept = lora_name if row is None or row.lora_name is None else row.lora_name  # it stays with the project
            state |= {"created_at": datetime.now(UTC), "deleted_at": None, "lora_name": kept}
        elif lora_name not in (None, row.lora_name):
            raise NameTaken(f"adapter '{name}' exists already; load '{lora_name}' again", param="lora_name")
        new = insert(adapters).values(name=name, project=project)
        change = new if row is None else update(adapters).where(adapters.c.id == row.id)
        return (await self.connection.execute(change.values(**state).returning(*adapters.c))).one(), number

    async def living_numbers(self, adapter: AnyRow) -> list[int]:
        statement = select(versions.c.number).where(versions.c.adapter_id == adapter.id, _IS_LIVING)
        return list((await self.connection.execute(statement.order_by(versions.c.number))).scalars())

    async def living_version(self, adapter: AnyRow, number: int) -> AnyRow:
        """Return the row of a living version; VersionNotFound if there is none, or it was deleted."""
        is_version = (versions.c.adapter_id == adapter.id, versions.c.number == number)
        statement = select(*VERSION_COLUMNS).where(*is_version, _IS_LIVING)
        row = (await self.connection.execute(statement)).one_or_none()
        if row is None:
            newest = (await self.living_numbers(adapter))[-SHOWN:]
            living = ", ".join(map(str, reversed(newest))) or "none"
            raise VersionNotFound(
                f"adapter '{adapter.name}' has no version {number}; its newest versions: {living}", param="version"
            )
        return row

    async def add_version(self, **columns: Any) -> AnyRow:
        return (await self.connection.execute(insert(versions).values(**columns).returning(*VERSION_COLUMNS))).one()

    async def change_version(self, row: AnyRow, **columns: Any) -> AnyRow:
        change = update(versions).where(versions.c.id == row.id).values(**columns)
        return (await self.connection.execute(change.returning(*VERSION_COLUMNS))).one()

    async def delete_adapter(self, adapter: AnyRow) -> None:
        """Mark the adapter and its living versions as deleted. Its names stay with its project."""
        at = datetime.now(UTC)
        living_versions = update(versions).where(versions.c.adapter_id == adapter.id, _IS_LIVING)
        await self.connection.execute(living_versions.values(deleted_at=at, is_pinned=False))
        deletion = update(adapters).where(adapters.c.id == adapter.id).values(deleted_at=at)
        await self.connection.execute(deletion)
        await self.connection.execute(delete(shares).where(shares.c.adapter_id == adapter.id))

    async def share(self, adapter: AnyRow, project: str) -> None:
        """Share the adapter with ``project``; no effect where it is shared already."""
        key = {"adapter_id": adapter.id, "project": project}
        if (await self.connection.execute(select(shares).filter_by(**key))).first() is None:
            await self.connection.execute(insert(shares).values(key))

    async def unshare(self, adapter: AnyRow, project: str) -> bool:
        """End a share; return whether there was one."""
        ended = delete(shares).where(shares.c.adapter_id == adapter.id, shares.c.project == project)
        return (await self.connection.execute(ended)).rowcount == 1

    async def has_more_than_checkpoints(self, adapter: AnyRow) -> bool:
        """Whether a living version of the adapter is something else than a training job's checkpoint."""
        statement = (
            select(fine_tuned_names.c.name)
            .select_from(versions.outerjoin(fine_tuned_names, fine_tuned_names.c.version_id == versions.c.id))
            .where(versions.c.adapter_id == adapter.id, _IS_LIVING)
        )
        names = (await self.connection.execute(statement)).scalars()
        return any(name is None or not FineTunedName(name).is_checkpoint for name in names)

    async def fine_tuned_version(self, name: FineTunedName) -> Version | None:
        """Return the version that ``name`` means; None: no version ever had the name; NameTaken: it was deleted."""
        statement = (
            select(*VERSION_COLUMNS)
            .add_columns(versions.c.deleted_at, adapters.c.name.label("adapter"))
            .join(adapters, adapters.c.id == versions.c.adapter_id)
            .join(fine_tuned_names, fine_tuned_names.c.version_id == versions.c.id)
            .where(fine_tuned_names.c.name == name.text)
        )
        row = (await self.connection.execute(statement)).one_or_none()
        if row is None:
            return None
        if row.deleted_at is not None:
            raise NameTaken(
                f"'{name}' named version '{row.adapter}@{row.number}', which was deleted, and is never given to "
                "another: train again, in a new job",
                param="fine_tuned_name",
            )
        return version_value(row.adapter, row)

    async def give_name(self, name: FineTunedName, version: AnyRow) -> None:
        """Give a version ``name``, which no version had before."""
        await self.connection.execute(insert(fine_tuned_names).values(name=name.text, version_id=version.id))

    async def report(self, version: AnyRow) -> dict[str, Any]:
        """Return the report of a version that ``living_version`` returned."""
        statement = select(versions.c.report).where(versions.c.id == version.id)
        return dict((await self.connection.execute(statement)).scalar_one())

    async def add_to_report(self, version: AnyRow, report: Mapping[str, Any]) -> None:
        await self.change_version(version, report={**await self.report(version), **report})

    async def point(
        self,
        adapter: AnyRow,
        alias: str,
        number: int,
        seen: AnyRow | None,
        report: Mapping[str, Any],
        *,
        requirement: Requirement | Literal["stored"] | None = "stored",
        is_forced: bool = False,
    ) -> AnyRow:
        """Point an alias to a living version, unless it points there already; return the alias's row.

        Args:
            seen: the alias's row.
            report: the version's.
            requirement: the verdict that this move demands; "stored": the alias's own.
            is_forced: whether to move it without that verdict.

        Raises:
            NameTaken: an adapter was loaded as the alias's name.
            VerdictNeeded: the version lacks the verdict.
        """
        is_new = seen is None or seen.version is None
        if is_new and await self.adapter_called(f"{adapter.name}@{alias}") is not None:
            raise NameTaken(f"'{adapter.name}@{alias}' is the name of another adapter: choose another", param="alias")
        if seen is not None and seen.version == number:
            return seen
        demanded = requirement_of(seen) if requirement == "stored" else requirement
        if not is_forced:
            check_gate(demanded, report, version=f"{adapter.name}@{number}", alias=alias)
        is_against_gate = not passes(demanded, report)
        return await self.move_alias(adapter, alias, seen, number, is_forced=is_against_gate)

    async def living_digests(self) -> set[str]:
        """Return the digests of all living versions, and of their originals."""
        served = select(versions.c.digest).where(_IS_LIVING)
        originals = select(versions.c.original_digest).where(_IS_LIVING, versions.c.original_digest.is_not(None))
        return set((await self.connection.execute(served.union(originals))).scalars())

    async def known_digests(self) -> set[str]:
        """Return the digests of all versions that ever were, deleted ones included, and of their originals."""
        served = select(versions.c.digest)
        originals = select(versions.c.original_digest).where(versions.c.original_digest.is_not(None))
        return set((await self.connection.execute(served.union(originals))).scalars())

    async def changes(self, since: int) -> tuple[list[Adapter], list[str]]:
        """Return the adapters that changed since the clock showed ``since``, and the names of those deleted."""
        changed = adapters.c.revision > since
        living = (changed, adapters.c.deleted_at.is_(None))
        on_adapter = adapters.c.id == versions.c.adapter_id
        found_versions = select(*VERSION_COLUMNS).join(adapters, on_adapter).where(*living, _IS_LIVING)
        found_aliases = select(aliases).join(adapters).where(*living, aliases.c.version.is_not(None))
        found_names = (
            select(versions.c.adapter_id, fine_tuned_names.c.name, versions.c.number)
            .join(versions, versions.c.id == fine_tuned_names.c.version_id)
            .join(adapters, on_adapter)
            .where(*living, _IS_LIVING)
        )
        found_shares = select(shares).join(adapters).where(*living)
        found_rollouts = select(rollouts).join(adapters).where(*living, IS_ACTIVE)
        rows = (await self.connection.execute(select(adapters).where(changed))).all()
        by_adapter = [
            await self._by_adapter(found_versions.order_by(versions.c.number)),
            await self._by_adapter(found_aliases.order_by(aliases.c.name)),
            await self._by_adapter(found_names.order_by(versions.c.number, fine_tuned_names.c.name)),
            await self._by_adapter(found_shares),
            await self._by_adapter(found_rollouts),
        ]
        return (
            [_adapter(row, *(found[row.id] for found in by_adapter)) for row in rows if row.deleted_at is None],
            [row.name for row in rows if row.deleted_at is not None],
        )

    async def _by_adapter(self, statement: Select[Any]) -> dict[int, list[AnyRow]]:
        grouped: dict[int, list[AnyRow]] = defaultdict(list)
        for row in await self.connection.execute(statement):
            grouped[row.adapter_id].append(row)
        return grouped


def version_value(adapter: str, row: AnyRow) -> Version:
    """Return the row (of ``VERSION_COLUMNS``) as a value."""
    return Version(adapter=adapter, **{name: getattr(row, name) for name in _VERSION_FIELDS})


def _adapter(
    row: AnyRow,
    version_rows: list[AnyRow],
    alias_rows: list[AnyRow],
    name_rows: list[AnyRow],
    share_rows: list[AnyRow],
    rollout_rows: list[AnyRow],
) -> Adapter:
    active = {found.alias: rollout_value(row.name, found) for found in rollout_rows}
    return Adapter(
        name=row.name,
        created_at=row.created_at,
        versions=MappingProxyType({found.number: version_value(row.name, found) for found in version_rows}),
        aliases=MappingProxyType(
            {found.name: alias_value(row.name, found, active.get(found.name)) for found in alias_rows}
        ),
        fine_tuned=MappingProxyType({found.name: found.number for found in name_rows}),
        lora_name=row.lora_name,
        project=row.project,
        shared_with=frozenset(found.project for found in share_rows),
    )
