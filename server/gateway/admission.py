"""Who gets in: nobody while the process drains, and no more at once than the operator allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Draining, Overloaded


class Admission:
    """Counts the inference requests in flight; ``limit`` at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one request in for the length of the block.

        Raises:
            Draining: the process is about to stop.
            Overloaded: the limit is reached.
        """
        if self.is_draining:
            raise Draining("the server is shutting down; send the request to another replica", retry_after_s=5)
        if self._in_flight >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are in flight already; try again, or raise --max-in-flight",
                retry_after_s=1,
            )
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def drain(self, within_s: float) -> bool:
        """Take nothing new and wait for what is in flight; return False when it did not finish in time."""
        self.is_draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            return False
        return True
