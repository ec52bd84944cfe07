"""Ends what was not used for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class IdleTimer:
    """Calls ``on_idle`` after ``idle_s`` seconds without use (None: never)."""

    def __init__(self, idle_s: float | None, on_idle: Callable[[], None]) -> None:
        self._idle_s = idle_s
        self._on_idle = on_idle
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Stop the clock for the length of the block."""
        self._users += 1
        self.stop()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._idle_s is not None:
                self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._on_idle)

    def stop(self) -> None:
        """Stop the clock until the next use ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
