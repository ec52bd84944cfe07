"""Stands before the engine's /v1/responses: puts the earlier conversation into a request, and stores the response.

The engine gets a request without ``previous_response_id``: its ``input`` begins with the items of the conversation so
far. So the engine keeps nothing, and items of every type, tool calls too, reach the chat template. Streams stay
streams: events pass as they come, and only those that hold the whole response are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import StorageUnavailable
from server.errors import BackgroundUnsupported, PreviousResponseNotFound, ResponseNotFound
from server.replayed_body import replayed
from server.responses.response_store import ResponseStore

log = structlog.get_logger(__name__)

PATH: Final = "/v1/responses"

_WHOLE: Final = tuple(
    f"event: response.{kind}\n".encode() for kind in ("created", "in_progress", "completed", "incomplete", "failed")
)
"""How the events begin that hold the whole response."""
_LAST: Final = frozenset({"response.completed", "response.incomplete"})


@dataclass(frozen=True, slots=True)
class ResponseRecorder:
    """Wraps the engine's app for requests to ``PATH``."""

    store: ResponseStore

    async def __call__(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, project: str, may_store: bool
    ) -> None:
        """Answer a request to ``PATH`` by ``app``.

        Args:
            project: the caller's project, whose responses alone are seen.
            may_store: False: the response is not stored whatever the request says.

        Raises:
            BackgroundUnsupported: the request asks for ``background``.
            PreviousResponseNotFound: its ``previous_response_id`` is not stored.
        """
        try:
            content = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        request = _parsed(content)
        previous_id = request.get("previous_response_id")
        if request.get("background"):
            raise BackgroundUnsupported(
                "background responses are off on this server: leave background out, and stream the response or wait "
                "for it; /v1/batches answers many requests without a connection",
                param="background",
            )
        is_stored = may_store and request.get("store") is not False and self.store.limit > 0
        if previous_id is not None:
            content = await self._go_on(request, str(previous_id), project)
        if is_stored or previous_id is not None:
            send = _RecordedResponse(send, self.store if is_stored else None, project, request, previous_id).send
        await app(
            _with_length(scope, content),
            replayed({"type": "http.request", "body": content, "more_body": False}, receive),
            send,
        )

    async def _go_on(self, request: dict[str, Any], previous_id: str, project: str) -> bytes:
        """Put the conversation before the input of ``request``; return it as JSON."""
        try:
            previous = await self.store.get(previous_id, project)
        except ResponseNotFound as missing:
            raise PreviousResponseNotFound(missing.message, param="previous_response_id") from missing
        request["input"] = [*previous.conversation, *_items(request.get("input"))]
        del request["previous_response_id"]
        return json.dumps(request).encode()


@dataclass(slots=True, eq=False)
class _RecordedResponse:
    """The response on its way out: ``previous_response_id`` is put back, and the last form of it is stored."""

    to_client: Send
    store: ResponseStore | None
    project: str
    request: Mapping[str, Any]
    previous_id: Any
    _start: Message | None = None
    _is_stream: bool = False
    _body: bytearray = field(default_factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
            if self._is_stream or message["status"] != 200:
                await self.to_client(message)
            else:
                self._start = message  # held back: its length may change
        elif self._start is not None:
            await self._send_body(self._start, message)
        elif self._is_stream and message.get("body", b"").startswith(_WHOLE):
            await self.to_client({**message, "body": await self._event(message["body"])})
        else:
            await self.to_client(message)

    async def _send_body(self, start: Message, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = bytes(self._body)
        if response := _parsed(body):
            response["previous_response_id"] = self.previous_id
            await self._record(response)
            body = json.dumps(response, ensure_ascii=False, separators=(",", ":")).encode()
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await self.to_client(start)
        await self.to_client({"type": "http.response.body", "body": body})

    async def _event(self, event: bytes) -> bytes:
        """Return an event that holds the whole response, changed; the engine sends each event as one message."""
        head, _, data = event.partition(b"\ndata: ")
        payload = _parsed(data)
        response = payload.get("response")
        if not isinstance(response, dict):
            return event
        response["previous_response_id"] = self.previous_id
        if payload.get("type") in _LAST:
            await self._record(response)
        return head + b"\ndata: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

    async def _record(self, response: Mapping[str, Any]) -> None:
        if self.store is None or response.get("object") != "response":
            return
        try:
            if not await self.store.add(self.project, _items(self.request.get("input")), response):
                log.warning("response not stored: it is too large", response=response.get("id"))
        except StorageUnavailable as away:  # the answer is there all the same
            log.warning("response not stored", response=response.get("id"), reason=away.message)


def _items(value: Any) -> list[Any]:
    """Return the ``input`` of a request as a list of items."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return value if isinstance(value, list) else []


def _parsed(content: bytes) -> dict[str, Any]:
    """Return a JSON object; empty for what is none: the engine refuses it in its own words."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _with_length(scope: Scope, content: bytes) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(content)).encode())]}
