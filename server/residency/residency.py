"""The residents of one engine: loaded by us, one load at a time per version, evicted least recently used, never in use.

vLLM is never left to load or evict by itself: a damaged file met inside its step loop kills the engine for everybody,
and its own LRU knows nothing of leases. A ``Residency`` lives exactly as long as its engine; a rebuilt engine gets a
new one. The states of a resident are drawn in ``server.residency.entry``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from adapters.errors import AdapterRefused, Fault, PatchbayError
from adapters.versions import Version
from server.engine.protocol import Engine, EngineGone, LoadFailed, Resident
from server.errors import AdapterQuarantined, EngineNotReady, ResidencyFull
from server.metrics import EngineMetrics
from server.residency.entry import Entry, ResidentState
from server.residency.quarantine import Quarantine

Locate = Callable[[str], Awaitable[Path]]
"""Digest → verified local directory. Raises BlobCorrupt when the bytes no longer match."""


@dataclass(frozen=True, slots=True)
class ResidentView:
    """What an operator sees of one resident."""

    version: Version
    state: ResidentState
    leases: int


class Lease:
    """A hold on a resident: it stays loaded until ``release``. Releasing twice is harmless."""

    __slots__ = ("_entry", "_residency", "resident", "version")

    def __init__(self, residency: Residency, entry: Entry, resident: Resident) -> None:
        self.resident = resident
        self.version = entry.version
        self._entry: Entry | None = entry
        self._residency = residency

    def release(self) -> None:
        """Give the hold back."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._residency._released(entry)


