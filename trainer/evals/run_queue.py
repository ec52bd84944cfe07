"""The queue of runs, for the processes that work on them: take a run, renew its lease, record results, end it.

A claim carries a lease and a fencing token, as on a job (``trainer.jobs.queue``). An item's results are written in
the transaction that counts them, and a claim writes each item once: a process that takes a run after another's death
goes on with the items that have none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import LeaseLost
from trainer.evals.criteria import is_judged
from trainer.evals.objects import EvalItem, EvalRun, ItemStatus, Outcome
from trainer.evals.run_store import item_of, run_of
from trainer.evals.state import EVAL_RUN_STATES, UNFINISHED, EvalRunState, EvalRunVerb
from trainer.jobs.job import Failure
from trainer.schema import eval_items, eval_runs, evals
from trainer.turns import next_number

AT_ONCE: Final = 200
"""Items read by one query."""
MAX_RUN_S: Final = 7 * 86400.0
"""Seconds from a run's creation after which it fails, with the results it has: what it waits for may never come."""
_COUNTED: Final[Mapping[ItemStatus, str]] = {
    ItemStatus.PASS: "passed",
    ItemStatus.FAIL: "failed",
    ItemStatus.ERROR: "errored",
}

_FINISH: Final = (
    update(eval_items)
    .where(eval_items.c.number == bindparam("of_number"))
    .values({name: bindparam(f"its_{name}") for name in ("created_at", "status", "sample", "results")})
)


@dataclass(frozen=True, slots=True)
class EvalRunClaim:
    """A process's claim on a run."""

    run: EvalRun
    """As it was when it was taken."""
    testing_criteria: Sequence[Mapping[str, Any]]
    token: int
    lease_s: float
    remaining_s: float
    """Seconds until the run's time is over; may be negative."""


