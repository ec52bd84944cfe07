"""How an adapter becomes a version: fetch, inspect, probe, store the bytes, then write the row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from adapters.checks.canonicalizer import Canonical
from adapters.checks.report import InspectionReport
from adapters.crash_points import CrashPoints
from adapters.errors import AdapterNotFound, AdapterRefused, WorkerProcessDied
from adapters.lora.compile_report import CompileReport
from adapters.lora.peft_config import claims_lora
from adapters.names import DEFAULT_ALIAS, FineTunedName, check_adapter_name, check_alias
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.sources.source import Source
from adapters.storage.blobs import Blobs
from adapters.storage.disk import in_thread
from adapters.storage.manifest import INITIAL
from adapters.storage.staging import Staged, Staging
from adapters.versions import Alias, Version

log = structlog.get_logger(__name__)

FAULT_POINTS: Final = (
    "publish.opened",
    "publish.fetched",
    "publish.inspected",
    "publish.probed",
    "publish.stored",
    "publish.registered",
)
"""Between any two steps of ``Publisher.publish``: dying there leaves orphans, never a row without bytes."""

Door = Callable[[Path, Path], Awaitable[Canonical]]
"""(source, out) → what was found and done: the canonical form is in ``out`` unless the source is served as it came.

Raises AdapterRefused, AdapterTooCostly or WorkerProcessDied."""

Compiler = Callable[[Path, Path, int | None], Awaitable[CompileReport]]
"""(source, out, rank to cut at) → what was done; raises AdapterRefused, AdapterTooCostly or WorkerProcessDied."""


class ProbeFunction(Protocol):
    """A trial of what passed the door, in the engine that will serve it."""

    async def __call__(self, directory: Path, report: InspectionReport, *, allow_inert: bool) -> Mapping[str, Any]:
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
        check_base: Callable[[Path], None] | None = None,
        compiler: Compiler | None = None,
        probe: ProbeFunction | None = None,
        faults: CrashPoints = CrashPoints(),  # noqa: B008 - an immutable value
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._staging = staging
        self._door = door
        self._check_base = check_base
        self._compile = compiler
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
        compress_to: int | None = None,
        force_base: bool = False,
    ) -> Published:
        """Make what ``source`` holds the next version of ``name`` and move ``alias`` to it; all or nothing.

        ``extra`` stands in the version's report beside what the door measured and, as "probe", what the probe did;
        ``allow_inert`` admits an adapter that changes nothing; one that is cut to rank ``compress_to`` may lose by it;
        ``force_base`` admits one that says that it was made for another base model, if its shapes fit this one's.
        With a ``fine_tuned_name`` it is a checkpoint, and published once: whoever comes later gets the version that is
        there. See ``Registry.add_version``.

        Raises:
            InvalidName: the adapter or the alias may not be called so.
            NameTaken: the version that ``fine_tuned_name`` means was deleted.
            AdapterRefused, WrongBase: the door, the compiler or the probe found faults.
            AdapterTooCostly: compiling it would take more than the server allows.
            SourceError: the bytes could not be had.
            StorageFull: the disk has no space left.
        """
        check_adapter_name(name)
        if alias is not None:
            check_alias(alias)
        if fine_tuned_name is not None and (there := self._named(fine_tuned_name)) is not None:
            return Published(there, self._pointing(there, alias or DEFAULT_ALIAS), None)
        async with AsyncExitStack() as stages:
            original = await stages.enter_async_context(self._staging.open())
            self._faults.point("publish.opened")
            origin = await source.fetch(original)
            came = original.manifest().digest
            self._faults.point("publish.fetched")
            if self._check_base is not None and not force_base:
                await in_thread(self._check_base, original.path)
            staged, report, compiled = await self._admit(original, stages, compress_to)
            served = staged.manifest().digest
            found = report.to_json() | ({} if compiled is None else {"compile": compiled.to_json()})
            self._faults.point("publish.inspected")
            if self._probe is not None:
                found["probe"] = dict(await self._probe(staged.path, report, allow_inert=allow_inert))
            self._faults.point("publish.probed")
            for blob in dict.fromkeys((original, staged)):
                await self._blobs.put(blob)
            self._faults.point("publish.stored")
        found |= extra or {}
        version = await self._registry.add_version(
            name,
            digest=served,
            original_digest=None if came == served else came,
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

    async def _admit(
        self, original: Staged, stages: AsyncExitStack, compress_to: int | None
    ) -> tuple[Staged, InspectionReport, CompileReport | None]:
        """Return what will be served: a LoRA in canonical form, and what was done to bring it there."""
        refused: AdapterRefused | None = None
        if compress_to is None or self._compile is None:
            try:
                return await self._through_door(original, stages)
            except AdapterRefused as refusal:
                if self._compile is None or await in_thread(_is_lora_alone, original.path):
                    raise  # whatever is wrong with a LoRA, the door says it best and at once
                refused = refusal
        scratch = await stages.enter_async_context(self._staging.open())
        try:
            compiled = await self._compile(original.path, scratch.path, compress_to)
        except WorkerProcessDied as died:
            log.error("an adapter could not be compiled", reason=died.message, said=died.log)
            raise refused or died from died
        staged, report, _ = await self._through_door(await self._copied(scratch, stages), stages)
        return staged, report, compiled

    async def _through_door(
        self, came: Staged, stages: AsyncExitStack
    ) -> tuple[Staged, InspectionReport, CompileReport | None]:
        scratch = await stages.enter_async_context(self._staging.open())
        canonical = await self._door(came.path, scratch.path)
        staged = came if canonical.made is None else await self._copied(scratch, stages)
        return staged, canonical.report, canonical.made

    async def _copied(self, scratch: Staged, stages: AsyncExitStack) -> Staged:
        """Return what was written into ``scratch`` past its own methods, hashed and durable."""
        staged = await stages.enter_async_context(self._staging.open())
        await DirectorySource(scratch.path, allowed=[scratch.path]).fetch(staged)
        return staged

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


def _is_lora_alone(directory: Path) -> bool:
    return claims_lora(directory) and not (directory / INITIAL).is_dir()
