"""Idempotency-Key: a repeated request that creates something gets the answer of the first, and creates nothing.

Clients repeat a request whose answer was lost. A header ``Idempotency-Key`` names the request: for a day, the same key
of the same caller means the same request. Only answers of status 2xx are kept: a refused request may be sent again.
Where a server ended while it worked on a request, its key stays taken, because nothing tells whether the work was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

import structlog
from python_multipart.multipart import parse_options_header
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from server.access.caller import caller_of
from server.accounts.schema import MAX_IDEMPOTENCY_KEY, kept_answers
from server.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidRequest
from trainer.clock import database_clock

log = structlog.get_logger(__name__)

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotent-replayed"
"""Header of an answer that is the first request's."""
KEPT_FOR: Final = timedelta(hours=24)
_CREATING: Final = frozenset({"/v1/fine_tuning/jobs", "/v1/files", "/v1/uploads", "/v1/batches"})
_KEPT_HEADERS: Final = frozenset({"content-type", "location"})


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer of a request, with the hash of the request."""

    request_hash: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """The table of answers, shared by all processes. ``key_id`` is empty while the server has no keys."""

    database: Database

    async def claim(self, key_id: str, name: str) -> KeptAnswer | None:
        """Take the idempotency key ``name`` for a request; return the answer of the first request, if it has one.

        Raises:
            IdempotencyKeyInUse: the first request is not answered yet, or its server ended before it was.
        """
        try:
            async with self.database.write() as connection:
                now = await database_clock(connection)
                await connection.execute(delete(kept_answers).where(kept_answers.c.created_at < now - KEPT_FOR))
                row = (await connection.execute(select(kept_answers).where(_is(key_id, name)))).one_or_none()
                if row is None:
                    values = {"key_id": key_id, "idempotency_key": name, "created_at": now}
                    await connection.execute(insert(kept_answers).values(values))
                    return None
        except IntegrityError as taken:  # by another process, between the two statements
            raise _in_use(name) from taken
        if row.request_hash is None:
            raise _in_use(name)
        return KeptAnswer(row.request_hash, row.status, row.headers, row.body)

    async def keep(self, key_id: str, name: str, answer: KeptAnswer) -> None:
        """Keep the answer of the request that claimed ``name``."""
        values = {"request_hash": answer.request_hash, "status": answer.status, "headers": dict(answer.headers)}
        async with self.database.write() as connection:
            await connection.execute(update(kept_answers).where(_is(key_id, name)).values(**values, body=answer.body))

    async def release(self, key_id: str, name: str) -> None:
        """Give up a claim: the request created nothing."""
        async with self.database.write() as connection:
            await connection.execute(delete(kept_answers).where(_is(key_id, name)))


@dataclass(frozen=True, slots=True)
class Idempotent:
    """ASGI app: ``app``, whose creating requests may carry an idempotency key.

    Raises:
        InvalidRequest: the key is empty or too long.
        IdempotencyKeyInUse: the first request with the key is not answered yet.
        IdempotencyKeyReused: the first request with the key was another one.
    """

    app: ASGIApp
    answers: KeptAnswers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not is_creating(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = headers.get(HEADER)
        if name is None:
            await self.app(scope, receive, send)
            return
        if not 0 < len(name) <= MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(f"Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} characters", param="Idempotency-Key")
        caller = caller_of(scope)
        key_id = caller.key_id or ""
        request = _HashedRequest(receive, scope, headers)
        kept = await self.answers.claim(key_id, name)
        if kept is None:
            await self._first(scope, request, send, key_id, name)
        elif await request.rest() == kept.request_hash:
            await _replay(kept, send)
        else:
            raise IdempotencyKeyReused(
                f"the Idempotency-Key {name!r:.100} was sent with another request before: send that request again, "
                "or this one with a new key",
                param="Idempotency-Key",
            )

    async def _first(self, scope: Scope, request: _HashedRequest, send: Send, key_id: str, name: str) -> None:
        answer = _Answer()
        try:
            await self.app(scope, request.receive, answer.hold)
        finally:
            try:
                if answer.is_success:
                    await self.answers.keep(key_id, name, answer.kept(await request.rest()))
                else:
                    await self.answers.release(key_id, name)
            except StorageUnavailable as error:  # the key stays taken; the work is done, or refused, all the same
                log.error("idempotency.write_failed", error=str(error))
            for message in answer.messages:
                await send(message)


def is_creating(path: str) -> bool:
    """Whether a POST to ``path`` creates something that a repeated request would create twice."""
    parts = path.strip("/").split("/")
    is_version = len(parts) == 4 and parts[:2] == ["v1", "adapters"] and parts[3] in {"versions", "merge"}
    return is_version or path in _CREATING


class _HashedRequest:
    """A request whose body is hashed as the app reads it.

    A repeated form has another boundary, which clients draw at random: the hash leaves the boundary out.
    """

    def __init__(self, receive: Receive, scope: Scope, headers: Headers) -> None:
        kind, options = parse_options_header(headers.get("content-type", ""))
        self._boundary = options.get(b"boundary", b"") if kind.startswith(b"multipart/") else b""
        self._receive = receive
        self._hash = sha256(repr((caller_of(scope).project, scope["path"], scope["query_string"], kind)).encode())
        self._tail = b""
        self._is_read = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self._is_read:
            self._is_read = not message.get("more_body", False)
            self._add(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self._is_read = True
        return message

    async def rest(self) -> str:
        """Read what is left of the body; return the hash of the request."""
        while not self._is_read:
            await self.receive()
        self._hash.update(self._tail)
        self._tail = b""
        return self._hash.hexdigest()

    def _add(self, chunk: bytes) -> None:
        if not self._boundary:
            self._hash.update(chunk)
            return
        *parts, last = (self._tail + chunk).split(self._boundary)
        for part in parts:
            self._hash.update(part)
        keep = len(last) - len(self._boundary) + 1  # the boundary may go on in the next chunk
        self._hash.update(last[: max(0, keep)])
        self._tail = last[max(0, keep) :]


@dataclass(slots=True)
class _Answer:
    """An answer that waits until it is kept; answers of creating routes are small JSON."""

    messages: list[Message] = field(default_factory=list)

    async def hold(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def is_success(self) -> bool:
        return bool(self.messages) and 200 <= self.messages[0]["status"] < 300

    def kept(self, request_hash: str) -> KeptAnswer:
        start = self.messages[0]
        headers = {name: value for name, value in Headers(raw=start["headers"]).items() if name in _KEPT_HEADERS}
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return KeptAnswer(request_hash, start["status"], headers, body)


async def _replay(kept: KeptAnswer, send: Send) -> None:
    fields: dict[str, Any] = {**kept.headers, REPLAYED: "true", "content-length": str(len(kept.body))}
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": kept.body})


def _is(key_id: str, name: str) -> ColumnElement[bool]:
    return (kept_answers.c.key_id == key_id) & (kept_answers.c.idempotency_key == name)


def _in_use(name: str) -> IdempotencyKeyInUse:
    return IdempotencyKeyInUse(
        f"a request with the Idempotency-Key {name!r:.100} is not answered yet: wait for its answer; if its server "
        "ended meanwhile, look whether the work was done, and send the request with a new key if it was not",
        param="Idempotency-Key",
    )
