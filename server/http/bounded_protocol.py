"""uvicorn's HTTP protocol with limits on what a connection may send before any code of ours sees a request.

uvicorn itself reads headers without a limit on their size or their time, and accepts connections without a limit.
"""

from __future__ import annotations

import asyncio
import json
import resource
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http.errors import error_body

MAX_HEADER_BYTES: Final = 64 << 10
"""Bytes of a request's line and headers together, and of what follows its body; nginx and Node allow 32 and 16 KiB."""
HEADERS_WITHIN_S: Final = 10.0
"""Seconds for the first headers of a connection, and for those of each later request once its first byte is there."""
MAX_CONNECTIONS: Final = 4096
"""Connections at a time, if the process may have twice as many descriptors: files and the database need some too."""

_REASONS: Final = {
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def most_connections() -> int:
    """Return the number of connections that may be open at a time."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, descriptors // 2)


def raise_descriptor_limit() -> None:
    """Let this process have the descriptors of ``MAX_CONNECTIONS``, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class HeadersTooLarge(Exception):
    """Raised in a callback of the parser, so that it reads no further."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to headers above ``MAX_HEADER_BYTES``, 408 to headers that take too long, 503 beyond the connections.

    A connection that has sent nothing in time is closed without an answer; so is one that goes on with the body of a
    request that is answered already.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._awaits_headers = True
        self._unread_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > (most := most_connections()):
            message = f"{most} connections are open already; try again, or close idle ones"
            self._refuse(503, "too_many_connections", message)
            return
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._is_refused:
            return
        # A single header without an end never reaches ``on_header``.
        if self._unread_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        # Each byte ends uvicorn's own deadline for an idle connection.
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._start_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._awaits_headers = True
        if self._deadline is None:
            self._start_deadline()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; leave out what follows a body (RFC 9110, 6.5), which would come after all checks."""
        if self._awaits_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEADER_BYTES:
            self._refuse_headers()
            raise HeadersTooLarge
        self._awaits_headers, self._unread_bytes = False, 0
        self._end_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unread_bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._unread_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read, unless it was stopped by a refusal."""
        if not self._is_refused:
            super().send_400_response(msg)

    def _refuse_headers(self) -> None:
        message = f"the request's headers are larger than {MAX_HEADER_BYTES} bytes: send fewer or shorter ones"
        self._refuse(431, "headers_too_large", message)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEADERS_WITHIN_S, self._headers_are_late)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _headers_are_late(self) -> None:
        self._deadline = None
        if self._unread_bytes:
            message = f"the request's headers were not complete after {HEADERS_WITHIN_S:g} s: send them at once"
            self._refuse(408, "headers_too_slow", message)
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._is_refused = True
        self._end_deadline()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the middle of another answer
            return
        body = json.dumps(error_body(message, status, code=code)).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
