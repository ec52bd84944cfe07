"""The limits of keys and projects, stored in the database and looked up in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sqlalchemy import ColumnElement, delete, insert, select

from adapters.errors import NotFound
from adapters.storage.database import Database, Follower
from server.access.caller import is_subject_id
from server.accounts.limits import NO_LIMITS, Defaults, LimitedKind, Limits
from server.accounts.schema import account_limits


@dataclass(frozen=True, slots=True)
class LimitedAccount:
    """A key or a project with its limits."""

    kind: LimitedKind
    id: str
    limits: Limits

    @property
    def named(self) -> str:
        """How messages call it."""
        return f"{'subject' if is_subject_id(self.id) else self.kind} '{self.id}'"


class LimitStore(Follower):
    """The limits of all servers that share a database; a change reaches the others with ``follow``.

    ``defaults``: limits of keys and projects where nothing else is stored.
    """

    refresh_failed = "limits.refresh_failed"

    def __init__(self, database: Database, defaults: Defaults) -> None:
        super().__init__(database)
        self._defaults = defaults
        self._stored: dict[tuple[str, str], Limits] = {}

    def of(self, key_id: str | None, project: str) -> list[LimitedAccount]:
        """Return the key and the project, those of them that have a limit."""
        accounts: list[tuple[LimitedKind, str]] = [] if key_id is None else [("key", key_id)]
        accounts.append(("project", project))
        limited = [LimitedAccount(kind, name, self._limits(kind, name)) for kind, name in accounts]
        return [account for account in limited if account.limits != NO_LIMITS]

    def of_project(self, project: str) -> Limits:
        """Return the limits of a project."""
        return self._limits("project", project)

    def any_of(self, name: str) -> bool:
        """Whether any key or project may have a limit called ``name``."""
        return any(getattr(limits, name) is not None for limits in (*self._defaults.values(), *self._stored.values()))

    def _limits(self, kind: LimitedKind, name: str) -> Limits:
        return self._stored.get((kind, name), self._defaults[kind])

    def list(self) -> list[LimitedAccount]:
        """Return every key and project whose limits are stored."""
        return [
            LimitedAccount(cast("LimitedKind", kind), name, limits)
            for (kind, name), limits in sorted(self._stored.items())
        ]

    async def set(self, kind: LimitedKind, name: str, limits: Limits) -> LimitedAccount:
        """Store the limits of a key or project; a field that was not set has its default."""
        values = limits.model_dump(exclude_unset=True)
        async with self.database.write() as connection:
            await connection.execute(delete(account_limits).where(_is(kind, name)))
            await connection.execute(insert(account_limits).values(kind=kind, id=name, limits=values))
        await self.refresh()
        return LimitedAccount(kind, name, self._stored[kind, name])

    async def remove(self, kind: LimitedKind, name: str) -> None:
        """Forget the stored limits: the defaults hold again. Raises NotFound."""
        async with self.database.write() as connection:
            removed = (await connection.execute(delete(account_limits).where(_is(kind, name)))).rowcount
        if not removed:
            raise NotFound(f"{kind} '{name:.100}' has no limits of its own; GET /v1/limits lists them", param="id")
        await self.refresh()

    async def _read(self) -> None:
        async with self.database.read() as connection:
            rows = await connection.execute(select(account_limits))
            self._stored = {
                (row.kind, row.id): Limits.model_validate(row.limits).over(self._defaults[row.kind]) for row in rows
            }


def _is(kind: str, name: str) -> ColumnElement[bool]:
    return (account_limits.c.kind == kind) & (account_limits.c.id == name)
