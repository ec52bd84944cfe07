"""Keeps an engine running: starts it, watches it, rebuilds it with backoff, gives up when that does not help.

                 started             died
    STARTING ───────────────▶ READY ───────▶ REBUILDING ──┐
        │                       ▲               │  ▲       │ died again while starting
        │ refused               └───────────────┘  └───────┘
        ▼                          started      │
      FAILED ◀──────────────────────────────────┘ too many deaths within the window

The rest of the server asks ``serving`` for what runs now; an engine and its residency come and go together, as one
value.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum

import structlog

from adapters.versions import Version
from server.engine.protocol import Engine, EngineBuilder, EngineHooks, EngineInfo, StartRefused
from server.errors import EngineNotReady
from server.metrics import EngineMetrics
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler

log = structlog.get_logger(__name__)

WATCH_S = 0.05
"""How often the engine's pulse is felt; /ready follows a death within this time."""
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)

EXIT_REFUSED = 2
"""Exit status after a start that can never succeed, as for any wrong command line."""
EXIT_ENGINE = 70
"""Exit status after too many deaths (EX_SOFTWARE of sysexits.h): never 0, so that a service manager restarts us."""


class EngineState(StrEnum):
    """Where the engine stands; the values are what /ready shows."""

    STARTING = "starting"
    READY = "ready"
    REBUILDING = "rebuilding"
    FAILED = "failed"


EDGES: Mapping[EngineState, frozenset[EngineState]] = {
    EngineState.STARTING: frozenset({EngineState.READY, EngineState.REBUILDING, EngineState.FAILED}),
    EngineState.READY: frozenset({EngineState.REBUILDING, EngineState.FAILED}),
    EngineState.REBUILDING: frozenset({EngineState.READY, EngineState.REBUILDING, EngineState.FAILED}),
    EngineState.FAILED: frozenset(),
}
"""What may follow."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves now: one engine, its residents, whose turn it is with it, and what it offers."""

    engine: Engine
    residency: Residency
    scheduler: FairScheduler
    info: EngineInfo


Settle = Callable[[Serving, Sequence[Version] | None], Awaitable[None]]
"""Readies a new engine before traffic, given what was resident in the engine before it, most recently used first."""


