"""The durable copy of the blobs in an object store: ``<url>/sha256/<first 2>/<digest>/<file>``."""

from collections.abc import Set
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError

from adapters.errors import BlobCorrupt, BlobStoreUnavailable
from adapters.storage.manifest import EVERY_FILE, FILES, INITIAL_FILES, names_in
from adapters.storage.object_store import has_object, open_store, read_object, store_errors
from adapters.storage.staging import Staged
from adapters.storage.sweep_rules import OWNER, UNKNOWN_OWNER, BlobAges, SweepRules, may_be_ours

log = structlog.get_logger(__name__)

SCHEMES: Final = ("s3", "gs", "az", "file", "memory")


class RemoteBlobs:
    """Blobs under a URL of one of ``SCHEMES``; BlobStoreUnavailable for others, and if the store does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_store(url, SCHEMES, BlobStoreUnavailable)
        self._orphans = BlobAges()

    async def put(self, digest: str, directory: Path) -> None:
        """Copy the files of ``directory``; on return the store has acknowledged them.

        Existing files are overwritten: that repairs a damaged copy and renews its age for ``sweep``.
        """
        with store_errors(self.url, BlobStoreUnavailable):
            for name in names_in(directory):
                await obstore.put_async(self._store, _key(digest, name), directory / name)

    async def fetch(self, digest: str, staged: Staged) -> None:
        """Copy the blob's files into ``staged``, BlobCorrupt if one is missing; the caller checks their bytes."""
        with store_errors(self.url, BlobStoreUnavailable):
            has_initial = await has_object(self._store, _key(digest, INITIAL_FILES[0]))
            for name in EVERY_FILE if has_initial else FILES:
                try:
                    await staged.write(name, read_object(self._store, _key(digest, name)))
                except FileNotFoundError:
                    log.error("a blob is lost", digest=digest, file=name, url=self.url)  # the URL is not for callers
                    raise BlobCorrupt(
                        f"{name} of blob {digest} is neither local nor in the remote store: publish it again"
                    ) from None

    async def has(self, digest: str) -> bool:
        with store_errors(self.url, BlobStoreUnavailable):
            return await has_object(self._store, _key(digest, FILES[0]))

    async def owner(self, installation: str, known: Set[str]) -> str:
        """Return the id of the installation that owns the blobs; a store without a mark gets one if it can be ours."""
        with store_errors(self.url, BlobStoreUnavailable):
            if not await has_object(self._store, OWNER):
                if not may_be_ours(set(await self._put_at()), known):
                    return UNKNOWN_OWNER
                with suppress(AlreadyExistsError):  # another server of this or another installation was first
                    await obstore.put_async(self._store, OWNER, installation.encode(), mode="create")
            found = await obstore.get_async(self._store, OWNER)
            return bytes(await found.bytes_async()).decode().strip()

    async def _put_at(self) -> dict[str, datetime]:
        """Return the time at which each blob was put, by digest."""
        put_at: dict[str, datetime] = {}
        async for batch in obstore.list(self._store, "sha256"):
            for found in batch:
                digest = found["path"].split("/")[2]
                put_at[digest] = max(found["last_modified"], put_at.get(digest, found["last_modified"]))
        return put_at

    async def sweep(self, rules: SweepRules, grace_s: float) -> list[str]:
        """Delete the orphans by ``rules`` that sweeps have seen for ``grace_s`` seconds; return their digests.

        The store has no lock to share with a ``put`` of the same bytes. So the time of an orphan is read again just
        before it is deleted. A blob put between that read and the deletion, some milliseconds, loses its new copy too
        and has only the local one until it is published again.
        """
        with store_errors(self.url, BlobStoreUnavailable):
            put_at = await self._put_at()
            orphans = {digest: put_at[digest] for digest in rules.orphans(put_at.keys(), self.url)}
            old = self._orphans.old(orphans, rules.known, grace_s)
            return [digest for digest in old if await self._remove(digest, orphans[digest])]

    async def _remove(self, digest: str, put_at: datetime) -> bool:
        """Delete a blob unless a file of it was put after ``put_at``; return whether it was deleted."""
        keys = [_key(digest, name) for name in EVERY_FILE]
        for key in keys:
            with suppress(FileNotFoundError):  # an interrupted put or sweep, or another process sweeps too
                if (await obstore.head_async(self._store, key))["last_modified"] > put_at:
                    return False
        for key in keys:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)
        return True


def _key(digest: str, name: str) -> str:
    return f"sha256/{digest[:2]}/{digest}/{name}"
