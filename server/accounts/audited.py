"""Stands before the control routes: adds a row to the audit log for each write, before its response is sent."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import get_contextvars

from server.access.caller import caller_of
from server.accounts.audit_log import AuditEvent, AuditLog

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
READ_BY_POST: Final = frozenset(
    {"/ping", "/v1/adapters/diff", "/v1/fine_tuning/alpha/graders/run", "/v1/fine_tuning/alpha/graders/validate"}
)
"""Routes that take POST and change nothing."""
_MAX_TEXT: Final = 128
_ADDED: Final = "patchbay.audited"
"""Entry of the ASGI scope: what a route adds to the parameters of its row."""


@dataclass(frozen=True, slots=True)
class Audited:
    """ASGI app: ``app`` with an audit log of its writes, refused ones included. Requests that match no route have none.

    A response leaves when its row is written; while the database does not answer, the log has the event instead.
    """

    app: ASGIApp
    audit_log: AuditLog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READS:
            await self.app(scope, receive, send)
            return
        response = _HeldResponse()
        try:
            await self.app(scope, receive, response.hold)
        finally:
            route = getattr(scope.get("route"), "path", None)
            if route is not None and route not in READ_BY_POST:
                await self.audit_log.add(_event(scope, route, response))
            for message in response.messages:
                await send(message)


@dataclass(slots=True)
class _HeldResponse:
    """A response that waits until its row is written. Responses to writes are small JSON."""

    messages: list[Message] = field(default_factory=list)

    async def hold(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        """Status of the response; 500 where the app failed before it began one."""
        return next((each["status"] for each in self.messages if each["type"] == "http.response.start"), 500)

    @property
    def result(self) -> str:
        """The ``id`` in the JSON of the response; empty if there is none."""
        try:
            body: Any = json.loads(b"".join(each.get("body", b"") for each in self.messages))
        except ValueError:
            return ""
        return str(body.get("id", "")) if isinstance(body, dict) else ""


def add_to_audit(scope: MutableMapping[str, Any], **parameters: Any) -> None:
    """Add ``parameters`` to those in the audit log of the request with this ASGI ``scope``, such as ``force=True``."""
    scope.setdefault(_ADDED, {}).update(parameters)


def _event(scope: Scope, route: str, response: _HeldResponse) -> AuditEvent:
    caller = caller_of(scope)
    client = scope.get("client")
    return AuditEvent(
        key_id=caller.key_id or "",
        project=caller.project,
        address="" if client is None else str(client[0])[:64],
        action=f"{scope['method']} {route}",
        parameters={name: storable(str(value)) for name, value in scope.get("path_params", {}).items()}
        | scope.get(_ADDED, {}),
        status=response.status,
        result=storable(response.result),
        request_id=storable(get_contextvars().get("request_id", "")),
    )


def storable(text: str) -> str:
    """Return ``text`` without what databases refuse (NUL, half a surrogate pair), cut to 128 characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")[:_MAX_TEXT]
