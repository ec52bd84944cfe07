"""The engine that runs now, as one value that every part can hold from the beginning.

The supervisor replaces its content when an engine starts or dies; all others read it. So the parts of a server are
built once, before any engine exists, and need no callbacks to find the engine of the moment.

STARTING, REBUILDING → READY               started
STARTING, READY, REBUILDING → REBUILDING   died: while it served, or while it was starting
STARTING, REBUILDING → FAILED              give_up: the start was refused, or too many deaths within the window
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from adapters.state_machine import StateMachine
from adapters.versions import Version
from server.engine.protocol import Engine, EngineInfo
from server.errors import EngineNotReady
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler
from trainer.job_preflight import TrainingBase

RETRY_AFTER_S = 2


class EngineState(StrEnum):
    """The state of the engine; the values are what ``/ready`` shows."""

    STARTING = "starting"
    READY = "ready"
    REBUILDING = "rebuilding"
    FAILED = "failed"


_NOT_READY = (EngineState.STARTING, EngineState.REBUILDING)
ENGINE_STATES = StateMachine(
    EngineState,
    {
        "started": dict.fromkeys(_NOT_READY, EngineState.READY),
        "died": dict.fromkeys((*_NOT_READY, EngineState.READY), EngineState.REBUILDING),
        "give_up": dict.fromkeys(_NOT_READY, EngineState.FAILED),
    },
)


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """One engine with what belongs to it alone: its residents, its scheduler and the facts about its base model."""

    engine: Engine
    residency: Residency
    scheduler: FairScheduler
    info: EngineInfo


class CurrentEngine:
    """The running engine, its state, and what is known of the base model. Used in one event loop."""

    def __init__(self) -> None:
        self._state = EngineState.STARTING
        self._running: RunningEngine | None = None
        self._info: EngineInfo | None = None
        self._info_known = asyncio.Event()
        self.context: int | None = None
        """Tokens that prompt and answer of a request may have together; None before the first start."""
        self.is_silent = False
        """True while the engine has not answered its heartbeat for long; it may still do so."""
        self._was_ready = asyncio.Event()

    # -- what other parts read ---------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """The state of the engine. A death shows at once, before the supervisor has seen it."""
        if self._state is EngineState.READY and (self._running is None or self._running.engine.is_dead):
            return EngineState.REBUILDING
        return self._state

    @property
    def is_ready(self) -> bool:
        """True while inference requests are answered."""
        return self.state is EngineState.READY

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names of the base model; empty before the first start."""
        return () if self._info is None else self._info.served_names

    @property
    def info(self) -> EngineInfo:
        """The facts about the base model and the engine's limits, known from the first start on.

        Raises:
            EngineNotReady: the first start has not read the base model yet.
        """
        if self._info is None:
            raise self.not_ready()
        return self._info

    async def base_directory(self) -> Path:
        """Wait until the base model has been read; return the directory of its files."""
        await self._info_known.wait()
        return self.info.directory

    async def training_base(self) -> TrainingBase:
        """Wait until the base model has been read, and return it."""
        await self._info_known.wait()
        return TrainingBase(self.info.directory, self.info.renderer, self.info.base.fingerprint)

    async def base_fingerprint(self) -> str:
        """Wait until the base model has been read; return its fingerprint."""
        return (await self.training_base()).fingerprint

    async def first_ready(self) -> None:
        """Wait until an engine has been ready for the first time."""
        await self._was_ready.wait()

    def serving(self) -> RunningEngine:
        """Return the engine that answers inference requests.

        Raises:
            EngineNotReady: there is none at present; the message names the state, the error when to try again.
        """
        if not self.is_ready:
            raise self.not_ready()
        return self.running()

    def running(self) -> RunningEngine:
        """Return the engine that runs, also while it is being warmed up before it answers requests.

        Raises:
            EngineNotReady: no engine runs.
        """
        if self._running is None or self._running.engine.is_dead:
            raise self.not_ready()
        return self._running

    def residency_of(self, version: Version) -> str | None:
        """Return the resident state of ``version``; None if it is not resident."""
        return self.serving().residency.state(version) if self.is_ready else None

    def renders_as(self, sha256: str | None) -> bool | None:
        """Whether the engine makes prompts as the renderer with this digest; None: unknown."""
        engine = None if self._running is None else self._running.engine
        if engine is None or sha256 is None or engine.renderer_sha256 is None:
            return None
        return engine.renderer_sha256 == sha256

    def not_ready(self) -> EngineNotReady:
        """Return the error for requests that need an engine while none answers."""
        return EngineNotReady(f"the engine is {self.state}; try again shortly", retry_after_s=RETRY_AFTER_S)

    # -- what the supervisor writes ----------------------------------------------------------------------------

    def set_info(self, info: EngineInfo) -> None:
        """Set the facts about the base model, read before an engine of it starts."""
        self._info = info
        self._info_known.set()

    def set_silent(self, is_silent: bool) -> None:  # noqa: FBT001 - a value
        self.is_silent = is_silent

    def attach(self, running: RunningEngine) -> None:
        self._running = running
        self.context = running.engine.context

    def detach(self) -> RunningEngine | None:
        running, self._running = self._running, None
        return running

    def move_to(self, state: EngineState) -> EngineState:
        """Move to ``state``, as ``ENGINE_STATES`` allows; return the state before."""
        before = self._state
        self._state = ENGINE_STATES.move(before, state)
        if state is EngineState.READY:
            self._was_ready.set()
        return before
