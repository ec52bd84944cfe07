"""The house as a value: every room, opened together and closed together. Two can live in one process.

``open_house`` is the one place where rooms are put together; read it to see what depends on what.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from adapters.blobs import Blobs
from adapters.catalog import Catalog
from adapters.door import Limits, inspect
from adapters.errors import NameTaken
from adapters.faults import Faults
from adapters.publisher import Published, Publisher
from adapters.registry import UNSET, Registry, Unset
from adapters.remote_blobs import RemoteBlobs
from adapters.report import Report
from adapters.sources.source import Source
from adapters.staging import Staging
from adapters.versions import Alias, Version
from server.background import background
from server.engine.engine import Engine, EngineBuilder, Offer
from server.errors import EngineNotReady, InvalidRequest, Unavailable
from server.examples import register_examples
from server.gateway.admission import Admission
from server.gateway.gate import RequestGate
from server.gateway.meter import Meter
from server.gateway.resolve import check_base
from server.keys.key_ring import KeyRing
from server.metrics import Metrics
from server.residency.journal import INTERVAL_S, ResidentsJournal
from server.residency.residency import Residency, State
from server.residency.trial import TrialLoad
from server.settings import Settings, check_exposure
from server.supervisor import Serving, Supervisor

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """The rooms of one running server, and the few acts that need several of them at once."""

    settings: Settings
    registry: Registry
    blobs: Blobs
    publisher: Publisher
    keys: KeyRing
    metrics: Metrics
    admission: Admission
    gate: RequestGate
    supervisor: Supervisor
    started_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def offer(self) -> Offer:
        """What the engine offers; known from its first start on.

        Raises:
            EngineNotReady: the first start has not come so far.
        """
        return _offer(self.supervisor)

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names of the base model; none before the first start."""
        return () if self.supervisor.offer is None else self.supervisor.offer.served_names

    def residency_of(self, version: Version) -> str | None:
        """Return where ``version`` stands with the engine; None: not resident."""
        if not self.supervisor.is_ready:
            return None
        return self.supervisor.serving().residency.state(version)

    def check_free(self, name: str) -> str:
        """Return ``name`` unless it is the base model's.

        Raises:
            NameTaken: it is.
        """
        if name in self.served_names:
            raise NameTaken(f"'{name}' is the name of the base model; choose another", param="name")
        return name

    def check_room_for_pin(self, version: Version) -> None:
        """Refuse a pin that would leave no resident to evict.

        Raises:
            InvalidRequest: unpin another one first.
        """
        others = [pinned for pinned in self.registry.catalog.pinned() if pinned.id != version.id]
        if len(others) >= self.settings.max_residents - 1:
            names = ", ".join(pinned.name for pinned in others[:5])
            raise InvalidRequest(
                f"{len(others)} of {self.settings.max_residents} residents are pinned already ({names}, …) and one "
                "must stay free; unpin one, or start the server with a larger --max-residents",
                param="version",
            )

    async def publish(self, name: str, source: Source, *, alias: str | None) -> Published:
        """Publish a version from ``source``, and warm it up where an alias already sends traffic to it.

        Raises:
            EngineNotReady: no engine runs that could try it.
            PatchbayError: the source, the door or the engine refused it.
        """
        self.supervisor.running()
        published = await self.publisher.publish(name, source, alias=alias)
        if published.alias is not None:
            with suppress(Unavailable):  # it is published; its first request may still load it
                await self.make_resident(published.version)
        log.info(
            "published",
            version=published.version.name,
            digest=published.version.digest,
            source=published.version.source,
        )
        return published

    async def move_alias(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        expected: int | Literal[Unset.UNSET] | None = UNSET,
        generation: int | Literal[Unset.UNSET] = UNSET,
    ) -> Alias:
        """Point ``alias`` to ``version`` after making it resident, so that no request pays for the move.

        Raises:
            AliasMoved: a compare-and-set lost.
            PatchbayError: the version cannot be loaded; the alias stays where it is.
        """
        target = self.registry.catalog.version(name, version)
        current = self.registry.catalog.adapter(name).aliases.get(alias)
        if expected is UNSET or expected == (None if current is None else current.version):
            with suppress(Unavailable):  # no engine or no room now: the first request will load it
                await self.make_resident(target)
        return await self.registry.move_alias(name, alias, version, expected=expected, generation=generation)

    async def rollback(self, name: str, alias: str) -> Alias:
        """Point ``alias`` back to where it pointed before its last move, and make that version resident."""
        moved = await self.registry.rollback(name, alias)
        with suppress(Unavailable):
            await self.make_resident(self.registry.catalog.version(name, moved.version))
        return moved

    async def unpin(self, name: str, number: int) -> Version:
        """Let a version be evicted again."""
        version = await self.registry.set_pinned(name, number, False)
        if self.supervisor.is_ready:
            self.supervisor.serving().residency.reconsider()
        return version

    async def make_resident(self, version: Version) -> None:
        """Load ``version`` ahead of its next request, unless it is resident already.

        Raises:
            EngineNotReady: nothing could load it at present.
            WrongBase: it was made for another base model.
            PatchbayError: as ``Residency.load``.
        """
        serving = self.supervisor.serving()
        await serving.residency.load(check_base(version, serving.offer))

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter; its residents go as the last request lets go of them."""
        versions = list(self.registry.catalog.adapter(name).versions.values())
        await self.registry.delete_adapter(name)
        await self.forget(versions)

    async def forget(self, versions: Iterable[Version]) -> None:
        """Unload deleted versions."""
        if self.supervisor.is_ready:
            residency = self.supervisor.serving().residency
            for version in versions:
                await residency.unload(version)


@asynccontextmanager
async def open_house(
    settings: Settings, builder: EngineBuilder, *, examples: Path | None = None
) -> AsyncIterator[House]:
    """Open every room and start the engine; the house answers control calls at once, inference when it is ready.

    Args:
        settings: what the operator decided.
        builder: starts engines.
        examples: adapters to register in an empty registry, a directory each.

    Raises:
        ExposedWithoutKeys: other machines could call and nobody needs a key.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    remote = None if settings.blob_url is None else RemoteBlobs(settings.blob_url)
    blobs = Blobs(settings.data_dir, remote=remote)
    async with Registry.open(settings.database) as registry:
        keys = await KeyRing.open(registry.database)
        check_exposure(settings, has_keys=not keys.is_empty)
        metrics = Metrics(settings.metric_adapters)
        admission = Admission(settings.max_in_flight)
        journal = ResidentsJournal(settings.data_dir / "residents.json")
        gate = RequestGate(
            catalog=registry.catalog, meter=Meter(metrics.adapters), serving=lambda: supervisor.serving()
        )

        def residency_of(engine: Engine) -> Residency:
            metrics.engine.capacity.set(settings.max_residents)
            return Residency(
                engine,
                locate=blobs.verify,
                capacity=settings.max_residents,
                wait_s=settings.load_wait_s,
                is_pinned=registry.catalog.is_pinned,
                metrics=metrics.engine,
            )

        async def settle(serving: Serving, before: Residency | None) -> None:
            if examples is not None and await registry.is_untouched():
                await register_examples(publisher, examples)
            catalog = registry.catalog
            recent = journal.recent(catalog) if before is None else _most_recent_first(before, catalog)
            wanted = dict.fromkeys([*catalog.pinned(), *recent])
            fitting = [version for version in wanted if version.base_fingerprint == serving.offer.base.fingerprint]
            failed = await serving.residency.warm(fitting)
            for version in failed:
                log.warning("could not be made resident again", version=version.name)

        supervisor = Supervisor(
            builder,
            gate,
            residency_of=residency_of,
            settle=settle,
            max_deaths=settings.max_engine_deaths,
            window_s=settings.engine_death_window_s,
            metrics=metrics.engine,
        )
        publisher = Publisher(
            registry,
            blobs,
            Staging(settings.data_dir, max_bytes=settings.max_upload_bytes),
            door=partial(_inspect, supervisor),
            faults=Faults(settings.fault_at),
            probe=TrialLoad(lambda: supervisor.running().residency),
        )
        house = House(settings, registry, blobs, publisher, keys, metrics, admission, gate, supervisor)
        async with background(
            supervisor=supervisor.run,
            registry=partial(registry.follow, settings.follow_interval_s),
            keys=partial(keys.follow, settings.follow_interval_s),
            journal=partial(_keep_journal, journal, supervisor),
            sweeper=partial(_sweep, blobs, registry, settings),
        ):
            yield house


def _offer(supervisor: Supervisor) -> Offer:
    if supervisor.offer is None:
        raise EngineNotReady("the engine is starting for the first time; try again shortly", retry_after_s=5)
    return supervisor.offer


def _inspect(supervisor: Supervisor, directory: Path) -> Report:
    offer = _offer(supervisor)
    return inspect(directory, offer.base, Limits(max_rank=offer.max_rank))


def _most_recent_first(residency: Residency, catalog: Catalog) -> list[Version]:
    return [view.version for view in reversed(residency.views()) if catalog.is_living(view.version)]


async def _keep_journal(journal: ResidentsJournal, supervisor: Supervisor) -> None:
    while True:
        await asyncio.sleep(INTERVAL_S)
        if supervisor.is_ready:
            views = supervisor.serving().residency.views()
            await journal.record([view.version for view in views if view.state is not State.LOADING])


async def _sweep(blobs: Blobs, registry: Registry, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.sweep_interval_s)
        removed = await blobs.sweep(await registry.digests(), settings.sweep_grace_s)
        if removed:
            log.info("swept orphaned blobs", digests=removed)
