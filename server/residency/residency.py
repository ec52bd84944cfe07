"""The residents of one engine: one load at a time per version, least recently used evicted first, never one in use.

vLLM never loads or evicts by itself here: a damaged file met inside its step loop kills the engine for all requests,
and its own LRU does not know which adapters requests hold. A ``Residency`` lives as long as its engine; a rebuilt
engine gets a new one. ``server.residency.entry`` draws the states of a resident.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import structlog

from adapters.errors import AdapterRefused, Fault, PatchbayError
from adapters.versions import Version
from server.death_suspects import DeathSuspects
from server.engine.protocol import Engine, EngineGone, LoadFailed, Resident
from server.errors import AdapterQuarantined, EngineNotReady, ResidencyFull
from server.metrics import EngineMetrics
from server.residency.capacity import Capacity
from server.residency.entry import Entry, ResidentState
from server.residency.quarantine import Quarantine, QuarantineReason

log = structlog.get_logger(__name__)

_LOCAL_PATH: Final = re.compile(r"(?<![\w.:/])/[^\s'\"),;:]+")
FIRST_OTHER_ID: Final = 2**29
"""First of the engine's ids for versions whose own id other bytes have; below it are version ids."""

Locate = Callable[[str], Awaitable[Path]]
"""Takes a digest, returns the verified local directory. Raises BlobCorrupt if the bytes no longer match."""


