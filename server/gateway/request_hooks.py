"""What the engine calls back while it serves a request: resolve ``model`` once, lease its version, meter generations.

The engine reads the body and calls back with ``model``. So no body is parsed twice, and the version found first answers
the whole request, however often an alias moves meanwhile.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import structlog

from adapters.errors import AdapterRefused, PatchbayError
from adapters.names import DEFAULT_PROJECT
from adapters.registry.catalog import current_version
from adapters.registry.catalog_follower import CatalogFollower
from adapters.rollout import Rollout, RolloutPlan, Sticky
from adapters.versions import Version
from server.access.caller import ANONYMOUS, Caller
from server.accounts.accounts import Accounts
from server.current_engine import CurrentEngine, RunningEngine
from server.death_suspects import DeathSuspects
from server.engine.protocol import ComputedNaN, Demand, Generation, Resident
from server.errors import RequestRefused
from server.gateway.admission import Admission
from server.gateway.grammar_turns import GrammarTurn, GrammarTurns
from server.gateway.meter import Meter
from server.gateway.request_body import end_user, prepare_body
from server.gateway.request_bounds import RequestBounds, generations
from server.gateway.resolve import resolve
from server.http.errors import status_of
from server.residency.entry import ResidentState
from server.residency.quarantine import QuarantineReason
from server.residency.residency import Lease
from server.rollouts.traffic import RolloutTraffic, Trial
from server.scheduling.adapter_queue import Turn
from server.scheduling.fair_scheduler import FairScheduler

log = structlog.get_logger(__name__)

_REFUSED: Final = 400
"""From this status on, a response says that the request was not answered."""
_FAILED: Final = 424
"""From this status on, the version or the server is at fault, not the request; but for 429."""


@dataclass(slots=True, eq=False)
class RequestContext:
    """The version that answers a request, and the lease that keeps it resident.

    vLLM handles a request in tasks of its own; they inherit the context variable and so share this object.
    """

    caller: Caller = ANONYMOUS
    content: bytes = b""
    """The body as it was sent."""
    model: str | None = None
    """The request's ``model`` as the caller wrote it, once it is resolved to an adapter."""
    version: Version | None = None
    """The version that ``model`` resolved to; also set where that version could not be made resident."""
    trial: Trial | None = None
    """The request's part in the rollout of the alias that ``model`` names; None: there is no rollout."""
    path: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """The request's headers as ASGI has them: names in lower case."""
    end_user: str | None = None
    """The caller's user whom the body names."""
    started: float = field(default_factory=perf_counter)
    lease: Lease | None = None
    unleased: Resident | None = None
    """Stands for ``version`` where nothing is computed with its weights: it is not loaded."""
    leave: Callable[[], None] | None = None
    """Takes the request out of the count of its adapter, or of the base model."""
    generations: int = 1
    """Answers that the engine writes for the request."""
    narrow: Callable[[], None] | None = None
    """Ends the count of the request's generations beyond the first."""
    begun: int = 0
    """Generations that have begun."""
    finished: int = 0
    """Those of them that the engine has computed to their end."""
    cold_s: float = 0.0
    """Seconds that the request waited for its adapter to become resident."""
    refusal: PatchbayError | None = None
    """The error that the gateway answers with, whatever response the engine makes of it."""
    status: int | None = None
    """Status code of the response, once it has started."""
    is_deferred: bool = False
    """True for a line of a batch: its generations wait while those of other requests wait."""
    computes: bool = True
    """False for a request such as /tokenize, for which no adapter has to be loaded."""

    def resident_for(self, model: str) -> Resident | None:
        """Return the resident that ``model`` resolved to in this request; None before it was resolved."""
        if self.model != model:
            return None
        return self.unleased if self.lease is None else self.lease.resident

    @property
    def fingerprint(self) -> str:
        """Names the request: the same for a repetition of it by the same project."""
        return f"request {hashlib.sha256(self.caller.project.encode() + bytes(1) + self.content).hexdigest()}"

    @property
    def is_done(self) -> bool:
        """Whether the engine has computed all of it; not if one generation of several was given up, or failed."""
        return 0 < self.begun == self.finished

    def sticky_value(self, plan: RolloutPlan) -> str | None:
        """Return the value that decides on the request's side in a rollout; None: it is drawn."""
        match plan.sticky:
            case Sticky.KEY:
                return self.caller.key_id
            case Sticky.USER:
                return self.end_user
            case Sticky.HEADER if plan.header is not None:
                wanted = plan.header.encode("latin-1")
                return next((value.decode("latin-1") for name, value in self.headers if name == wanted), None)
        return None

    @property
    def adapter(self) -> str | None:
        """The adapter that answers; None: the base model."""
        return None if self.version is None else self.version.adapter

    def close(self) -> None:
        """Release the lease and the places among the requests in flight."""
        if self.narrow is not None:
            self.narrow()
        if self.leave is not None:
            self.leave()
        if self.lease is not None:
            self.lease.release()


