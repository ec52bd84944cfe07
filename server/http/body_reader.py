"""Reads the body of a request before any work is done for it: bounded in bytes, in time and in all bodies together.

A request whose body is slow or large holds no place of other requests, and no parser sees what is too large. The memory
for bodies is shared between their senders, as ``server.fair_shares`` says.
Bodies of uploads pass as they come, bounded in time alone: their routes write them to disk and count their bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import Message, Receive

from server.errors import BodyTooLarge, BodyTooSlow, Overloaded
from server.fair_shares import Holdings, has_share_left
from server.replayed_body import replayed

FIRST_S: Final = 10.0
"""Seconds for which a body may be behind ``LEAST_RATE``, or not arrive at all, at any moment."""
LEAST_RATE: Final = 16 << 10
"""Bytes a second."""
BODIES_AT_ONCE: Final = 32
"""Bodies of the largest size that are held at the same time; many more small ones."""
NO_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
UPLOADS: Final = re.compile(r"/v1/(files|uploads/[^/]+/parts|adapters/[^/]+/versions)/?")


class BodyReader:
    """Reads bodies of at most ``max_bytes`` each, and at most ``BODIES_AT_ONCE`` times as many bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held = 0
        self._held_by: Holdings[str] = Holdings()

    @asynccontextmanager
    async def read(
        self, method: str, path: str, headers: Mapping[str, str], receive: Receive, *, sender: str
    ) -> AsyncIterator[Receive]:
        """Read the body of a request; yield a ``receive`` that gives it, and holds it for the length of the block.

        ``sender``: whose share of the memory for bodies this one takes.

        Raises:
            BodyTooLarge: more bytes than are read.
            BodyTooSlow: the bytes did not arrive in time.
            Overloaded: the bodies of other requests, or of this sender, take the memory that is meant for them.
        """
        if method in NO_BODY and "content-length" not in headers and "transfer-encoding" not in headers:
            yield receive
            return
        pace = _Pace()
        if UPLOADS.fullmatch(path):
            yield pace.limited(receive)
            return
        length = headers.get("content-length", "")
        self._check(sender, int(length) if length.isdecimal() and len(length) < 20 else 0)
        held = 0
        parts: list[bytes] = []
        try:
            while True:
                message = await pace.next(receive)
                if message["type"] == "http.disconnect":
                    break
                part = message.get("body", b"")
                held += len(part)
                self._hold(sender, len(part))
                self._check(sender, held, counted=held)
                parts.append(part)
                if not message.get("more_body"):
                    message = {"type": "http.request", "body": b"".join(parts), "more_body": False}
                    break
            del parts
            yield replayed(message, receive)
        finally:
            self._hold(sender, -held)

    def _hold(self, sender: str, size: int) -> None:
        self._held += size
        self._held_by.add(sender, size)

    def _check(self, sender: str, size: int, *, counted: int = 0) -> None:
        """Check a body of ``size`` bytes, of which ``counted`` are held already."""
        if size > self.max_bytes:
            raise BodyTooLarge(
                f"the body is larger than {self.max_bytes} bytes: send a smaller one, or raise --max-body-bytes"
            )
        free = BODIES_AT_ONCE * self.max_bytes - self._held + counted
        if size > free or not has_share_left(self._held_by[sender] - counted, free):
            raise Overloaded("the bodies of other requests take the memory meant for them; try again", retry_after_s=1)


class _Pace:
    """The seconds for which a body is waited for: ``FIRST_S``, filled up by a second for each ``LEAST_RATE`` bytes.

    They never exceed ``FIRST_S``, so that no time is saved up. Time in which the server asks for no bytes is free.
    """

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._left_s = FIRST_S
        self._is_whole = False

    async def next(self, receive: Receive) -> Message:
        """Return the next message of the body.

        Raises:
            BodyTooSlow: the body is behind its time.
        """
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self._left_s):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"the body arrived slower than {FIRST_S:g} s and {LEAST_RATE} bytes a second: send it again"
            ) from None
        earned_s = len(message.get("body", b"")) / LEAST_RATE
        self._left_s = min(FIRST_S, self._left_s - (self._clock() - asked_at) + earned_s)
        self._is_whole = not message.get("more_body")
        return message

    def limited(self, receive: Receive) -> Receive:
        """Return ``receive`` with this pace for as long as the body is incomplete; what follows may take any time."""

        async def paced() -> Message:
            return await (receive() if self._is_whole else self.next(receive))

        return paced
