"""Publishes an adapter as a version: fetch, check, compile if need be, probe, store the bytes, then write the row."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import InspectionReport
from adapters.crash_points import CrashPoints
from adapters.errors import AdapterNotFound, AdapterRefused, WorkerProcessDied
from adapters.fair_places import FairPlaces
from adapters.gate import check_gate
from adapters.lora.canonical_form import CompileReport
from adapters.lora.peft_config import claims_lora
from adapters.names import DEFAULT_ALIAS, check_adapter_name, check_alias
from adapters.publish_options import PublishOptions
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.sources.source import Source
from adapters.storage.blobs import Blobs
from adapters.storage.disk import in_thread
from adapters.storage.manifest import INITIAL
from adapters.storage.staging import Staged, Staging
from adapters.versions import Alias, Version

log = structlog.get_logger(__name__)

AT_ONCE: Final = 2
"""Adapters that are checked, compiled and probed at once; each may take the memory that one check may have."""
CRASH_POINTS: Final = tuple(
    f"publish.{step}" for step in ("opened", "fetched", "inspected", "probed", "stored", "registered")
)
"""Between any two steps of ``Publisher.publish``: a crash there leaves orphan blobs, never a row without bytes."""

Checks = Callable[[Path, Path], Awaitable[Canonical]]
"""(source, out) → report; the canonical form is in ``out`` unless the source is served as uploaded.