@dataclass(frozen=True, slots=True)
class EvalRunQueue:
    """The unfinished runs.

    Each method with ``claim`` raises LeaseLost once another process has taken the run, or it was cancelled or deleted.
    """

    database: Database
    clock: Clock = database_clock

    async def take(self, worker: str, lease_s: float) -> EvalRunClaim | None:
        """Take an unfinished run that no other process holds; None without one.

        It is the oldest of the project whose turn it is. Costs no write while there is nothing to take.
        """
        async with self.database.read() as connection:
            is_free = _is_free(await self.clock(connection))
            if (await connection.execute(select(eval_runs.c.number).where(is_free).limit(1))).first() is None:
                return None
        async with self.database.write() as connection:
            at = await self.clock(connection)
            is_held = eval_runs.c.state.in_(UNFINISHED) & (eval_runs.c.lease_until > at)
            next_ = next_number(eval_runs, is_free=_is_free(at), is_held=is_held, served_at=eval_runs.c.taken_at)
            number = (await connection.execute(next_)).scalar_one_or_none()
            if number is None:
                return None
            lease = {"worker": worker, "lease_until": at + timedelta(seconds=lease_s), "taken_at": at}
            claimed = {**lease, "state": EvalRunState.IN_PROGRESS, "token": eval_runs.c.token + 1}
            taking = update(eval_runs).where(eval_runs.c.number == number).values(claimed).returning(*eval_runs.c)
            run = run_of((await connection.execute(taking)).one())
            criteria = select(evals.c.testing_criteria).where(evals.c.id == run.eval_id)
            remaining_s = MAX_RUN_S - (at - run.created_at).total_seconds()
            return EvalRunClaim(run, (await connection.execute(criteria)).scalar_one(), run.token, lease_s, remaining_s)

    async def pending(self, claim: EvalRunClaim, *, after: int) -> Sequence[EvalItem]:
        """Return the next items without results whose ``number`` is above ``after``, oldest first."""
        is_pending = (eval_items.c.run_number == claim.run.number, eval_items.c.status == ItemStatus.PENDING)
        statement = select(eval_items).where(*is_pending, eval_items.c.number > after)
        async with self.database.read() as connection:
            found = await connection.execute(statement.order_by(eval_items.c.number).limit(AT_ONCE))
            return [item_of(row) for row in found]

    async def record(self, claim: EvalRunClaim, outcomes: Sequence[Outcome]) -> None:
        """Write the results of items that have none, and count them; renews the lease, also without any results."""
        answered_bytes = sum(map(_answered_bytes, outcomes))
        async with self.database.write() as connection:
            row = await self._write(connection, claim, {})
            if not outcomes:
                return
            at = await self.clock(connection)
            await connection.execute(_FINISH, [_parameters(outcome, at) for outcome in outcomes])
            counts = {name: getattr(row, name) for name in _COUNTED.values()}
            size_bytes = row.size_bytes + answered_bytes
            per_criterion, per_model = list(row.per_criterion), dict(row.per_model)
            for outcome in outcomes:
                counts[_COUNTED[outcome.status]] += 1
                for index, result in enumerate(outcome.results):  # none where no answer came
                    if is_judged(result):
                        counted = "passed" if result["passed"] else "failed"
                        per_criterion[index] = _added(per_criterion[index], {counted: 1})
                for model, usage in outcome.usage.items():
                    per_model[model] = _added(per_model.get(model, {}), usage)
            more = {"per_criterion": per_criterion, "per_model": per_model, "size_bytes": size_bytes}
            await self._write(connection, claim, {**counts, **more})

    async def end(self, claim: EvalRunClaim, verb: EvalRunVerb, error: Failure | None = None) -> None:
        (state,) = EVAL_RUN_STATES.moves[verb].values()
        async with self.database.write() as connection:
            ended = {"state": state, "worker": None, "finished_at": await self.clock(connection)}
            failure = None if error is None else asdict(error)
            await self._write(connection, claim, {**ended, "error": failure, "lease_until": None})

    async def release(self, claim: EvalRunClaim) -> None:
        """Let other processes take the run; no effect once one has, or it has ended."""
        async with self.database.write() as connection:
            free = update(eval_runs).where(_is_held_by(claim)).values(worker=None, lease_until=None)
            await connection.execute(free)

    async def _write(self, connection: AsyncConnection, claim: EvalRunClaim, values: Mapping[str, Any]) -> Row[Any]:
        """Renew the lease and write ``values``; locks the row."""
        renewed = {"lease_until": await self.clock(connection) + timedelta(seconds=claim.lease_s), **values}
        writing = update(eval_runs).where(_is_held_by(claim)).values(renewed).returning(*eval_runs.c)
        row = (await connection.execute(writing)).one_or_none()
        if row is None:
            raise LeaseLost(f"run '{claim.run.id}' was cancelled, deleted or taken by another process; stop here")
        return row


def _parameters(outcome: Outcome, at: datetime) -> dict[str, Any]:
    values = {"created_at": at, "status": outcome.status, "sample": outcome.sample, "results": list(outcome.results)}
    return {"of_number": outcome.number, **{f"its_{name}": value for name, value in values.items()}}


def _answered_bytes(outcome: Outcome) -> int:
    """Return the bytes of an answer and its results; the messages before it are counted with the items."""
    return len(json.dumps([outcome.sample["output"], outcome.results]))


def _added(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {**counts, **more}}


def _is_held_by(claim: EvalRunClaim) -> ColumnElement[bool]:
    is_run = (eval_runs.c.number == claim.run.number, eval_runs.c.token == claim.token)
    return and_(*is_run, eval_runs.c.state == EvalRunState.IN_PROGRESS)


def _is_free(at: datetime) -> ColumnElement[bool]:
    is_unheld = or_(eval_runs.c.lease_until.is_(None), eval_runs.c.lease_until <= at)
    return eval_runs.c.state.in_(UNFINISHED) & is_unheld
