"""What the engine calls back while it serves a request: resolve ``model`` once, lease its version, meter generations.

The engine reads the body and calls back with ``model``. So no body is parsed twice, and the version found first answers
the whole request, however often an alias moves meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import structlog

from adapters.errors import PatchbayError
from adapters.registry.catalog import Catalog
from server.current_engine import CurrentEngine
from server.engine.protocol import ComputedNaN, Demand, Generation, Resident
from server.gateway.admission import Admission
from server.gateway.meter import Meter
from server.gateway.request_context import RequestContext, current_request
from server.gateway.resolve import resolve

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestHooks:
    """The ``EngineHooks`` of every engine of a server."""

    catalog: Catalog
    admission: Admission
    meter: Meter
    engine: CurrentEngine

    @contextmanager
    def request(self) -> Iterator[RequestContext]:
        """Open the context of one request; at the end of the block its response is counted and its lease released."""
        context = RequestContext()
        token = current_request.set(context)
        try:
            yield context
        finally:
            current_request.reset(token)
            context.close()
            self.meter.answered(context.version, context.status)

    async def resolve(self, model: str) -> Resident:
        context = current_request.get()
        if (resident := context.resident_for(model)) is not None:
            return resident
        try:
            running = self.engine.serving()
            context.model, context.version = model, resolve(model, self.catalog, running.info)
            context.leave = self.admission.enter(context.version.adapter)
            started = perf_counter()
            context.lease = await running.residency.lease(context.version)
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
                turn = await running.scheduler.turn(None if version is None else version.id, demand)
                stack.callback(running.scheduler.end, turn)
                if version is not None:
                    running.residency.check(version)  # quarantined, perhaps, while this generation waited
            except PatchbayError as refusal:
                context.refusal = refusal
                raise
            generation = turn.generation = Generation(on_first_output=partial(running.scheduler.read, turn))
            try:
                with self.meter.generation(version, generation, cold_s=context.cold_s, turn_s=turn.waited_s):
                    yield generation
            except ComputedNaN as nan:
                assert version is not None
                log.error("quarantined: the engine computed NaN", version=version.name)
                context.refusal = self.engine.serving().residency.quarantine(version)
                raise context.refusal from nan
