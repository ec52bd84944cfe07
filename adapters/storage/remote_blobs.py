"""The durable copy of the blobs in an object store: ``<url>/sha256/<first 2>/<digest>/<file>``."""

from collections.abc import Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import obstore

from adapters.errors import BlobCorrupt, BlobStoreUnavailable
from adapters.storage.manifest import EVERY_FILE, FILES, INITIAL_FILES, names_in
from adapters.storage.object_store import has_object, open_store, read_object, store_errors
from adapters.storage.staging import Staged

SCHEMES: Final = ("s3", "gs", "az", "file", "memory")


class RemoteBlobs:
    """Blobs under a URL of one of ``SCHEMES``; BlobStoreUnavailable for others, and if the store does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_store(url, SCHEMES, BlobStoreUnavailable)

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
                    raise BlobCorrupt(
                        f"{name} of blob {digest} is neither local nor in {self.url}: publish it again"
                    ) from None

    async def sweep(self, living: Set[str], grace_s: float) -> list[str]:
        """Delete blobs that are not ``living`` and were put more than ``grace_s`` ago; return their digests.

        The store has no lock to share with a ``put`` of the same bytes. So an orphan's age is read again just before
        it is deleted. A blob put between that read and the deletion, some milliseconds, loses its new copy too and has
        only the local one until it is published again.
        """
        put_at: dict[str, datetime] = {}
        with store_errors(self.url, BlobStoreUnavailable):
            async for batch in obstore.list(self._store, "sha256"):
                for found in batch:
                    digest = found["path"].split("/")[2]
                    put_at[digest] = max(found["last_modified"], put_at.get(digest, found["last_modified"]))
            horizon = datetime.now(UTC) - timedelta(seconds=grace_s)
            orphans = [digest for digest, at in put_at.items() if digest not in living and at <= horizon]
            return [digest for digest in orphans if await self._remove(digest, horizon)]

    async def _remove(self, digest: str, horizon: datetime) -> bool:
        """Delete a blob unless a file of it was put after ``horizon``; return whether it was deleted."""
        keys = [_key(digest, name) for name in EVERY_FILE]
        for key in keys:
            with suppress(FileNotFoundError):  # an interrupted put or sweep, or another process sweeps too
                if (await obstore.head_async(self._store, key))["last_modified"] > horizon:
                    return False
        for key in keys:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)
        return True


def _key(digest: str, name: str) -> str:
    return f"sha256/{digest[:2]}/{digest}/{name}"
