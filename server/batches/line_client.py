"""Sends the lines of batches and of runs to this server's own gateway, in process, a bounded number at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import httpx
from starlette.types import ASGIApp

from server.batches.input_file import BatchLine
from server.current_engine import CurrentEngine
from trainer.schema import mint

ATTEMPTS: Final = 3
"""A line that is answered with a server error is sent this often: the engine may have died of another request."""
RETRY_S: Final = 1.0
"""Seconds before a line is sent again that the server could not take."""

_LATER: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_DENIED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class AccessDenied(Exception):
    """The key that created the batch or the run may not send its lines any more: it was revoked."""


@dataclass(slots=True, eq=False)
class LinesInFlight:
    """The lines that are being answered: at most ``lines`` at once, of at most ``models`` models.

    Each model holds a resident, so the limit leaves residents to other requests.
    """

    lines: int
    models: int
    _of_model: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def place(self, model: str) -> AsyncIterator[None]:
        """Wait for a place for a line to ``model``, and hold it for the length of the block."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_place(model))
            self._of_model[model] += 1
        try:
            yield
        finally:
            self._of_model[model] -= 1
            self._of_model += Counter()  # drops models without lines
            async with self._changed:
                self._changed.notify_all()

    def _has_place(self, model: str) -> bool:
        is_open = model in self._of_model or len(self._of_model) < self.models
        return is_open and self._of_model.total() < self.lines


@dataclass(frozen=True, slots=True)
class LineResult:
    """A line of the output file, or of the error file."""

    content: bytes
    """JSON without line breaks."""
    is_failed: bool


@dataclass(frozen=True, slots=True)
class LineClient:
    """Sends lines over ``http``, a client of ``connected``."""

    http: httpx.AsyncClient
    engine: CurrentEngine
    in_flight: LinesInFlight

    async def answer(self, endpoint: str, line: BatchLine) -> LineResult:
        """Return the result of a line of a batch; raises as ``send``."""
        return _answered(line, await self.send(endpoint, line.model, line.body))

    async def send(self, endpoint: str, model: str, body: Mapping[str, Any]) -> httpx.Response:
        """Return the response to a request to ``model``; waits as long as the server cannot take it.

        Raises:
            AccessDenied: the key was revoked.
        """
        failures = 0
        while True:
            async with self.in_flight.place(model):
                await self._until_ready()
                response = await self.http.post(endpoint, json=body)
            status = response.status_code
            if status in _DENIED:
                raise AccessDenied
            failures += status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LATER
            if status not in _LATER and not (0 < failures < ATTEMPTS and status >= HTTPStatus.INTERNAL_SERVER_ERROR):
                return response
            await asyncio.sleep(RETRY_S)

    async def _until_ready(self) -> None:
        while not self.engine.is_ready:  # noqa: ASYNC110  the supervisor sets no event
            await asyncio.sleep(RETRY_S)


def connected(app: ASGIApp) -> httpx.AsyncClient:
    """Return a client of ``app``, the gateway's app for lines that act for a key. It has no time limit."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False)


def unanswered(custom_id: str, code: str, message: str) -> bytes:
    """Return the line of the error file, with its line break, for a request that was not sent."""
    return _line(custom_id, None, {"code": code, "message": message}) + b"\n"


def _answered(line: BatchLine, response: httpx.Response) -> LineResult:
    try:
        body = response.json()
    except ValueError:  # the engine died within the response
        body = {"error": {"message": "the engine ended the response", "type": "server_error", "param": None}}
    request_id = response.headers.get("x-request-id")
    answer = {"status_code": response.status_code, "request_id": request_id, "body": body}
    return LineResult(_line(line.custom_id, answer, None), response.status_code != HTTPStatus.OK)


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    entry = {"id": mint("batch_req_"), "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(entry, separators=(",", ":")).encode()
