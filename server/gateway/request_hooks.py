"""The gate: what the engine asks while it serves a request. One decision a request, held by a lease until its end.

The engine reads the body and asks back what ``model`` means; so no body is parsed twice, and the answer holds for the
whole request however often an alias moves meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from time import perf_counter

import structlog

from adapters.errors import PatchbayError
from adapters.registry.catalog import Catalog
from adapters.versions import Version
from server.current_engine import CurrentEngine
from server.engine.protocol import ComputedNaN, Demand, Generation, Resident
from server.errors import AdapterQuarantined
from server.gateway.admission import Admission
from server.gateway.meter import Meter
from server.gateway.request_context import RequestContext, current_exchange
from server.gateway.resolve import resolve

log = structlog.get_logger(__name__)


class RequestHooks:
    """The ``EngineHooks`` of every engine of a server.

    Args:
        catalog: the registry in memory.
        admission: refuses an adapter's request where it has had its share.
        meter: counts generations.
        engine: the engine that runs now.
    """

    def __init__(self, catalog: Catalog, admission: Admission, meter: Meter, engine: CurrentEngine) -> None:
        self._catalog = catalog
        self._admission = admission
        self._meter = meter
        self._engine = engine

    @contextmanager
    def exchange(self) -> Iterator[RequestContext]:
        """Open the exchange of one request; at the end of the block it is counted and its leases go back."""
        exchange = RequestContext()
        token = current_exchange.set(exchange)
        try:
            yield exchange
        finally:
            current_exchange.reset(token)
            exchange.close()
            self._meter.answered(exchange.version, exchange.status)

    async def choose(self, model: str) -> Resident:
        """See ``EngineHooks.choose``."""
        exchange = current_exchange.get()
        if (resident := exchange.chosen(model)) is not None:
            return resident
        try:
            serving = self._engine.serving()
            exchange.model, exchange.version = model, resolve(model, self._catalog, serving.info)
            exchange.leave = self._admission.enter(exchange.version.adapter)
            asked = perf_counter()
            exchange.lease = await serving.residency.lease(exchange.version)
            exchange.cold_s = perf_counter() - asked
        except PatchbayError as refusal:
            exchange.refusal = refusal
            raise
        return exchange.lease.resident

    def chosen(self, model: str) -> Resident | None:
        """See ``EngineHooks.chosen``."""
        return current_exchange.get().chosen(model)

    @asynccontextmanager
    async def generation(self, resident: Resident | None, demand: Demand) -> AsyncIterator[Generation]:
        """See ``EngineHooks.generation``. Takes a lease of its own: a background response outlives its HTTP request."""
        exchange = current_exchange.get()
        version = None if resident is None else exchange.version
        with ExitStack() as held:
            try:
                serving = self._engine.serving()
                if version is not None:
                    held.callback((await serving.residency.lease(version)).release)
                turn = await serving.scheduler.turn(None if version is None else version.id, demand)
                held.callback(serving.scheduler.end, turn)
                if version is not None:
                    serving.residency.check(version)  # it may have been quarantined while the turn was waited for
            except PatchbayError as refusal:
                exchange.refusal = refusal
                raise
            generation = turn.generation = Generation(prompt_is_read=partial(serving.scheduler.read, turn))
            try:
                with self._meter.generation(version, generation, cold_s=exchange.cold_s, turn_s=turn.waited_s):
                    yield generation
            except ComputedNaN as broken:
                assert version is not None
                exchange.refusal = self._quarantine(version)
                raise exchange.refusal from broken

    def _quarantine(self, version: Version) -> AdapterQuarantined:
        """Keep everybody from ``version``; return what its requests are answered with."""
        log.error("quarantined: the engine computed NaN", version=version.name)
        return self._engine.serving().residency.quarantine(version)