Raises AdapterRefused, AdapterTooCostly or WorkerProcessDied."""

Compiler = Callable[[Path, Path, int | None], Awaitable[CompileReport]]
"""(source, out, rank to truncate to) → report; raises AdapterRefused, AdapterTooCostly or WorkerProcessDied."""


class ProbeFunction(Protocol):
    """Tries an adapter that passed the checks in the engine that will serve it."""

    async def __call__(self, directory: Path, report: InspectionReport, *, allow_inert: bool) -> Mapping[str, Any]:
        """Return the measurements as JSON values; AdapterRefused for a fault, such as an adapter without effect."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published version, and the requested alias (else `stable`) if it points to that version now."""

    version: Version
    alias: Alias | None
    report: Mapping[str, Any] | None
    """The report of these bytes, as JSON; None: the version was there before and they were not checked."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes adapters from any source. ``CRASH_POINTS`` names the points between its steps."""

    registry: Registry
    blobs: Blobs
    staging: Staging
    checks: Checks
    check_base: Callable[[Path], None] | None = None
    compare_tokenizer: Callable[[Mapping[str, bytes]], Iterable[str]] = lambda _: ()
    """Yields a note for each difference between ``TOKENIZER_FILES`` by name and the base model's."""
    compiler: Compiler | None = None
    probe: ProbeFunction | None = None
    crash_points: CrashPoints = field(default_factory=CrashPoints)
    check_stored: Callable[[str, int], Awaitable[None]] | None = None
    """Raises an error if a project may not store so many bytes more; not asked about checkpoints of jobs."""
    places: FairPlaces = field(default_factory=lambda: FairPlaces(AT_ONCE))
    """For what takes the memory of a check: publications, merges, comparisons of weights."""

    async def publish(
        self,
        name: str,
        source: Source,
        options: PublishOptions = PublishOptions(),  # noqa: B008 - an immutable value
    ) -> Published:
        """Make the adapter in ``source`` the next version of ``name`` and move the alias to it; all or nothing.

        Raises:
            InvalidName: ``name`` or the alias is not valid.
            NameNotAllowed: the adapter belongs to another project than ``options.project``.
            NameTaken: the version that ``options.fine_tuned_name`` means was deleted; or as ``options.is_first``.
            AdapterRefused, WrongBase: the checks, the compiler or the probe found faults.
            AdapterTooCostly: the checks or the compiler would take more than the server allows.
            SourceError: the bytes could not be fetched.
            StorageFull: the disk has no space left.
            VerdictNeeded: the alias demands a verdict, which only a published version can get.
        """
        check_adapter_name(name)
        if options.alias is not None:
            self._check_gate(name, check_alias(options.alias), options)
        if options.fine_tuned_name is not None:
            with suppress(AdapterNotFound):
                return self._published(self.registry.catalog.resolve(options.fine_tuned_name), options, None)
        async with AsyncExitStack() as stages:
            original = await stages.enter_async_context(self.staging.open())
            self.crash_points.point("publish.opened")
            origin = await source.fetch(original)
            original_digest = original.manifest().digest
            self.crash_points.point("publish.fetched")
            if self.check_base is not None and not options.force_base:
                await in_thread(self.check_base, original.path)
            # The bytes are on disk: from here on they take memory.
            await stages.enter_async_context(self.places.place(options.project))
            staged, inspection, compiled = await self._admit(original, stages, options.compress_to)
            digest = staged.manifest().digest
            notes = [*original.notes(), *await in_thread(list, self.compare_tokenizer(original.tokenizer_files))]
            report = inspection.to_json() | ({} if compiled is None else {"compile": compiled.to_json()})
            report["notes"] += notes
            self.crash_points.point("publish.inspected")
            if self.check_stored is not None and options.fine_tuned_name is None:
                await self.check_stored(options.project, inspection.size_bytes)
            if self.probe is not None:
                report["probe"] = dict(await self.probe(staged.path, inspection, allow_inert=options.allow_inert))
            self.crash_points.point("publish.probed")
            for blob in dict.fromkeys((original, staged)):
                await self.blobs.put(blob)
            self.crash_points.point("publish.stored")
        report |= options.extra
        version = await self.registry.add_version(
            name,
            digest=digest,
            original_digest=None if original_digest == digest else original_digest,
            base_fingerprint=inspection.base_fingerprint,
            rank=inspection.rank,
            size_bytes=inspection.size_bytes,
            source=origin,
            report=report,
            alias=options.alias,
            fine_tuned_name=options.fine_tuned_name,
            lora_name=options.lora_name,
            is_first=options.is_first,
            is_in_place=options.is_in_place,
            project=options.project,
        )
        self.crash_points.point("publish.registered")
        return self._published(version, options, report)

    def _check_gate(self, name: str, alias: str, options: PublishOptions) -> None:
        """Refuse a publication whose alias demands a verdict, before the work; raises VerdictNeeded."""
        adapter = self.registry.catalog.get(name)
        if adapter is not None and alias in adapter.aliases:
            check_gate(adapter.aliases[alias].require, options.extra, version=f"{name} to be published", alias=alias)

    async def _admit(
        self, original: Staged, stages: AsyncExitStack, compress_to: int | None
    ) -> tuple[Staged, InspectionReport, CompileReport | None]:
        """Return the LoRA in canonical form that will be served, its report, and how it was converted."""
        refused: AdapterRefused | None = None
        if compress_to is None or self.compiler is None:
            try:
                return await self._check(original, stages)
            except AdapterRefused as refusal:
                if self.compiler is None or await in_thread(_is_lora_alone, original.path):
                    raise  # the compiler could not mend a faulty LoRA
                refused = refusal
        scratch = await stages.enter_async_context(self.staging.open())
        try:
            compiled = await self.compiler(original.path, scratch.path, compress_to)
        except WorkerProcessDied as died:
            log.error("an adapter could not be compiled", reason=died.message, log=died.log)
            raise refused or died from died
        staged, report, _ = await self._check(await self._copied(scratch, stages), stages)
        return staged, report, compiled

    async def _check(
        self, staged: Staged, stages: AsyncExitStack
    ) -> tuple[Staged, InspectionReport, CompileReport | None]:
        scratch = await stages.enter_async_context(self.staging.open())
        canonical = await self.checks(staged.path, scratch.path)
        if canonical.compiled is not None:
            staged = await self._copied(scratch, stages)
        return staged, canonical.report, canonical.compiled

    async def _copied(self, scratch: Staged, stages: AsyncExitStack) -> Staged:
        """Return a hashed and durable copy of ``scratch``, whose files a child process wrote."""
        staged = await stages.enter_async_context(self.staging.open())
        await DirectorySource(scratch.path, allowed=[scratch.path]).fetch(staged)
        return staged

    def _published(self, version: Version, options: PublishOptions, report: Mapping[str, Any] | None) -> Published:
        alias = None
        if version.adapter in self.registry.catalog:  # else it was deleted meanwhile
            alias = self.registry.catalog.adapter(version.adapter).aliases.get(options.alias or DEFAULT_ALIAS)
        return Published(version, alias if alias is not None and alias.version == version.number else None, report)


def _is_lora_alone(directory: Path) -> bool:
    return claims_lora(directory) and not (directory / INITIAL).is_dir()
