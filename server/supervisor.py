"""Keeps an engine running: starts it, watches it, rebuilds it with backoff, and gives up after too many deaths.

Other parts read the engine from ``server.current_engine``; an engine, its residency and its scheduler come and
go together. ``server.current_engine`` draws the states.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import partial

import structlog

from adapters.versions import Version
from server.current_engine import CurrentEngine, EngineState, RunningEngine
from server.engine.protocol import Engine, EngineBuilder, EngineGone, EngineHooks, StartFailed, StartRefused
from server.metrics import AdaptersInFlight, EngineMetrics
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler

log = structlog.get_logger(__name__)

WATCH_S = 0.05
"""How often the supervisor looks whether the engine is dead; a rebuild starts within this time after a death."""
HEARTBEAT_S = 5.0
"""Pause between two calls that the engine has to answer."""
STALL_S = 300.0
SILENT_SHARE = 0.25
"""Share of ``stall_s`` without an answer after which the server is no longer ready."""
"""One step of a large prompt takes a minute on a slow CPU, and no call is answered within a step."""
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)

EXIT_REFUSED = 2
"""Exit status after a start that can never succeed, the same as for a wrong command line."""
EXIT_ENGINE = 70
"""Exit status after too many deaths (EX_SOFTWARE of sysexits.h); not 0, so that a service manager starts us again."""


AfterStart = Callable[[RunningEngine, Sequence[Version] | None], Awaitable[None]]
"""Warms up a new engine before traffic; takes the residents of the engine before it, most recently used first."""


@dataclass(eq=False)
class Supervisor:
    """Runs engines of ``builder`` one after the other until it is cancelled or gives up.

    Args:
        current: where the running engine is kept for all other parts.
        max_deaths, window_s: this many deaths within this many seconds end in ``FAILED``.
        metrics: ready, rebuilds, start time.
        stall_s: an engine that answers no call for this many seconds is killed.
        backoff_s: waits before the first, second, third… start in a row that failed; the last value repeats.
    """

    builder: EngineBuilder
    hooks: EngineHooks
    current: CurrentEngine
    _: KW_ONLY
    make_residency: Callable[[Engine], Residency]
    make_scheduler: Callable[[Engine], FairScheduler]
    after_start: AfterStart
    max_deaths: int
    window_s: float
    metrics: EngineMetrics
    stall_s: float = STALL_S
    backoff_s: Sequence[float] = BACKOFF_S
    failed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    exit_code: int | None = field(default=None, init=False)
    """Exit code for the process; set together with ``failed``."""
    _deaths: deque[float] = field(default_factory=deque, init=False)
    _last_residents: Sequence[Version] | None = field(default=None, init=False)

    async def run(self) -> None:
        """Supervise until cancelled or ``FAILED``."""
        attempt = 0
        while not self.failed.is_set():
            await asyncio.sleep(self.backoff_s[min(attempt, len(self.backoff_s) - 1)])
            served_s = await self._run_engine()
            attempt = 0 if served_s > self.window_s else attempt + 1

    async def _run_engine(self) -> float:
        """Start an engine and watch it until it dies; return for how long it served, in seconds."""
        started = ready = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                engine = await self._start(stack)
                ready = time.monotonic()
                self._became_ready(ready - started)
                while not engine.is_dead:  # noqa: ASYNC110  vLLM sets no event of ours when it dies
                    await asyncio.sleep(WATCH_S)
                self.metrics.ready.set(0)
        except StartRefused as refused:
            log.error("engine cannot start", reason=str(refused))
            self._fail(EXIT_REFUSED)
            return 0.0
        except StartFailed as failed:
            log.error("engine failed to start", reason=str(failed))
        except Exception:  # supervised: whatever an engine dies of, the next one is tried
            log.exception("engine failed", while_it_was=self.current.state)
        finally:
            if (running := self.current.detach()) is not None:
                self._last_residents = running.residency.versions()
            self.metrics.ready.set(0)
        self._died()
        return time.monotonic() - ready

    async def _heartbeat(self, engine: Engine) -> None:
        """Call the engine again and again; kill it if it does not answer in time: a process may hang and not die.

        It counts as silent before: load balancers should send requests elsewhere meanwhile.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            silence = loop.call_later(SILENT_SHARE * self.stall_s, self.current.set_silent, True)
            try:
                async with asyncio.timeout(self.stall_s):
                    await engine.ping()
            except EngineGone:
                return
            except TimeoutError:
                log.error("engine hangs and is killed", silent_s=self.stall_s)
                engine.kill()
                return
            except Exception:  # whatever vLLM raises there, it is an answer; the heartbeat must go on
                log.exception("the engine answered its heartbeat with an error")
            finally:
                silence.cancel()
                self.current.set_silent(False)

    async def _start(self, stack: AsyncExitStack) -> Engine:
        info = await self.builder.info()
        self.current.set_info(info)
        engine = await stack.enter_async_context(self.builder.start(self.hooks))
        residency = self.make_residency(engine)
        stack.push_async_callback(residency.close)
        scheduler = self.make_scheduler(engine)
        stack.callback(lambda: scheduler.close(self.current.not_ready()))
        running = RunningEngine(engine, residency, scheduler, info)
        self.current.attach(running)
        self.metrics.slots.set(engine.slots)
        self.metrics.slot_bytes.set(engine.slot_bytes)
        self.metrics.active.set_function(lambda: scheduler.active)
        self.metrics.waiting.set_function(lambda: scheduler.waiting)
        self.metrics.adapters.read = partial(_adapters_in_flight, running)
        heartbeat = asyncio.create_task(self._heartbeat(engine), name="heartbeat")
        stack.callback(heartbeat.cancel)
        await self.after_start(running, self._last_residents)
        return engine

    def _became_ready(self, took_s: float) -> None:
        before = self.current.move_to(EngineState.READY)
        if before is EngineState.REBUILDING:
            self.metrics.rebuilds.inc()
            log.info("engine ready again", took_s=round(took_s, 1))
        self.metrics.ready.set(1)
        self.metrics.start_seconds.set(took_s)

    def _died(self) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - self.window_s:
            self._deaths.popleft()
        log.error("engine died", deaths=len(self._deaths), window_s=self.window_s)
        self.current.move_to(EngineState.REBUILDING)
        if len(self._deaths) >= self.max_deaths:
            self._fail(EXIT_ENGINE)

    def _fail(self, exit_code: int) -> None:
        self.current.move_to(EngineState.FAILED)
        self.exit_code = exit_code
        self.failed.set()


def _adapters_in_flight(running: RunningEngine) -> AdaptersInFlight:
    names = {entry.version.id: entry.version.adapter for entry in running.residency.entries()}

    def of(keys: Sequence[int]) -> list[str]:
        return sorted({names[key] for key in keys if key in names})

    scheduler = running.scheduler
    return AdaptersInFlight(running.engine.slots, of(scheduler.running_keys), of(scheduler.waiting_keys))
