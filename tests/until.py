"""Waits for what no event announces."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol


async def until(
    condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = 60.0, every_s: float = 0.002
) -> Any:
    """Return the first true result of ``condition``, awaited if need be; TimeoutError after ``within_s`` seconds."""
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(every_s)


class Until(Protocol):
    """The type of the fixture ``until``."""

    async def __call__(
        self, condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = 60.0, every_s: float = 0.002
    ) -> Any: ...