class Lease:
    """Keeps a resident loaded until ``release``. A second release has no effect."""

    __slots__ = ("_entry", "_residency", "resident", "version")

    def __init__(self, residency: Residency, entry: Entry, resident: Resident) -> None:
        self.resident = resident
        self.version = entry.version
        self._entry: Entry | None = entry
        self._residency = residency

    def release(self) -> None:
        """Let the resident be unloaded or evicted again."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._residency._released(entry)


@dataclass(eq=False)
class Residency:
    """The residents of ``engine``, limited in number and bytes; the least recently used is evicted first.

    Args:
        capacity: limits on the residents.
        wait_s: seconds that a cold request waits for an idle resident before ``ResidencyFull``.
        quarantined: versions that must not be loaded.
        suspects: what engines were doing when they died; a version that was being loaded at two deaths is quarantined.
        is_pinned: whether a version must stay resident; called at each eviction, so that the answer is current.
    """

    engine: Engine
    _: KW_ONLY
    locate: Locate
    capacity: Capacity
    wait_s: float
    is_pinned: Callable[[Version], bool]
    quarantined: Quarantine
    suspects: DeathSuspects
    metrics: EngineMetrics
    _entries: OrderedDict[tuple[int, str], Entry] = field(default_factory=OrderedDict, init=False)
    _digests: dict[int, str] = field(default_factory=dict, init=False)  # by the version id that they were loaded with
    _other_ids: dict[tuple[int, str], int] = field(default_factory=dict, init=False)
    _may_evict: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _tasks: set[asyncio.Task[object]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._report_metrics()

    def state(self, version: Version) -> ResidentState | None:
        """Return the state of ``version``; None: neither resident nor on its way."""
        entry = self._entries.get(version.key)
        return None if entry is None else entry.state

    def entries(self) -> list[Entry]:
        """Return every entry, least recently used first."""
        return list(self._entries.values())

    def versions(self) -> list[Version]:
        """Return the versions that the engine holds, most recently used first."""
        return [entry.version for entry in reversed(self._entries.values()) if entry.state is not ResidentState.LOADING]

    async def lease(self, version: Version) -> Lease:
        """Lease ``version``, after loading it if it is not resident. A resident version is leased without a wait.

        Raises:
            ResidencyFull: no resident became idle in time.
            AdapterQuarantined: the version is quarantined.
            AdapterRefused: the engine does not load the files.
            BlobCorrupt: the bytes no longer match their digest.
            EngineNotReady: the engine died.
        """
        while True:
            self.check(version)
            entry = self._entries.get(version.key)
            if entry is None:
                entry = self._entries[version.key] = Entry(version)
                self._spawn(self._load(entry))
            if entry.state is ResidentState.UNLOADING:
                await asyncio.shield(entry.gone)
                continue
            entry.leases += 1
            try:
                resident = entry.loaded.result() if entry.loaded.done() else await asyncio.shield(entry.loaded)
            except BaseException:
                self._released(entry)
                raise
            self._entries.move_to_end(version.key)
            return Lease(self, entry, resident)

    async def load(self, version: Version) -> None:
        """Make ``version`` resident without a lease, and cancel an unload that waits. Raises as ``lease``."""
        lease = await self.lease(version)
        entry = self._entries[version.key]
        if entry.state is ResidentState.DRAINING:
            entry.become(ResidentState.RESIDENT)
        lease.release()

    async def unload(self, version: Version) -> ResidentState | None:
        """Unload ``version``; return DRAINING if requests still hold leases, None once it is unloaded."""
        entry = self._entries.get(version.key)
        if entry is None:
            return None
        if entry.state is ResidentState.LOADING:
            await asyncio.wait([entry.loaded])
        if entry.state is ResidentState.RESIDENT:
            if entry.leases:
                entry.become(ResidentState.DRAINING)
            else:
                self._start_unload(entry)
        if entry.state is ResidentState.DRAINING:
            return ResidentState.DRAINING
        if entry.state is ResidentState.UNLOADING:
            await asyncio.shield(entry.gone)
        return None

    def quarantine(self, version: Version, reason: QuarantineReason) -> AdapterQuarantined:
        """Refuse requests for ``version`` from now on, and unload it once no lease is left; return the error.

        Its cached prefixes need no clean-up: they are keyed by its own name, which no request reaches, and the engine
        clears their blocks before it uses them again.
        """
        self.quarantined.add(version, reason)
        self._spawn(self.unload(version))
        return self.quarantined.refusal(version)

    def unload_where(self, is_unwanted: Callable[[Version], bool]) -> None:
        """Unload the residents that ``is_unwanted`` is true of, each once no lease is left."""
        for entry in self._entries.values():
            if entry.state is ResidentState.RESIDENT and is_unwanted(entry.version):
                self._spawn(self.unload(entry.version))

    def check(self, version: Version) -> None:
        """Raise AdapterQuarantined if ``version`` is quarantined."""
        if version in self.quarantined:
            raise self.quarantined.refusal(version)

    def reconsider(self) -> None:
        """Let waiting loads look for an idle resident again, after a pin was removed."""
        self._may_evict.set()

    @asynccontextmanager
    async def trial(self, resident: Resident) -> AsyncIterator[Engine]:
        """Keep ``resident`` loaded for the block without serving it, to see whether the engine takes its files.

        Raises:
            AdapterRefused: the engine does not load them; the fault has the engine's message.
            EngineNotReady: the engine died.
        """
        loading = asyncio.ensure_future(self._engine_load(resident))
        try:
            await asyncio.shield(loading)
            yield self.engine
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end_trial(loading, resident)))

    async def _end_trial(self, loading: asyncio.Future[None], resident: Resident) -> None:
        """Unload what a trial loaded; a trial that was cancelled during its load is loaded first."""
        with suppress(PatchbayError, EngineGone):  # refused, or the engine died: there is nothing to unload
            await loading
            await self.engine.unload(resident)

    async def warm(self, versions: Sequence[Version]) -> list[Version]:
        """Load ``versions`` ahead of traffic, in order, within capacity; return those that failed.

        Raises:
            EngineNotReady: the engine died.
        """
        failed = []
        for version in versions[: self.capacity.residents]:
            if not self.capacity.has_room(version):  # versions used more recently must not be evicted for it
                continue
            try:
                await self.load(version)
            except EngineNotReady:
                raise
            except PatchbayError:  # damaged files of one version must not keep the others from being served
                failed.append(version)
        return failed

    async def close(self) -> None:
        """Cancel loads and unloads in flight; the residents end with the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in list(self._entries.values()):  # a task cancelled before its first step has set no result
            if entry.state is ResidentState.LOADING:
                self._forget(entry, _not_ready())
            elif entry.state is ResidentState.UNLOADING:
                self._mark_gone(entry)
        self.metrics.residents.set(0)
        self.metrics.resident_bytes.set(0)

    # -- inside ------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _released(self, entry: Entry) -> None:
        entry.leases -= 1
        if entry.leases:
            return
        if entry.state is ResidentState.DRAINING:
            self._start_unload(entry)
        self._may_evict.set()

    async def _load(self, entry: Entry) -> None:
        try:
            resident = await self._reserve_and_load(entry.version)
        except asyncio.CancelledError:
            self._forget(entry, _not_ready())
            raise
        except (PatchbayError, OSError) as why:
            if not isinstance(why, ResidencyFull):
                self.metrics.load_failures.inc()
            self._forget(entry, why)
            return
        except Exception as unforeseen:  # whatever it is, waiting requests must get an error
            self._forget(entry, unforeseen)
            raise
        entry.become(ResidentState.RESIDENT)
        entry.loaded.set_result(resident)
        self._report_metrics()
        self._may_evict.set()

    def _report_metrics(self) -> None:
        self.metrics.residents.set(self.capacity.count)
        self.metrics.resident_bytes.set(self.capacity.bytes)

    def _forget(self, entry: Entry, why: Exception) -> None:
        del self._entries[entry.version.key]
        entry.loaded.set_exception(why)
        entry.loaded.exception()  # asyncio warns of an exception that nothing retrieves

    def _mark_gone(self, entry: Entry) -> None:
        del self._entries[entry.version.key]
        entry.gone.set_result(None)

    async def _reserve_and_load(self, version: Version) -> Resident:
        await self._reserve(version)
        loading = f"load of {version.key}"
        try:
            path = await self.locate(version.digest)
            resident = Resident(self._engine_id(version), version.name, path)
            started = perf_counter()
            await self._engine_load(resident)
        except BaseException as error:
            if isinstance(error.__cause__, EngineGone) and self.suspects.note(loading, self.engine):
                self.quarantined.add(version, QuarantineReason.DEATHS)
            self._release_capacity(version)
            raise
        self.suspects.acquit(loading)
        self.metrics.load_seconds.observe(perf_counter() - started)
        return resident

    def _engine_id(self, version: Version) -> int:
        """Return the engine's id of ``version``: its own, unless that was other bytes' before a restore."""
        if self._digests.setdefault(version.id, version.digest) == version.digest:
            return version.id
        return self._other_ids.setdefault(version.key, FIRST_OTHER_ID + len(self._other_ids))

    async def _engine_load(self, resident: Resident) -> None:
        try:
            await self.engine.load(resident)
        except LoadFailed as refused:
            log.warning(
                "the engine refused an adapter", name=resident.name, path=str(resident.path), reason=str(refused)
            )
            reason = _LOCAL_PATH.sub("…", str(refused))  # is not for callers
            fault = Fault(resident.name, f"an adapter the engine does not take: {reason}", "one that vLLM can serve")
            raise AdapterRefused([fault]) from refused
        except EngineGone as gone:
            raise _not_ready() from gone

    async def _reserve(self, version: Version) -> None:
        """Reserve capacity for ``version``: evict, or wait for a lease to be released if every resident is in use."""
        deadline = asyncio.get_running_loop().time() + self.wait_s
        while not self.capacity.has_room(version):
            victim = self._victim(version)
            if victim is None:
                await self._wait_for_a_lease(deadline, self.capacity.crowded_project(version))
                continue
            self.metrics.evictions.inc()
            self._start_unload(victim)
            await asyncio.shield(victim.gone)
        self.capacity.reserve(version)

    async def _wait_for_a_lease(self, deadline: float, project: str | None) -> None:
        self._may_evict.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._may_evict.wait()
        except TimeoutError as late:
            way_out = (
                f"all {self.capacity.count} residents are pinned or in use; try again, unpin one, or start the server "
                "with a larger --max-residents or --max-resident-bytes"
                if project is None
                else "the residents of the adapter's project are pinned or in use and have its resident_bytes; try "
                "again, unpin one, or ask an operator for a larger limit (PUT /v1/limits)"
            )
            raise ResidencyFull(way_out, retry_after_s=max(1, round(self.wait_s / 4))) from late

    def _release_capacity(self, version: Version) -> None:
        self.capacity.release(version)
        self._report_metrics()
        self._may_evict.set()

    def _victim(self, wanted: Version) -> Entry | None:
        """Return the least recently used idle resident; a pinned one only where pins alone exceed the capacity.

        Where the project of ``wanted`` has its bytes, one of that project.
        """
        idle = [entry for entry in self._entries.values() if entry.state is ResidentState.RESIDENT and not entry.leases]
        if (project := self.capacity.crowded_project(wanted)) is not None:
            idle = [entry for entry in idle if self.capacity.project_of(entry.version) == project]
        evictable = [entry for entry in idle if not self.is_pinned(entry.version)]
        if not evictable and self._is_full_of_pins(wanted):
            evictable = idle
        return evictable[0] if evictable else None

    def _is_full_of_pins(self, wanted: Version) -> bool:
        """Whether pins alone exceed the capacity: set by two callers at once, or before the limit was lowered."""
        loaded = [entry.version for entry in self._entries.values() if entry.loaded.done()]
        pinned = [version for version in loaded if self.is_pinned(version)]
        size = sum(version.size_bytes for version in pinned) + wanted.size_bytes
        return len(pinned) >= self.capacity.residents or size > self.capacity.max_bytes

    def _start_unload(self, entry: Entry) -> None:
        entry.become(ResidentState.UNLOADING)
        self._spawn(self._unload(entry))

    async def _unload(self, entry: Entry) -> None:
        try:
            with suppress(EngineGone):  # the resident ended with the engine
                await self.engine.unload(entry.loaded.result())
        finally:
            self._mark_gone(entry)
            self._release_capacity(entry.version)


def _not_ready() -> EngineNotReady:
    return EngineNotReady("the engine died while the adapter was being loaded; it is being rebuilt", retry_after_s=5)
