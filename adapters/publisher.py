"""How an adapter becomes a version: fetch, inspect, probe, store the bytes, then write the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from adapters.blobs import Blobs
from adapters.disk import in_thread
from adapters.errors import AdapterNotFound
from adapters.faults import Faults
from adapters.names import DEFAULT_ALIAS, FineTunedName, check_adapter_name, check_alias
from adapters.registry import Registry
from adapters.report import Report
from adapters.sources.source import Source
from adapters.staging import Staging
from adapters.versions import Alias, Version

FAULT_POINTS: Final = (
    "publish.opened",
    "publish.fetched",
    "publish.inspected",
    "publish.probed",
    "publish.stored",
    "publish.registered",
)
"""Between any two steps of ``Publisher.publish``: dying there leaves orphans, never a row without bytes."""

Door = Callable[[Path], Report]
"""Inspects a directory with an adapter's files; raises AdapterRefused or WrongBase. Runs in a thread."""


class Probe(Protocol):
    """A trial of what passed the door, in the engine that will serve it."""

    async def __call__(self, directory: Path, report: Report, *, allow_inert: bool) -> Mapping[str, Any]:
        """Return what the trial measured, as JSON values.

        Raises:
            AdapterRefused: the trial found a fault, such as an adapter that changes nothing (unless ``allow_inert``).
        """


@dataclass(frozen=True, slots=True)
class Published:
    """The version, and the alias asked for (else `stable`) if it points to it now."""

    version: Version
    alias: Alias | None
    report: Mapping[str, Any] | None
    """What was found in these bytes, as JSON; None: the version was there before and they were not looked at."""


class Publisher:
    """Publishes adapters from any source. Each step's fault point is in ``FAULT_POINTS``."""

    def __init__(
        self,
        registry: Registry,
        blobs: Blobs,
        staging: Staging,
        door: Door,
        *,
        probe: Probe | None = None,
        faults: Faults = Faults(),  # noqa: B008 - an immutable value
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._staging = staging
        self._door = door
        self._probe = probe
        self._faults = faults

    async def publish(
        self,
        name: str,
        source: Source,
        *,
        alias: str | None = None,
        fine_tuned_name: FineTunedName | None = None,
        extra: Mapping[str, Any] | None = None,
        allow_inert: bool = False,
    ) -> Published:
        """Make what ``source`` holds the next version of ``name`` and move ``alias`` to it; all or nothing.

        ``extra`` stands in the version's report beside what the door measured and, as "probe", what the probe did;
        ``allow_inert`` admits an adapter that changes nothing. With a ``fine_tuned_name`` it is a
        checkpoint, and published once: whoever comes later gets the version that is there. See
        ``Registry.add_version``.

        Raises:
            InvalidName: the adapter or the alias may not be called so.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
            AdapterRefused, WrongBase: the door or the probe found faults.
            SourceError: the bytes could not be had.
            StorageFull: the disk has no space left.
        """
        check_adapter_name(name)
        if alias is not None:
            check_alias(alias)
        if fine_tuned_name is not None and (there := self._named(fine_tuned_name)) is not None:
            return Published(there, self._pointing(there, alias or DEFAULT_ALIAS), None)
        async with self._staging.open() as staged:
            self._faults.point("publish.opened")
            origin = await source.fetch(staged)
            manifest = staged.manifest()
            self._faults.point("publish.fetched")
            report = await in_thread(self._door, staged.path)
            found = report.to_json()
            self._faults.point("publish.inspected")
            if self._probe is not None:
                found["probe"] = dict(await self._probe(staged.path, report, allow_inert=allow_inert))
            self._faults.point("publish.probed")
            await self._blobs.put(staged)
            self._faults.point("publish.stored")
        found |= extra or {}
        version = await self._registry.add_version(
            name,
            digest=manifest.digest,
            base_fingerprint=report.base_fingerprint,
            rank=report.rank,
            size_bytes=report.size_bytes,
            source=origin,
            report=found,
            alias=alias,
            fine_tuned_name=fine_tuned_name,
        )
        self._faults.point("publish.registered")
        return Published(version, self._pointing(version, alias or DEFAULT_ALIAS), found)

    def _named(self, name: FineTunedName) -> Version | None:
        try:
            return self._registry.catalog.resolve(name)
        except AdapterNotFound:
            return None

    def _pointing(self, version: Version, alias: str) -> Alias | None:
        if version.adapter not in self._registry.catalog:
            return None  # deleted by somebody else meanwhile
        found = self._registry.catalog.adapter(version.adapter).aliases.get(alias)
        return found if found is not None and found.version == version.number else None
