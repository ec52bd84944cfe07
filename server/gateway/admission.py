"""Who gets in: nobody while the process drains, and no more at once than the operator allows.

No adapter gets more than its share: as many requests in flight as ``SHARE`` times the places that are free (switches
share their buffers so). One flood stops at three quarters of the limit, two floods at three sevenths each; there is
always a place for an adapter that asks for the first time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from server.errors import Draining, Overloaded

SHARE: Final = 3


class Admission:
    """Counts the inference requests in flight; ``limit`` at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._of_adapter: Counter[str] = Counter()
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

    def enter(self, adapter: str) -> Callable[[], None]:
        """Count a request that was admitted as ``adapter``'s; return what takes it out again.

        Raises:
            Overloaded: the adapter has had its share.
        """
        free = self._limit - self._in_flight + 1  # the request itself is among those in flight
        held = self._of_adapter[adapter]
        if held >= SHARE * free:
            raise Overloaded(
                f"{held} of the {self._limit} requests that may be in flight are for '{adapter}' already, and others "
                "want to get in; try again, or raise --max-in-flight",
                retry_after_s=1,
            )
        self._of_adapter[adapter] = held + 1
        return partial(self._left, adapter)

    def _left(self, adapter: str) -> None:
        self._of_adapter[adapter] -= 1
        if not self._of_adapter[adapter]:
            del self._of_adapter[adapter]

    async def drain(self, within_s: float) -> bool:
        """Take nothing new and wait for what is in flight; return False when it did not finish in time."""
        self.is_draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            return False
        return True