class Supervisor:
    """Runs engines of ``builder`` one after the other until told to stop.

    Args:
        builder: starts engines.
        gate: what each engine asks about a request's ``model``.
        residency_of: makes the residency of a new engine.
        scheduler_of: makes the turnstile of a new engine.
        settle: readies a new engine before traffic.
        max_deaths, window_s: so many deaths within so many seconds end it with ``FAILED``.
        metrics: ready, rebuilds, start time.
        backoff_s: waits before the first, second, third… start in a row that came to nothing; the last one stays.
    """

    def __init__(
        self,
        builder: EngineBuilder,
        hooks: EngineHooks,
        *,
        residency_of: Callable[[Engine], Residency],
        scheduler_of: Callable[[Engine], FairScheduler],
        settle: Settle,
        max_deaths: int,
        window_s: float,
        metrics: EngineMetrics,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._builder = builder
        self._hooks = hooks
        self._residency_of = residency_of
        self._turnstile_of = scheduler_of
        self._settle = settle
        self._max_deaths = max_deaths
        self._window_s = window_s
        self._metrics = metrics
        self._backoff_s = backoff_s
        self._deaths: deque[float] = deque()
        self._serving: Serving | None = None
        self._before: Sequence[Version] | None = None
        self.info: EngineInfo | None = None
        self._info_known = asyncio.Event()
        self._state = EngineState.STARTING
        self.failed = asyncio.Event()
        self.exit_code: int | None = None
        """Set with ``FAILED``: how the process should end."""

    @property
    def state(self) -> EngineState:
        """Where the engine stands; a death shows at once, before anything was done about it."""
        if self._state is EngineState.READY and (self._serving is None or self._serving.engine.is_dead):
            return EngineState.REBUILDING
        return self._state

    @property
    def is_ready(self) -> bool:
        """True while traffic is answered."""
        return self.state is EngineState.READY

    def known_info(self) -> EngineInfo:
        """Return what the engine offers; known from its first start on.

        Raises:
            EngineNotReady: the first start has not come so far.
        """
        if self.info is None:
            raise self._not_ready()
        return self.info

    async def wait_for_info(self) -> EngineInfo:
        """Return what the engine offers as soon as it is known."""
        await self._info_known.wait()
        return self.known_info()

    def serving(self) -> Serving:
        """Return what answers traffic now.

        Raises:
            EngineNotReady: nothing does at present; says why and when to try again.
        """
        if not self.is_ready:
            raise self._not_ready()
        return self.running()

    def running(self) -> Serving:
        """Return what runs now, also while it is being readied for traffic.

        Raises:
            EngineNotReady: nothing does.
        """
        if self._serving is None or self._serving.engine.is_dead:
            raise self._not_ready()
        return self._serving

    def _not_ready(self) -> EngineNotReady:
        return EngineNotReady(f"the engine is {self.state}; try again shortly", retry_after_s=2)

    async def run(self) -> None:
        """Supervise until cancelled or ``FAILED``."""
        attempt = 0
        while not self.failed.is_set():
            await asyncio.sleep(self._backoff_s[min(attempt, len(self._backoff_s) - 1)])
            served_s = await self._one_life()
            attempt = 0 if served_s > self._window_s else attempt + 1

    async def _one_life(self) -> float:
        """Start an engine and watch it until it dies; return for how long it served, in seconds."""
        started = ready = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                serving = await self._start(stack)
                ready = time.monotonic()
                self._became_ready(ready - started)
                while not serving.engine.is_dead:  # noqa: ASYNC110  vLLM announces its death to no event of ours
                    await asyncio.sleep(WATCH_S)
                self._metrics.ready.set(0)
        except StartRefused as refused:
            log.error("engine cannot start", reason=str(refused))
            self._fail(EXIT_REFUSED)
            return 0.0
        except Exception:  # supervised: whatever an engine dies of, the next one is tried
            log.exception("engine failed", while_it_was=self._state)
        finally:
            if self._serving is not None:
                self._before = self._serving.residency.versions()
            self._serving = None
            self._metrics.ready.set(0)
        self._died()
        return time.monotonic() - ready

    async def _start(self, stack: AsyncExitStack) -> Serving:
        self.info = await self._builder.info()
        self._info_known.set()
        engine = await stack.enter_async_context(self._builder.start(self._hooks))
        residency = self._residency_of(engine)
        stack.push_async_callback(residency.close)
        scheduler = self._turnstile_of(engine)
        stack.callback(lambda: scheduler.close(self._not_ready()))
        serving = self._serving = Serving(engine, residency, scheduler, self.info)
        self._metrics.slots.set(engine.slots)
        self._metrics.slot_bytes.set(engine.slot_bytes)
        self._metrics.active.set_function(lambda: scheduler.active)
        self._metrics.waiting.set_function(lambda: scheduler.waiting)
        await self._settle(serving, self._before)
        return serving

    def _became_ready(self, took_s: float) -> None:
        if self._state is EngineState.REBUILDING:
            self._metrics.rebuilds.inc()
        log.info("engine ready", took_s=round(took_s, 2), after=self._state)
        self._become(EngineState.READY)
        self._metrics.ready.set(1)
        self._metrics.start_seconds.set(took_s)

    def _died(self) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - self._window_s:
            self._deaths.popleft()
        log.error("engine died", deaths=len(self._deaths), window_s=self._window_s)
        self._become(EngineState.REBUILDING)
        if len(self._deaths) >= self._max_deaths:
            self._fail(EXIT_ENGINE)

    def _fail(self, exit_code: int) -> None:
        self._become(EngineState.FAILED)
        self.exit_code = exit_code
        self.failed.set()

    def _become(self, state: EngineState) -> None:
        assert state in EDGES[self._state], f"engine: {self._state} → {state}"
        self._state = state
