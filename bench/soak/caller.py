"""Sends requests to a server that is killed now and then, and notes in the account how each of them ended."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import httpx

from bench.soak.account import ANSWERED, CUT, Account, Key

PATIENCE_S: Final = 300
EVENT: Final = "data: "
DONE: Final = "data: [DONE]"

Json = dict[str, Any]


class KilledServer(Protocol):
    """A server that is killed now and then."""

    @property
    def url(self) -> str: ...

    async def until_ready(self) -> None: ...

    def was_killed_since(self, at_s: float) -> bool: ...


class AccountedClient:
    """Requests to one server, each counted in the account.

    Args:
        server: the server.
        account: where requests and acknowledged writes are counted.
    """

    def __init__(self, server: KilledServer, account: Account, http: httpx.AsyncClient) -> None:
        self.server = server
        self.account = account
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, server: KilledServer, account: Account) -> AsyncIterator[AccountedClient]:
        """Open a connection pool; each request gets a connection of its own after a kill."""
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as http:
            yield cls(server, account, http)

    async def send(self, kind: str, method: str, path: str, **request: Any) -> Json | None:
        """Return the body of a request's answer; None if it was refused or cut.

        Requests wait until the server is ready, as a load balancer would have them do.
        """
        await self.server.until_ready()
        self.account.begin(kind)
        sent_s = time.monotonic()
        try:
            response = await self._http.request(method, path, **request)
        except httpx.TransportError as broken:
            self._broke(kind, sent_s, f"{method} {path}: {type(broken).__name__} {broken}")
            return None
        if response.is_success:
            self.account.end(kind, ANSWERED)
            body: Json = response.json() if response.content else {}
            return body
        self._refused(kind, response.status_code, response.text, f"{method} {path}")
        return None

    async def write(self, kind: str, key: Key, content: str, method: str, path: str, **request: Any) -> Json | None:
        """Send a write of ``key``; note what it made, or, where it was cut or refused, that either state is right."""
        body = await self.send(kind, method, path, **request)
        if body is not None and method == "DELETE":
            self.account.acknowledge_removal(key)
        elif body is not None:
            self.account.acknowledge(key, content)
        else:
            self.account.doubt(key)
        return body

    async def stream(self, kind: str, path: str, body: Json) -> str | None:
        """Return the text of a streamed chat; None if it was refused or cut."""
        await self.server.until_ready()
        self.account.begin(kind)
        sent_s = time.monotonic()
        texts: list[str] = []
        try:
            async with self._http.stream("POST", path, json={**body, "stream": True}) as response:
                if not response.is_success:
                    text = (await response.aread()).decode()
                    self._refused(kind, response.status_code, text, path)
                    return None
                async for line in response.aiter_lines():
                    if line == DONE:
                        self.account.end(kind, ANSWERED)
                        return "".join(texts)
                    if line.startswith(EVENT):
                        event = json.loads(line.removeprefix(EVENT))
                        if "error" in event:
                            self._refused(kind, 200, line.removeprefix(EVENT), path)
                            return None
                        texts += [choice["delta"].get("content") or "" for choice in event["choices"]]
            self._broke(kind, sent_s, f"{path}: the stream ended without [DONE]")
        except httpx.TransportError as broken:
            self._broke(kind, sent_s, f"{path}: {type(broken).__name__} {broken}")
        return None

    def _broke(self, kind: str, sent_s: float, description: str) -> None:
        if self.server.was_killed_since(sent_s):
            self.account.end(kind, CUT)
        else:
            self.account.lose(kind, description)

    def _refused(self, kind: str, status: int, text: str, where: str) -> None:
        try:
            error = json.loads(text)["error"]
            reason = str(error.get("code") or error["type"])
        except (ValueError, KeyError, TypeError):
            self.account.lose(kind, f"{where}: {status} without an error body: {text[:200]}")
        else:
            self.account.end(kind, f"refused {reason}")
