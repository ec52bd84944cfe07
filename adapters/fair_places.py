"""Places for heavy work, given in turns to the projects that wait for one."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairPlaces:
    """``count`` places. A free one goes to the waiting project that holds the fewest; of several, to each in turn.

    Belongs to one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By project; the one that was served last is at the end."""

    @property
    def waiting(self) -> int:
        """Number of those who wait for a place."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, project: str) -> AsyncIterator[None]:
        """Wait for a place for ``project``, and hold it for the length of the block."""
        give_back = await self.take(project)
        try:
            yield
        finally:
            give_back()

    async def take(self, project: str) -> Callable[[], None]:
        """Wait for a place for ``project``; return a function that gives it back. A second call has no effect."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(turn)
        self._give()
        held = [project]

        def give_back() -> None:
            if held:
                self._free += 1
                self._held[held.pop()] -= 1
                self._held += Counter()  # drops projects without places
                self._give()

        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(project, turn)
                self._give()
            else:  # it was given at that very moment
                give_back()
            raise
        return give_back

    def _give(self) -> None:
        """Give the free places to those who wait."""
        while self._free and self._waiting:
            project = min(self._waiting, key=self._held.__getitem__)
            turns = self._waiting.pop(project)
            turn = turns.popleft()
            if turns:
                self._waiting[project] = turns
            if not turn.cancelled():
                self._free -= 1
                self._held[project] += 1
                turn.set_result(None)

    def _leave(self, project: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(project, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[project]
