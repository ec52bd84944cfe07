"""The rollouts of a registry: set, changed, promoted and ended by compare-and-set, with what all servers counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from adapters.errors import RolloutChanged, RolloutNotFound, VersionInUse
from adapters.gate import check_gate
from adapters.registry.alias_rows import alias_value, requirement_of
from adapters.registry.registry import Registry
from adapters.registry.rollout_rows import AnyRow, plan_json, reason, rollout_value
from adapters.registry.rows import Rows
from adapters.registry.schema import rollout_tallies, rollouts
from adapters.rollout import Rollout, RolloutPlan, RolloutSide, RolloutState
from adapters.rollout_tally import RolloutTally
from adapters.versions import Alias


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The rollouts of ``registry``. An alias has one active rollout at most.

    Each write takes the ``generation`` that the rollout must have (None: any), and raises as ``Registry`` does, and:

    Raises:
        RolloutNotFound: the alias has no active rollout.
        RolloutChanged: the rollout has another generation.
    """

    registry: Registry

    async def put(
        self,
        name: str,
        alias: str,
        candidate: int,
        weight: int,
        plan: RolloutPlan,
        *,
        key_id: str | None = None,
        generation: int | None = None,
    ) -> Rollout:
        """Begin a rollout of ``candidate``, or change the active one of the same candidate, which keeps its id.

        An active rollout of another candidate ends. Where requests may get the candidate's answers, it needs the
        verdict that the alias demands.

        Raises:
            VersionInUse: the alias points to the candidate already.
            VerdictNeeded: the candidate lacks the verdict, and the plan is not forced.
        """
        async with self.registry.write() as rows:
            adapter = await rows.changing_adapter(name)
            seen = await rows.existing_alias(adapter, alias)
            report = await rows.report(await rows.living_version(adapter, candidate))
            if seen.version == candidate:
                raise VersionInUse(
                    f"alias '{alias}' of '{name}' points to version {candidate} already: name another candidate",
                    param="candidate",
                )
            if (weight or plan.steps) and not plan.is_forced:
                check_gate(requirement_of(seen), report, version=f"{name}@{candidate}", alias=alias)
            active = await rows.active_rollout(adapter, alias)
            if generation is not None:
                active = _expected(active, name, alias, generation)
            settings = {"weight": weight, "plan": plan_json(plan), "key_id": key_id}
            if active is not None and active.candidate == candidate:
                good = active.good_before if weight == active.weight else await _good(rows, active.id)
                row = await rows.change_rollout(active, **settings, good_before=good)
            else:
                if active is not None:
                    replaced = reason("replaced", f"a rollout of version {candidate} took its place")
                    await rows.end_rollout(active, RolloutState.ENDED, replaced)
                key = {"adapter_id": adapter.id, "alias": alias, "version": seen.version, "candidate": candidate}
                row = await rows.add_rollout(**key, **settings)
            return rollout_value(name, row)

    async def promote(
        self, name: str, alias: str, *, generation: int | None = None, is_forced: bool = False
    ) -> tuple[Alias, Rollout]:
        """Point the alias to the candidate of its rollout, which ends it.

        Raises:
            VerdictNeeded: the candidate lacks the verdict that the alias demands, and nothing forced it.
        """
        async with self.registry.write() as rows:
            adapter = await rows.changing_adapter(name)
            seen = await rows.existing_alias(adapter, alias)
            row = _expected(await rows.active_rollout(adapter, alias), name, alias, generation)
            report = await rows.report(await rows.living_version(adapter, row.candidate))
            is_forced = is_forced or row.plan["is_forced"]
            moved = await rows.point(adapter, alias, row.candidate, seen, report, is_forced=is_forced)
            return alias_value(name, moved), rollout_value(name, await _row(rows, row.id))

    async def end(
        self,
        name: str,
        alias: str,
        state: RolloutState,
        why: Mapping[str, Any],
        *,
        generation: int | None = None,
    ) -> Rollout:
        """End the rollout without a move of the alias: ``state`` is ROLLED_BACK or ENDED."""
        async with self.registry.write() as rows:
            adapter = await rows.changing_adapter(name)
            row = _expected(await rows.active_rollout(adapter, alias), name, alias, generation)
            return rollout_value(name, await rows.end_rollout(row, state, why))

    async def step(self, rollout: Rollout, weight: int, *, good: int) -> Rollout:
        """Set the weight of a rollout that is as ``rollout`` still; ``good``: what its candidate answered so far."""
        async with self.registry.write() as rows:
            adapter = await rows.changing_adapter(rollout.adapter)
            row = await rows.active_rollout(adapter, rollout.alias)
            row = _expected(row, rollout.adapter, rollout.alias, rollout.generation)
            return rollout_value(rollout.adapter, await rows.change_rollout(row, weight=weight, good_before=good))

    async def last(self, name: str, alias: str) -> Rollout:
        """Return the newest rollout of an alias; RolloutNotFound if it never had one."""
        async with self.registry.database.read() as connection:
            rows = Rows(connection)
            adapter = await rows.adapter(name)
            row = None if adapter is None else await rows.last_rollout(adapter, alias)
        if row is None:
            raise RolloutNotFound(f"alias '{alias}' of '{name}' never had a rollout", param="alias")
        return rollout_value(name, row)

    async def tallies(self, ids: Iterable[int]) -> dict[tuple[int, RolloutSide], RolloutTally]:
        """Return the counts of these rollouts so far, by id and side."""
        statement = select(rollout_tallies).where(rollout_tallies.c.rollout_id.in_(list(ids)))
        async with self.registry.database.read() as connection:
            found = (await connection.execute(statement)).all()
        return {(row.rollout_id, RolloutSide(row.side)): RolloutTally(row.numbers) for row in found}

    async def add(self, counted: Mapping[tuple[int, RolloutSide], RolloutTally]) -> None:
        """Add to the tallies. What is of no rollout of this database is dropped: it was restored from a backup."""
        async with self.registry.database.write() as connection:
            # In order, and locked where the database locks rows: servers add at the same time.
            for (rollout_id, side), tally in sorted(counted.items()):
                known = select(rollouts.c.id).where(rollouts.c.id == rollout_id).with_for_update()
                if (await connection.execute(known)).one_or_none() is None:
                    continue
                key = (rollout_tallies.c.rollout_id == rollout_id, rollout_tallies.c.side == side)
                numbers = (await connection.execute(select(rollout_tallies.c.numbers).where(*key))).scalar_one_or_none()
                if numbers is None:
                    change: Any = insert(rollout_tallies).values(rollout_id=rollout_id, side=side)
                else:
                    change = update(rollout_tallies).where(*key)
                await connection.execute(change.values(numbers=(RolloutTally(numbers or {}) + tally).numbers))


def _expected(row: AnyRow | None, name: str, alias: str, generation: int | None) -> AnyRow:
    if row is None:
        raise RolloutNotFound(f"alias '{alias}' of '{name}' has no active rollout", param="alias")
    if generation not in (None, row.generation):
        raise RolloutChanged(
            f"the rollout of '{name}@{alias}' has generation {row.generation}, expected: {generation}: read it again, "
            "then decide",
            generation=row.generation,
        )
    return row


async def _row(rows: Rows, rollout_id: int) -> AnyRow:
    return (await rows.connection.execute(select(rollouts).where(rollouts.c.id == rollout_id))).one()


async def _good(rows: Rows, rollout_id: int) -> int:
    key = (rollout_tallies.c.rollout_id == rollout_id, rollout_tallies.c.side == RolloutSide.CANDIDATE)
    numbers = (await rows.connection.execute(select(rollout_tallies.c.numbers).where(*key))).scalar_one_or_none()
    return RolloutTally(numbers or {}).good
