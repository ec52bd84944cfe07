"""The store of responses and chat completions, bounded in number, age and size. Only their projects see them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from server.errors import ResponseNotFound
from server.responses.schema import MAX_ID_LENGTH, MIGRATIONS, VERSION_TABLE, responses
from trainer.clock import Clock, database_clock
from trainer.page import belongs_to
from trainer.schema import row_reader

MAX_BYTES: Final = 4 << 20
"""A response that is larger, with all its input, is not stored."""

RESPONSE: Final = "response"
COMPLETION: Final = "chat.completion"
"""``object`` of a stored body: what its route answers."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with the items that it answers, or a chat completion with its messages."""

    id: str
    created_at: datetime
    input: Sequence[Json]
    body: Json
    """The response as it was sent."""

    @property
    def conversation(self) -> list[Json]:
        """The items of the conversation so far, as the input of a request that goes on with it."""
        return [*self.input, *self.body.get("output", ())]


_response: Final = row_reader(StoredResponse)


@dataclass(frozen=True, slots=True)
class ResponseStore:
    """The newest ``limit`` responses of each project that are at most ``max_age_s`` old; ``limit`` 0: none are kept.

    ``project``: only its responses; None: all, and of several with one id the newest.
    """

    database: Database
    limit: int
    max_age_s: float
    clock: Clock = database_clock

    @classmethod
    async def open(cls, database: Database, *, limit: int, max_age_s: float) -> ResponseStore:
        """Migrate the table in ``database`` and open the store; the caller closes the database."""
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        return cls(database, limit, max_age_s)

    async def add(self, project: str, input: Sequence[Json], body: Json) -> bool:  # noqa: A002  OpenAI's word
        """Store a response; return False for one that is too large. The project's oldest beyond the limit are deleted.

        A response whose caller chose the id of an earlier one of the same project replaces it.
        """
        response_id = str(body["id"])
        size = len(json.dumps(input)) + len(json.dumps(body))
        if not self.limit or size > MAX_BYTES or len(response_id) > MAX_ID_LENGTH:
            return False
        async with self.database.write() as connection:
            await connection.execute(delete(responses).where(_is(response_id, project)))
            at = await self.clock(connection)
            values = {"id": response_id, "created_at": at, "project": project, "input": list(input), "body": dict(body)}
            await connection.execute(insert(responses).values(values))
            number = responses.c.number
            own = select(number).where(responses.c.project == project)
            last = (await connection.execute(own.order_by(number.desc()).offset(self.limit).limit(1))).scalar()
            if last is not None:
                await connection.execute(delete(responses).where(responses.c.project == project, number <= last))
        return True

    async def get(self, response_id: str, project: str | None, kinds: Collection[str] = (RESPONSE,)) -> StoredResponse:
        """Return a response, or a chat completion, as far as ``kinds`` names it.

        Raises:
            ResponseNotFound: the project made none with this id, or it is not stored any more.
        """
        async with self.database.read() as connection:
            living = _is(response_id, project) & await self._is_young(connection)
            row = (await connection.execute(_newest(select(responses), living))).one_or_none()
        if row is None or row.body.get("object", RESPONSE) not in kinds:
            raise self._missing(response_id)
        return _response(row)

    async def delete(self, response_id: str, project: str | None, kind: str = RESPONSE) -> None:
        """Delete a response. Those that went on from it hold its items themselves. Raises ResponseNotFound."""
        await self.get(response_id, project, (kind,))
        async with self.database.write() as connection:
            living = _is(response_id, project) & await self._is_young(connection)
            number = _newest(select(responses.c.number), living).scalar_subquery()
            if not (await connection.execute(delete(responses).where(responses.c.number == number))).rowcount:
                raise self._missing(response_id)

    async def sweep(self) -> int:
        """Delete the responses that are too old; return their number."""
        async with self.database.write() as connection:
            return (await connection.execute(delete(responses).where(~await self._is_young(connection)))).rowcount

    async def _is_young(self, connection: AsyncConnection) -> ColumnElement[bool]:
        return responses.c.created_at > await self.clock(connection) - timedelta(seconds=self.max_age_s)

    def _missing(self, response_id: str) -> ResponseNotFound:
        if not self.limit:
            reason = "this server stores none (--max-responses 0)"
        else:
            reason = (
                "it was made in another project, with store: false or (a chat completion) without store: true, was "
                "deleted, is older than "
                f"{self.max_age_s:.0f} s, is not among its project's last {self.limit}, or was larger than "
                f"{MAX_BYTES} bytes"
            )
        return ResponseNotFound(
            f"no response with the id '{response_id:.100}' is stored: {reason}", param="response_id"
        )


def _newest(of: Select[Any], where: ColumnElement[bool]) -> Select[Any]:
    return of.where(where).order_by(responses.c.number.desc()).limit(1)


def _is(response_id: str, project: str | None) -> ColumnElement[bool]:
    return and_(responses.c.id == response_id, *belongs_to(responses, project))