current_request: ContextVar[RequestContext] = ContextVar("current_request")


@dataclass(frozen=True, slots=True)
class RequestHooks:
    """The ``EngineHooks`` of every engine of a server."""

    registry: CatalogFollower
    admission: Admission
    meter: Meter
    engine: CurrentEngine
    accounts: Accounts
    bounds: RequestBounds = field(default_factory=RequestBounds)
    suspects: DeathSuspects = field(default_factory=DeathSuspects)
    """Requests that were being computed when engines died."""
    grammars: GrammarTurns = field(default_factory=GrammarTurns)
    rollouts: RolloutTraffic = field(default_factory=RolloutTraffic)

    @contextmanager
    def request(self, caller: Caller = ANONYMOUS, **facts: Any) -> Iterator[RequestContext]:
        """Open the context of one request; at the end of the block its response is counted and its lease released.

        ``facts``: fields of ``RequestContext``.
        """
        context = RequestContext(caller, **facts)
        token = current_request.set(context)
        try:
            yield context
        finally:
            current_request.reset(token)
            context.close()
            if self.suspects and context.is_done:
                self.suspects.acquit(context.fingerprint)
            self.meter.answered(context.version, context.status)
            if context.trial is not None:
                self._end_trial(context, context.trial)
            if context.status is None or context.status < _REFUSED:
                self.accounts.usage.counts(caller, context.adapter).requests += 1

    def _end_trial(self, context: RequestContext, trial: Trial) -> None:
        """Count a request that a rollout's side answered; not one that its caller gave up, or made wrong."""
        refusal = None if context.refusal is None else status_of(context.refusal)
        is_refused = isinstance(context.refusal, AdapterRefused) or any(
            status is not None and status >= _FAILED and status != HTTPStatus.TOO_MANY_REQUESTS
            for status in (context.status, refusal)
        )
        trial.has_failed = trial.has_failed or is_refused
        if not trial.has_failed and not context.is_done:
            return
        took_s = perf_counter() - context.started
        self.rollouts.ended(
            trial, path=context.path, content=context.content, took_s=took_s, is_deferred=context.is_deferred
        )
        self.meter.tried(trial.rollout.adapter, trial.side, took_s, has_failed=trial.has_failed)

    def _choose(self, context: RequestContext, running: RunningEngine, rollout: Rollout) -> int:
        """Return the number of the version that answers a request behind an alias with a rollout."""
        if rollout.id not in self.rollouts.ready:
            candidate = self.registry.catalog.version(rollout.adapter, rollout.candidate)
            if running.residency.state(candidate) is ResidentState.RESIDENT:  # after a restart, say
                self.rollouts.ready.add(rollout.id)
        context.trial = self.rollouts.begin(rollout, context.sticky_value(rollout.plan), context.path)
        return context.trial.version

    def prepare_body(self, path: str, body: dict[str, Any]) -> None:
        context = current_request.get()
        try:
            running = self.engine.serving()
            if self.suspects and self.suspects.is_guilty(context.fingerprint):
                raise RequestRefused(
                    "the engine died twice while it computed this request, so it is not tried again for some minutes: "
                    "send another one, and report this to the operator"
                )
            base, engine = running.info.served_names[0], running.engine
            takes_tools, bounds = engine.takes_tools, self.bounds
            prepare_body(path, body, base=base, context=engine.context, takes_tools=takes_tools, bounds=bounds)
            context.generations = generations(body)
            context.end_user = end_user(body)
            if context.is_deferred:
                return
            if context.generations > 1:
                context.narrow = self.admission.widen(context.generations, context.caller.counted_project)
            if context.computes and body.get("model") in running.info.served_names:
                context.leave = self.admission.enter(None, context.generations)
        except PatchbayError as refusal:
            context.refusal = refusal
            raise

    async def resolve(self, model: str) -> Resident:
        context = current_request.get()
        if (resident := context.resident_for(model)) is not None:
            return resident
        try:
            running = self.engine.serving()
            choose = partial(self._choose, context, running) if context.computes else current_version
            version = await self.registry.look_up(
                lambda catalog: resolve(model, catalog, running.info, context.caller, choose)
            )
            context.model, context.version = model, version
            if not context.computes:
                context.unleased = Resident(version.id, version.name, Path())
                return context.unleased
            if not context.is_deferred:
                context.leave = self.admission.enter(version.adapter, context.generations)
            started = perf_counter()
            context.lease = await running.residency.lease(version)
            context.cold_s = perf_counter() - started
        except PatchbayError as refusal:
            context.refusal = refusal
            raise
        return context.lease.resident

    def resolved(self, model: str) -> Resident | None:
        return current_request.get().resident_for(model)

    @asynccontextmanager
    async def generation(self, resident: Resident | None, demand: Demand) -> AsyncIterator[Generation]:
        """Takes its own lease: a background response outlives its HTTP request."""
        context = current_request.get()
        version = None if resident is None else context.version
        with ExitStack() as stack:
            try:
                running = self.engine.serving()
                if version is not None:
                    stack.callback((await running.residency.lease(version)).release)
                key = None if version is None else version.id
                project = context.caller.project
                turn = await running.scheduler.turn(key, demand, project=project, is_deferred=context.is_deferred)
                stack.callback(running.scheduler.end, turn)
                grammar = await self.grammars.turn(project, demand.grammar, running.engine)
                stack.callback(grammar.end)
                if running.engine.is_dead:
                    raise self.engine.not_ready()
                if version is not None:
                    running.residency.check(version)  # quarantined, perhaps, while this generation waited
            except PatchbayError as refusal:
                context.refusal = refusal
                raise
            context.begun += 1
            generation = turn.generation = Generation(
                on_first_output=partial(_read, running.scheduler, turn, grammar),
                cache_scope=None if context.caller.project == DEFAULT_PROJECT else context.caller.project,
            )
            try:
                with self.meter.generation(version, generation, cold_s=context.cold_s, turn_s=turn.waited_s):
                    yield generation
                context.finished += 1
            except ComputedNaN as nan:
                assert version is not None
                context.refusal = running.residency.quarantine(version, QuarantineReason.NAN)
                raise context.refusal from nan
            except Exception:  # vLLM has no one class for the end of its engine: ``is_dead`` tells it apart
                if context.trial is not None:
                    context.trial.has_failed = True
                if running.engine.is_dead:
                    self.suspects.note(context.fingerprint, running.engine)
                    context.refusal = self.engine.not_ready()
                raise
            finally:
                if context.trial is not None:
                    context.trial.add(generation, waited_s=context.cold_s + turn.waited_s)
                await self.accounts.charge(context.caller, None if version is None else version.adapter, generation)


def _read(scheduler: FairScheduler, turn: Turn, grammar: GrammarTurn) -> None:
    """Note that the engine has read a prompt, and compiled the grammar of its output."""
    grammar.compiled()
    scheduler.read(turn)
