"""The bytes of versions, addressed by digest and read-only: ``<root>/sha256/<first 2>/<digest>/<file>``."""

import fcntl
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from adapters.errors import BlobCorrupt
from adapters.storage.disk import fsync_directory, in_thread, space_needed
from adapters.storage.manifest import INITIAL, names_in
from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.staging import Staged, Staging
from adapters.storage.sweep_rules import OWNER, UNKNOWN_OWNER, BlobAges, SweepRules, may_be_ours
from adapters.storage.verification_cache import VerificationCache

log = structlog.get_logger(__name__)

LOOKED_FOR: Final = 10
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The blob store under ``root``, beside its staging; ``remote`` holds the durable copy, if there is one.

    A blob appears whole, by one rename, and never changes. Several processes may share a root.
    Without ``remote`` the local copy is the durable one; with it, missing and damaged blobs are fetched again, and
    each method raises BlobStoreUnavailable if the remote store does not answer.
    """

    def __init__(self, root: Path, *, remote: RemoteBlobs | None = None) -> None:
        self._root = root
        self._remote = remote
        self._staging = Staging(root, max_bytes=sys.maxsize)
        self._verified = VerificationCache()
        self._orphans = BlobAges()
        self._owned: set[str] = set()
        """Stores that ``claim`` has found to be ours."""

    async def put(self, staged: Staged) -> Path:
        """Store the files in ``staged`` durably, and return the blob's directory. The same bytes again change nothing.

        Raises:
            AdapterRefused: a file is missing.
            StorageFull: the disk has no space left.
        """
        digest = staged.manifest().digest
        if self._remote is not None:
            await self._remote.put(digest, staged.path)
        return await in_thread(self._place, staged.path, digest)

    async def path(self, digest: str) -> Path:
        """Return the blob's directory, fetched if only the remote store has it; BlobCorrupt if none has it whole."""
        directory = self._directory(digest)
        if not await in_thread(lambda: all((directory / name).is_file() for name in names_in(directory))):
            await self._fetch(digest, "is missing")
        return directory

    async def verify(self, digest: str) -> Path:
        """As ``path``, with the blob hashed since it last changed; a damaged one is fetched again."""
        directory = self._directory(digest)
        if not await in_thread(self._verified.is_intact, directory, digest):
            await self._fetch(digest, "is damaged or missing")
        return directory

    async def has_any(self, digests: Set[str]) -> bool:
        """Whether one of these blobs is here; in a remote store, ``LOOKED_FOR`` of them are looked for."""
        if await in_thread(lambda: any(self._directory(digest).is_dir() for digest in digests)):
            return True
        remote = self._remote
        return remote is not None and any([await remote.has(digest) for digest in sorted(digests)[:LOOKED_FOR]])

    async def claim(self, installation: str, known: Set[str]) -> None:
        """Mark the stores as those of the installation with this id, whose registry has known the digests ``known``.

        A store with another mark, or with blobs none of which is known, is another installation's: nothing in it is
        ever swept.
        """
        owners = {str(self._root): await in_thread(self._owner, installation, known)}
        if self._remote is not None:
            owners[self._remote.url] = await self._remote.owner(installation, known)
        for store, owner in owners.items():
            if owner != installation:
                log.error(
                    "blobs of another installation: none is swept here; use another directory or URL prefix, or put "
                    "this installation's id into the store's mark",
                    store=store,
                    mark=OWNER,
                    owner=owner,
                    installation=installation,
                )
        self._owned = {store for store, owner in owners.items() if owner == installation}

    async def sweep(self, living: Set[str], known: Set[str], grace_s: float) -> list[str]:
        """Remove blobs that sweeps of this process have seen not ``living`` for ``grace_s``; return their digests.

        Only in stores that ``claim`` has found to be ours. Blobs that are not in ``known`` are what a crash left, or
        what a restored database has forgotten: they stay for ``UNKNOWN_GRACE_S``, all of them where they are many.
        ``grace_s``, in seconds, must exceed the time from ``put`` to the registry row. A blob that is put again in the
        meantime starts anew. Staging directories that no process is filling are removed too, and so are remote orphans,
        last.
        """
        rules = SweepRules(frozenset(living), frozenset(known))
        swept: set[str] = set()
        if str(self._root) in self._owned:
            swept |= set(await in_thread(self._sweep, rules, grace_s))
        await self.sweep_staging()
        if self._remote is not None and self._remote.url in self._owned:
            swept |= set(await self._remote.sweep(rules, grace_s))
        return sorted(swept)

    async def sweep_staging(self) -> None:
        """Remove staging directories that no process is filling."""
        await in_thread(self._staging.sweep)

    async def _fetch(self, digest: str, trouble: str) -> None:
        if self._remote is None:
            raise BlobCorrupt(
                f"blob {digest} {trouble}: publish the adapter again, or restore it from a backup; if another server "
                "has it, give this one the same --data-dir or --blob-url"
            )
        async with self._staging.open() as staged:
            await self._remote.fetch(digest, staged)
            if staged.manifest().digest != digest:
                raise BlobCorrupt(f"blob {digest} {trouble}, and its remote copy is damaged: publish the adapter again")
            await in_thread(self._place, staged.path, digest)

    def _directory(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self._root / "sha256" / digest[:2] / digest

    def _place(self, staged: Path, digest: str) -> Path:
        """Rename a staging directory into place; an intact blob there stays, with its age renewed."""
        target = self._directory(digest)
        is_damaged = target.is_dir() and not self._verified.is_intact(target, digest)
        with space_needed(self._root):
            target.parent.mkdir(parents=True, exist_ok=True)
            for parent in (self._root, self._root / "sha256"):
                fsync_directory(parent)
            with self._locked():
                if is_damaged:
                    self._discard(target)
                if target.is_dir():
                    os.utime(target)
                    return target
                for name in names_in(staged):
                    (staged / name).chmod(0o444)
                if (staged / INITIAL).is_dir():
                    (staged / INITIAL).chmod(0o555)
                os.utime(staged)
                fsync_directory(staged)
                staged.rename(target)
                target.chmod(0o555)  # only now: renaming a directory needs write permission on it
            fsync_directory(target.parent)
        return target

    def _digests(self) -> set[str]:
        return {directory.name for directory in self._root.glob("sha256/*/*") if _DIGEST.fullmatch(directory.name)}

    def _owner(self, installation: str, known: Set[str]) -> str:
        """Return the id of the installation that owns the blobs; a store without a mark gets one if it can be ours."""
        mark = self._root / OWNER
        self._root.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not mark.exists():
                if not may_be_ours(self._digests(), known):
                    return UNKNOWN_OWNER
                mark.write_text(installation)
                fsync_directory(self._root)
            return mark.read_text().strip()

    def _sweep(self, rules: SweepRules, grace_s: float) -> list[str]:
        swept = []
        orphans = rules.orphans(self._digests(), str(self._root))
        stats = {digest: _put_at(self._directory(digest)) for digest in orphans}
        for digest in self._orphans.old(stats, rules.known, grace_s):
            directory = self._directory(digest)
            with self._locked():
                # Under the lock, because a ``put`` of the same bytes may just have renewed it.
                if directory.is_dir() and _put_at(directory) == stats[digest]:
                    self._discard(directory)
                    self._verified.forget(digest)
                    swept.append(digest)
        return swept

    def _discard(self, directory: Path) -> None:
        """Remove a blob: one rename hides it, then its files are deleted."""
        doomed = self._staging.directory / uuid.uuid4().hex
        doomed.parent.mkdir(parents=True, exist_ok=True)
        for part in (directory, directory / INITIAL):
            if part.is_dir():
                part.chmod(0o755)
        directory.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's lock, which excludes other threads and processes."""
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _put_at(directory: Path) -> int | None:
    """Return the time of a blob's last ``put``, as its directory has it; None if the blob vanishes meanwhile."""
    try:
        return directory.stat().st_mtime_ns
    except FileNotFoundError:
        return None
