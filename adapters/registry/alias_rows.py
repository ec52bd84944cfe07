"""The SQL of aliases: their rows, their moves and their gates, in a transaction that the registry opened."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update

from adapters.errors import AliasMoved, AliasNotFound
from adapters.gate import Requirement
from adapters.registry.rollout_rows import AnyRow, RolloutRows
from adapters.registry.schema import alias_moves, aliases
from adapters.rollout import Rollout
from adapters.versions import Alias


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One entry of an alias's history. ``from_version`` None: created; ``to_version`` None: deleted."""

    from_version: int | None
    to_version: int | None
    generation: int
    is_rollback: bool
    at: datetime
    is_forced: bool
    """Whether it was made although the version lacked the verdict that the alias demands."""


@dataclass(frozen=True, slots=True)
class AliasRows(RolloutRows):
    """The rows of aliases. Every move of an alias ends its rollout."""

    async def alias(self, adapter: AnyRow, name: str) -> AnyRow | None:
        """Return the row of an alias; its ``version`` is None if the alias was deleted."""
        statement = select(aliases).where(aliases.c.adapter_id == adapter.id, aliases.c.name == name)
        return (await self.connection.execute(statement)).one_or_none()

    async def existing_alias(self, adapter: AnyRow, alias: str) -> AnyRow:
        """Return the row of an alias that is not deleted; else AliasNotFound."""
        row = await self.alias(adapter, alias)
        if row is None or row.version is None:
            existing = ", ".join(f"'{living.name}'" for living in await self.living_aliases(adapter))
            raise AliasNotFound(
                f"adapter '{adapter.name}' has no alias '{alias}'; its aliases: {existing or 'none'}", param="alias"
            )
        return row

    async def living_aliases(self, adapter: AnyRow) -> Sequence[AnyRow]:
        statement = select(aliases).where(aliases.c.adapter_id == adapter.id, aliases.c.version.is_not(None))
        return (await self.connection.execute(statement.order_by(aliases.c.name))).all()

    async def move_alias(
        self,
        adapter: AnyRow,
        name: str,
        seen: AnyRow | None,
        to: int | None,
        *,
        is_rollback: bool = False,
        is_forced: bool = False,
    ) -> AnyRow:
        """Point an alias to version ``to``, None to delete it, and return its new row.

        Raises:
            AliasMoved: its generation is no longer that of ``seen`` (None: it never existed).
        """
        at = datetime.now(UTC)
        state = {"version": to, "generation": 1 if seen is None else seen.generation + 1, "updated_at": at}
        if to is None:
            state["require"] = None
        if seen is None:
            change: Any = insert(aliases).values(adapter_id=adapter.id, name=name)
        else:
            is_alias = (aliases.c.adapter_id == adapter.id, aliases.c.name == name)
            change = update(aliases).where(*is_alias, aliases.c.generation == seen.generation)
        row = (await self.connection.execute(change.values(**state).returning(*aliases.c))).one_or_none()
        if row is None:
            raise alias_moved(adapter.name, name, await self.alias(adapter, name), "no longer as just read")
        move = {"from_version": None if seen is None else seen.version, "to_version": to, "is_rollback": is_rollback}
        key = {"adapter_id": adapter.id, "alias": name, "generation": row.generation, "at": at}
        await self.connection.execute(insert(alias_moves).values(**key, **move, is_forced=is_forced))
        await self.end_by_move(adapter, name, to)
        return row

    async def require(self, adapter: AnyRow, name: str, requirement: Requirement | None) -> AnyRow:
        """Set the verdict that an existing alias demands; return the alias's row."""
        is_alias = (aliases.c.adapter_id == adapter.id, aliases.c.name == name)
        change = update(aliases).where(*is_alias).values(require=requirement)
        return (await self.connection.execute(change.returning(*aliases.c))).one()

    async def alias_history(self, adapter: AnyRow, alias: str) -> list[AliasMove]:
        names = ("from_version", "to_version", "generation", "is_rollback", "at", "is_forced")
        columns = [alias_moves.c[name] for name in names]
        statement = select(*columns).where(alias_moves.c.adapter_id == adapter.id, alias_moves.c.alias == alias)
        moves = await self.connection.execute(statement.order_by(alias_moves.c.generation))
        return [AliasMove(*move) for move in moves]


def requirement_of(alias: AnyRow | None) -> Requirement | None:
    """Return the verdict that an alias demands; None: none."""
    return None if alias is None or alias.require is None else Requirement(alias.require)


def rollback_target(history: Iterable[AliasMove], living: Sequence[int]) -> int | None:
    """Return the version that one rollback leads to, as a browser's back button would; None if there is none.

    A move pushes its target on a stack, a rollback pops down to its target, a deletion clears the stack. Versions not
    in ``living`` and steps to the present version are skipped.

        moves 1, 2, 3      back -> 2, back -> 1
        moves 1, 2, back, 3  back -> 1   (the rollback dropped 2 from the stack)
    """
    stack: list[int] = []
    for move in history:
        if move.to_version is None:
            stack.clear()
        elif move.is_rollback:
            while stack[-1] != move.to_version:
                stack.pop()
        else:
            stack.append(move.to_version)
    present = stack.pop()
    return next((version for version in reversed(stack) if version in living and version != present), None)


def alias_moved(adapter: str, alias: str, row: AnyRow | None, instead: str) -> AliasMoved:
    """Return the error for an alias whose row is ``row``; ``instead`` names the expected state."""
    if row is None or row.version is None:
        return AliasMoved(f"alias '{alias}' of '{adapter}' does not exist, {instead}", current=None, generation=None)
    return AliasMoved(
        f"alias '{alias}' of '{adapter}' points to version {row.version} (generation {row.generation}), "
        f"{instead}: read it again, then decide",
        current=row.version,
        generation=row.generation,
    )


def alias_value(adapter: str, row: AnyRow, rollout: Rollout | None = None) -> Alias:
    return Alias(adapter, row.name, row.version, row.generation, row.updated_at, requirement_of(row), rollout)
