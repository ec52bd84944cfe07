"""Limits the inference requests in flight: in all, for each project and for each model. Refuses all during a drain.

A request counts as many times as the engine writes answers for it. The requests in flight are shared between projects,
and between the adapters and the base model; the writes are shared between those who send them. ``server.fair_shares``
has the rule.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from server.errors import Draining, Overloaded
from server.fair_shares import Holdings, has_share_left

WRITES: Final = 128
"""Writes of control routes at once: each may be an upload, with a file on disk."""


class Admission:
    """Counts the inference requests in flight, ``limit`` at once, and the writes of control routes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0
        self._writes = 0
        self._of_model: Holdings[str | None] = Holdings()
        self._of_project: Holdings[str] = Holdings()
        self._writes_of: Holdings[str] = Holdings()
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_leaving = False
        """True once no load balancer should send requests here any more; they are still answered until the drain."""
        self.is_draining = False

    @property
    def in_flight(self) -> int:
        """Inference requests that are being answered or wait, and writes of control routes."""
        return self._in_flight + self._writes

    @contextmanager
    def writing(self, sender: str) -> Iterator[None]:
        """Count a write of a control route by ``sender`` for the block: an upload, say, is not cut by a shutdown.

        Raises:
            Draining: the process is stopping.
            Overloaded: the sender has its share of the writes at once already.
        """
        self._check_draining()
        if not has_share_left(self._writes_of[sender], WRITES - self._writes):
            raise Overloaded(
                f"{self._writes} uploads and other writes are under way already; try again", retry_after_s=5
            )
        self._writes += 1
        self._writes_of.add(sender, 1)
        self._idle.clear()
        try:
            yield
        finally:
            self._writes -= 1
            self._writes_of.add(sender, -1)
            self._check_idle()

    def _check_draining(self) -> None:
        if self.is_draining:
            raise Draining("the server is shutting down; send the request to another replica", retry_after_s=5)

    @contextmanager
    def admitted(self, project: str | None = None, *, is_deferred: bool = False) -> Iterator[None]:
        """Count one request in flight for the length of the block.

        Args:
            project: the caller's project; None: the server has no keys, so that there is one project alone.
            is_deferred: a line of a batch takes no place of other requests and is not waited for when the process
                drains, because it is sent again.

        Raises:
            Draining: the process is stopping.
            Overloaded: the limit is reached, or the project has its share of the requests in flight already.
        """
        self._check_draining()
        if is_deferred:
            yield
            return
        if self._in_flight >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are in flight already; try again, or raise --max-in-flight",
                retry_after_s=1,
            )
        self._check_project(project, 1)
        self._widened(project, 1)
        self._idle.clear()
        try:
            yield
        finally:
            self._widened(project, -1)

    def widen(self, generations: int, project: str | None = None) -> Callable[[], None]:
        """Count an admitted request as many times as it has ``generations``; return the function that ends the count.

        ``project``: as for ``admitted``.

        Raises:
            Overloaded: the limit is reached, or the project has its share of the requests in flight already.
        """
        more = generations - 1
        if self._in_flight + more > self._limit:
            raise Overloaded(
                f"the request has {generations} generations, and {self._in_flight - 1} of {self._limit} are in flight "
                "already; try again, ask for fewer answers, or raise --max-in-flight",
                retry_after_s=1,
            )
        if more:
            self._check_project(project, more)
        self._widened(project, more)
        return partial(self._widened, project, -more)

    def _check_project(self, project: str | None, wanted: int) -> None:
        """Check that ``project`` may have ``wanted`` more in flight."""
        if project is None:
            return
        held = self._of_project[project]
        if not has_share_left(held, self._limit - self._in_flight, wanted=wanted):
            raise Overloaded(
                f"{held} of the {self._limit} requests that may be in flight are of project '{project}' already, and "
                "the rest is kept for other projects; try again, or raise --max-in-flight",
                retry_after_s=1,
            )

    def _widened(self, project: str | None, more: int) -> None:
        self._in_flight += more
        if project is not None:
            self._of_project.add(project, more)
        self._check_idle()

    def _check_idle(self) -> None:
        if not self.in_flight:
            self._idle.set()

    def enter(self, adapter: str | None, generations: int = 1) -> Callable[[], None]:
        """Count an admitted request for ``adapter`` (None: the base model); return the function that ends the count.

        Raises:
            Overloaded: the adapter, or the base model, has its share of the requests in flight already.
        """
        free = self._limit - self._in_flight + generations  # this request is counted in flight already
        held = self._of_model[adapter]
        if not has_share_left(held, free, wanted=generations):
            model = "the base model" if adapter is None else f"'{adapter}'"
            raise Overloaded(
                f"{held} of the {self._limit} requests that may be in flight are for {model} already, and the "
                "rest is kept for other models; try again, or raise --max-in-flight",
                retry_after_s=1,
            )
        self._of_model.add(adapter, generations)
        return partial(self._of_model.add, adapter, -generations)

    async def drain(self, within_s: float) -> bool:
        """Refuse new requests and wait for those in flight; return False if some are left after ``within_s``."""
        self.is_leaving = self.is_draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)
        return self._idle.is_set()
