"""The SQL of rollouts, in a transaction that the registry opened."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.registry.schema import rollouts
from adapters.rollout import ROLLOUT_STATES, Rollout, RolloutPlan, RolloutState, Sticky

AnyRow = Row[Any]
IS_ACTIVE: Final = rollouts.c.state == RolloutState.ACTIVE


@dataclass(frozen=True, slots=True)
class RolloutRows:
    """The rows of rollouts as the transaction of ``connection`` reads and changes them."""

    connection: AsyncConnection

    async def last_rollout(self, adapter: AnyRow, alias: str) -> AnyRow | None:
        """Return the row of the newest rollout of an alias, the active one if there is one; None: it had none."""
        statement = select(rollouts).where(rollouts.c.adapter_id == adapter.id, rollouts.c.alias == alias)
        return (await self.connection.execute(statement.order_by(rollouts.c.id.desc()).limit(1))).one_or_none()

    async def active_rollout(self, adapter: AnyRow, alias: str) -> AnyRow | None:
        row = await self.last_rollout(adapter, alias)
        return row if row is not None and row.state == RolloutState.ACTIVE else None

    async def add_rollout(self, **columns: Any) -> AnyRow:
        at = datetime.now(UTC)
        state = {"state": RolloutState.ACTIVE, "generation": 1, "good_before": 0, "created_at": at, "updated_at": at}
        return (await self.connection.execute(insert(rollouts).values(**state, **columns).returning(*rollouts.c))).one()

    async def change_rollout(self, row: AnyRow, **columns: Any) -> AnyRow:
        change = update(rollouts).where(rollouts.c.id == row.id)
        values = {"generation": row.generation + 1, "updated_at": datetime.now(UTC), **columns}
        return (await self.connection.execute(change.values(**values).returning(*rollouts.c))).one()

    async def end_rollout(self, row: AnyRow, state: RolloutState, reason: Mapping[str, Any] | None) -> AnyRow:
        """End an active rollout; one that was not promoted has weight 0 from now on."""
        ended = ROLLOUT_STATES.move(RolloutState(row.state), state)
        weight = {} if ended is RolloutState.PROMOTED else {"weight": 0}
        return await self.change_rollout(row, state=ended, reason=reason, **weight)

    async def end_by_move(self, adapter: AnyRow, alias: str, to: int | None) -> None:
        """End the active rollout of an alias that moved to version ``to``; None: the alias was deleted."""
        row = await self.active_rollout(adapter, alias)
        if row is None:
            return
        if to == row.candidate:
            await self.end_rollout(row, RolloutState.PROMOTED, None)
        elif to is None:
            await self.end_rollout(row, RolloutState.ENDED, reason("alias_deleted", "the alias was deleted"))
        else:
            moved = reason("alias_moved", f"the alias was moved to version {to}")
            await self.end_rollout(row, RolloutState.ENDED, moved)

    async def end_by_deletion(self, adapter: AnyRow, candidate: int) -> None:
        """End the active rollouts of a candidate that is deleted."""
        of_candidate = (rollouts.c.adapter_id == adapter.id, rollouts.c.candidate == candidate, IS_ACTIVE)
        for row in (await self.connection.execute(select(rollouts).where(*of_candidate))).all():
            deleted = reason("candidate_deleted", f"version {candidate} was deleted")
            await self.end_rollout(row, RolloutState.ENDED, deleted)


def reason(code: str, message: str, **numbers: Any) -> dict[str, Any]:
    """Return why a rollout ended."""
    return {"code": code, "message": message, **numbers}


def plan_json(plan: RolloutPlan) -> dict[str, Any]:
    return asdict(plan)


def rollout_value(adapter: str, row: AnyRow) -> Rollout:
    """Return the row as a value."""
    names = ("id", "alias", "version", "candidate", "weight", "reason", "generation", "good_before", "key_id")
    plan = RolloutPlan(**row.plan | {"sticky": Sticky(row.plan["sticky"])})
    times = {"created_at": row.created_at, "updated_at": row.updated_at}
    fields = {name: getattr(row, name) for name in names}
    return Rollout(adapter=adapter, plan=plan, state=RolloutState(row.state), **fields, **times)
