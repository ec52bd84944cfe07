"""The server as a value: its parts, and the few acts that need several of them at once. Two can live in one process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from adapters.errors import NameTaken, PatchbayError
from adapters.lora.merge.merge import MergeBounds, merge
from adapters.lora.merge.recipe import MergeRecipe
from adapters.publisher import Published, Publisher
from adapters.registry.registry import UNSET, Registry, Unset
from adapters.sources.directory import DirectorySource
from adapters.sources.source import Source
from adapters.storage.blobs import Blobs
from adapters.storage.staging import Staging
from adapters.versions import Alias, Version
from server.access.key_ring import KeyRing
from server.errors import InvalidRequest, Unavailable
from server.gateway.admission import Admission
from server.gateway.request_hooks import RequestHooks
from server.gateway.resolve import check_base
from server.metrics import Metrics
from server.settings import Settings
from server.supervisor import Supervisor
from trainer.job_preflight import JobPreflight
from trainer.records import Records

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts of one running server."""

    settings: Settings
    registry: Registry
    blobs: Blobs
    publisher: Publisher
    keys: KeyRing
    metrics: Metrics
    admission: Admission
    hooks: RequestHooks
    supervisor: Supervisor
    records: Records
    job_preflight: JobPreflight
    started_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names of the base model; none before the first start."""
        return () if self.supervisor.info is None else self.supervisor.info.served_names

    def residency_of(self, version: Version) -> str | None:
        """Return where ``version`` stands with the engine, or ``quarantined``; None: not resident."""
        if not self.supervisor.is_ready:
            return None
        residency = self.supervisor.serving().residency
        return "quarantined" if residency.is_quarantined(version) else residency.state(version)

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
        size, limit = sum(each.size_bytes for each in [*others, version]), self.settings.resident_bytes
        if size > limit:
            raise InvalidRequest(
                f"pinned residents would take {size} of {limit} bytes; unpin one, or start the server with a larger "
                "--max-resident-bytes",
                param="version",
            )

    async def publish(
        self,
        name: str,
        source: Source,
        *,
        alias: str | None,
        extra: Mapping[str, Any] | None = None,
        allow_inert: bool = False,
        compress_to: int | None = None,
        force_base: bool = False,
    ) -> Published:
        """Publish a version from ``source``, and warm it up where an alias already sends traffic to it.

        ``extra``, ``allow_inert``, ``compress_to``, ``force_base``: see ``Publisher.publish``.

        Raises:
            EngineNotReady: no engine runs that could try it.
            PatchbayError: the source, the door or the engine refused it.
        """
        self.supervisor.running()
        published = await self.publisher.publish(
            name,
            source,
            alias=alias,
            extra=extra,
            allow_inert=allow_inert,
            compress_to=compress_to,
            force_base=force_base,
        )
        version = published.version
        log.info("published", version=version.name, digest=version.digest, source=version.source)
        if published.alias is not None:
            await self._warm_up(version)
        return published

    async def merge(self, name: str, recipe: MergeRecipe, *, alias: str | None) -> Published:
        """Publish what ``recipe`` comes to, as any upload is published.

        Raises:
            EngineNotReady: no engine runs that could try it.
            WrongBase: an ingredient was made for another base model than the one served.
            PatchbayError: it cannot be merged, or the door or the engine refused it.
        """
        info = self.supervisor.running().info
        versions = [check_base(each.version, info) for each in recipe.ingredients]
        directories = [await self.blobs.verify(version.digest) for version in versions]
        settings = self.settings
        async with Staging(settings.data_dir, max_bytes=settings.max_upload_bytes).open() as scratch:
            bounds = MergeBounds(info.base, info.max_rank, settings.resource_limits)
            merged = await merge(recipe, directories, scratch.path, bounds)
            source = DirectorySource(scratch.path, allowed=[scratch.path], origin=str(recipe))
            return await self.publish(name, source, alias=alias, extra={"merge": merged}, force_base=True)

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
        """Point ``alias`` back to where it pointed before its last move."""
        moved = await self.registry.rollback(name, alias)
        await self._warm_up(self.registry.catalog.version(name, moved.version))
        return moved

    async def _warm_up(self, version: Version) -> None:
        """Make ``version`` resident if it can be: what was committed before stands either way."""
        try:
            await self.make_resident(version)
        except PatchbayError as trouble:
            log.warning("could not be made resident", version=version.name, reason=trouble.message)

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
        await serving.residency.load(check_base(version, serving.info))

    async def delete_adapter(self, name: str) -> None:
        """Delete an adapter; its residents go as the last request lets go of them."""
        versions = list(self.registry.catalog.adapter(name).versions.values())
        await self.registry.delete_adapter(name)
        await self._forget(versions)

    async def delete_version(self, version: Version, *, with_aliases: bool = False) -> None:
        """Delete a version; requests in flight finish on it.

        Raises:
            VersionInUse: it is pinned, or an alias points to it and is not to go with it.
        """
        await self.registry.delete_version(version.adapter, version.number, with_aliases=with_aliases)
        await self._forget([version])

    async def _forget(self, versions: Iterable[Version]) -> None:
        """Unload deleted versions."""
        if self.supervisor.is_ready:
            residency = self.supervisor.serving().residency
            for version in versions:
                await residency.unload(version)