class Residency:
    """The residents of ``engine``: so many versions and bytes at most, least recently used first out.

    Args:
        engine: what holds them.
        locate: finds and verifies a version's bytes.
        capacity: residents at once; the engine's own limit lies above it.
        max_bytes: the size of their files together; one that is larger by itself is resident alone.
        wait_s: how long a cold request waits for a resident to fall idle before ``ResidencyFull``.
        quarantine: the versions that must not be loaded.
        is_pinned: tells whether a version must stay, asked at each eviction so that it is never stale.
        metrics: where loads, evictions and residents are counted.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        locate: Locate,
        capacity: int,
        max_bytes: int,
        wait_s: float,
        is_pinned: Callable[[Version], bool],
        quarantine: Quarantine,
        metrics: EngineMetrics,
    ) -> None:
        self._engine = engine
        self._locate = locate
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._wait_s = wait_s
        self._is_pinned = is_pinned
        self._quarantine = quarantine
        self._metrics = metrics
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._rooms_taken = 0
        self._bytes_taken = 0
        self._room_may_be_had = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._count()

    def state(self, version: Version) -> ResidentState | None:
        """Return where ``version`` stands; None: absent."""
        entry = self._entries.get(version.id)
        return None if entry is None else entry.state

    def views(self) -> list[ResidentView]:
        """Return every entry, least recently used first."""
        return [ResidentView(entry.version, entry.state, entry.leases) for entry in self._entries.values()]

    def versions(self) -> list[Version]:
        """Return what the engine holds, most recently used first."""
        return [entry.version for entry in reversed(self._entries.values()) if entry.state is not ResidentState.LOADING]

    async def lease(self, version: Version) -> Lease:
        """Hold ``version`` resident, loading it first if need be. The warm path does not touch the event loop.

        Raises:
            ResidencyFull: no resident fell idle in time.
            AdapterQuarantined: it is in quarantine.
            AdapterRefused: the engine does not take the bytes.
            BlobCorrupt: the bytes no longer match their digest.
            EngineNotReady: the engine died meanwhile.
        """
        while True:
            self.check(version)
            entry = self._entries.get(version.id)
            if entry is None:
                entry = self._entries[version.id] = Entry(version)
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
            self._entries.move_to_end(version.id)
            return Lease(self, entry, resident)

    async def load(self, version: Version) -> None:
        """Make ``version`` resident without holding it, and call off an unload under way; raises as ``lease`` does."""
        lease = await self.lease(version)
        entry = self._entries[version.id]
        if entry.state is ResidentState.DRAINING:
            entry.become(ResidentState.RESIDENT)
        lease.release()

    async def unload(self, version: Version) -> ResidentState | None:
        """Unload ``version`` as soon as nobody holds it; return DRAINING while somebody does, None once it is gone."""
        entry = self._entries.get(version.id)
        if entry is None:
            return None
        if entry.state is ResidentState.LOADING:
            await asyncio.wait([entry.loaded])
        if entry.state is ResidentState.RESIDENT:
            if entry.leases:
                entry.become(ResidentState.DRAINING)
            else:
                self._begin_unload(entry)
        if entry.state is ResidentState.DRAINING:
            return ResidentState.DRAINING
        if entry.state is ResidentState.UNLOADING:
            await asyncio.shield(entry.gone)
        return None

    def quarantine(self, version: Version) -> AdapterQuarantined:
        """Refuse ``version`` from now on, and unload it once nobody holds it; return the refusal.

        Nothing is to be cleaned up after it: its cached prefixes are under its own name, which no request gets to, and
        the engine clears the blocks they lie in before it hands them out again.
        """
        self._quarantine.add(version)
        self._spawn(self._let_go(version))
        return self._quarantine.refusal(version)

    async def _let_go(self, version: Version) -> None:
        await self.unload(version)

    def check(self, version: Version) -> None:
        """Let ``version`` pass.

        Raises:
            AdapterQuarantined: it is in quarantine.
        """
        if version in self._quarantine:
            raise self._quarantine.refusal(version)

    def is_quarantined(self, version: Version) -> bool:
        """Whether ``version`` is refused."""
        return version in self._quarantine

    def reconsider(self) -> None:
        """Look again whether something can be evicted: a pin was lifted."""
        self._room_may_be_had.set()

    @asynccontextmanager
    async def trial(self, resident: Resident) -> AsyncIterator[Engine]:
        """Keep ``resident`` loaded for the block, without serving it, to learn what the engine makes of its bytes.

        Raises:
            AdapterRefused: the engine does not take them; with its own words.
            EngineNotReady: the engine died meanwhile.
        """
        loading = asyncio.ensure_future(self._engine_load(resident))
        try:
            await asyncio.shield(loading)
            yield self._engine
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end_trial(loading, resident)))

    async def _end_trial(self, loading: asyncio.Future[None], resident: Resident) -> None:
        """Unload what a trial loaded; one that was cancelled while it loaded is loaded first."""
        with suppress(PatchbayError, EngineGone):  # refused, or gone with its engine: there is nothing to unload
            await loading
            await self._engine.unload(resident)

    async def warm(self, versions: Sequence[Version]) -> list[Version]:
        """Load ``versions`` ahead of traffic, in order, within capacity; return those that could not be.

        Raises:
            EngineNotReady: the engine died meanwhile.
        """
        failed = []
        for version in versions[: self._capacity]:
            if not self._has_room(version):  # what was used more recently is not to be evicted for it
                continue
            try:
                await self.load(version)
            except EngineNotReady:
                raise
            except PatchbayError:  # one version's damaged bytes must not keep the engine from serving the others
                failed.append(version)
        return failed

    async def close(self) -> None:
        """Drop the tasks in flight; the engine takes its residents with it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in list(self._entries.values()):  # a task cancelled before its first step settled nothing
            if entry.state is ResidentState.LOADING:
                self._forget(entry, _not_ready())
            elif entry.state is ResidentState.UNLOADING:
                self._gone(entry)
        self._metrics.residents.set(0)
        self._metrics.resident_bytes.set(0)

    # -- inside ------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _released(self, entry: Entry) -> None:
        entry.leases -= 1
        if entry.leases:
            return
        if entry.state is ResidentState.DRAINING:
            self._begin_unload(entry)
        self._room_may_be_had.set()

    async def _load(self, entry: Entry) -> None:
        try:
            resident = await self._load_into_room(entry.version)
        except asyncio.CancelledError:
            self._forget(entry, _not_ready())
            raise
        except (PatchbayError, OSError) as why:
            if not isinstance(why, ResidencyFull):
                self._metrics.load_failures.inc()
            self._forget(entry, why)
            return
        except Exception as unforeseen:
            self._forget(entry, unforeseen)  # those who wait must not wait for ever
            raise
        entry.become(ResidentState.RESIDENT)
        entry.loaded.set_result(resident)
        self._count()
        self._room_may_be_had.set()

    def _count(self) -> None:
        self._metrics.residents.set(self._rooms_taken)
        self._metrics.resident_bytes.set(self._bytes_taken)

    def _forget(self, entry: Entry, why: Exception) -> None:
        del self._entries[entry.version.id]
        entry.loaded.set_exception(why)
        entry.loaded.exception()  # nobody may be waiting any more; that is no warning

    def _gone(self, entry: Entry) -> None:
        del self._entries[entry.version.id]
        entry.gone.set_result(None)

    async def _load_into_room(self, version: Version) -> Resident:
        await self._take_room(version)
        try:
            path = await self._locate(version.digest)
            resident = Resident(version.id, version.name, path)
            started = perf_counter()
            await self._engine_load(resident)
        except BaseException:
            self._give_room_back(version)
            raise
        self._metrics.load_seconds.observe(perf_counter() - started)
        return resident

    async def _engine_load(self, resident: Resident) -> None:
        try:
            await self._engine.load(resident)
        except LoadFailed as refused:
            fault = Fault(resident.name, f"an adapter the engine does not take: {refused}", "one that vLLM can serve")
            raise AdapterRefused([fault]) from refused
        except EngineGone as gone:
            raise _not_ready() from gone

    async def _take_room(self, version: Version) -> None:
        """Take a room, evicting if need be; wait for a lease to come back when every resident is held."""
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while not self._has_room(version):
            victim = self._victim(version)
            if victim is None:
                await self._wait_for_a_lease(deadline)
                continue
            self._metrics.evictions.inc()
            self._begin_unload(victim)
            await asyncio.shield(victim.gone)
        self._rooms_taken += 1
        self._bytes_taken += version.size_bytes

    def _has_room(self, version: Version) -> bool:
        fits = self._bytes_taken + version.size_bytes <= self._max_bytes or not self._rooms_taken
        return fits and self._rooms_taken < self._capacity

    async def _wait_for_a_lease(self, deadline: float) -> None:
        self._room_may_be_had.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._room_may_be_had.wait()
        except TimeoutError as late:
            raise ResidencyFull(
                f"all {self._rooms_taken} residents are pinned or in use; try again, unpin one, or start the server "
                "with a larger --max-residents or --max-resident-bytes",
                retry_after_s=max(1, round(self._wait_s / 4)),
            ) from late

    def _give_room_back(self, version: Version) -> None:
        self._rooms_taken -= 1
        self._bytes_taken -= version.size_bytes
        self._count()
        self._room_may_be_had.set()

    def _victim(self, wanted: Version) -> Entry | None:
        """Return the least recently used idle resident; a pinned one only where pins would leave no room to move."""
        idle = [entry for entry in self._entries.values() if entry.state is ResidentState.RESIDENT and not entry.leases]
        evictable = [entry for entry in idle if not self._is_pinned(entry.version)]
        if not evictable and self._is_full_of_pins(wanted):
            evictable = idle
        return evictable[0] if evictable else None

    def _is_full_of_pins(self, wanted: Version) -> bool:
        """Pins leave no room: made by two callers at once, or before a restart with less of it."""
        loaded = [entry.version for entry in self._entries.values() if entry.loaded.done()]
        pinned = [version for version in loaded if self._is_pinned(version)]
        size = sum(version.size_bytes for version in pinned) + wanted.size_bytes
        return len(pinned) >= self._capacity or size > self._max_bytes

    def _begin_unload(self, entry: Entry) -> None:
        entry.become(ResidentState.UNLOADING)
        self._spawn(self._unload(entry))

    async def _unload(self, entry: Entry) -> None:
        try:
            with suppress(EngineGone):  # a dead engine took the resident with it
                await self._engine.unload(entry.loaded.result())
        finally:
            self._gone(entry)
            self._give_room_back(entry.version)


def _not_ready() -> EngineNotReady:
    return EngineNotReady("the engine died while the adapter was being loaded; it is being rebuilt", retry_after_s=5)
