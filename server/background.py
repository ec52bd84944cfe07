"""Named background loops that live as long as a block and are restarted when they fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger(__name__)

RESTART_S = 1.0

Loop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background(**loops: Loop) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """Run each loop as a task during the block; a failed loop is logged and restarted after ``RESTART_S``."""
    tasks = {name: asyncio.create_task(_supervised(name, loop), name=name) for name, loop in loops.items()}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _supervised(name: str, loop: Loop) -> None:
    while True:
        try:
            return await loop()
        except Exception:  # supervised loop: logged here and restarted
            log.exception("background loop failed", loop=name)
            await asyncio.sleep(RESTART_S)
