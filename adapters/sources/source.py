"""The interface of every source."""

from __future__ import annotations

from typing import Protocol

from adapters.storage.staging import Staged


class Source(Protocol):
    """A place that an adapter is fetched from."""

    async def fetch(self, staged: Staged) -> str:
        """Write the adapter's files into ``staged`` and return the origin that is stored with the version.

        Raises:
            SourceError: the bytes could not be fetched; the subclass says why.
            AdapterRefused: the files there are not an adapter.
            StorageFull: the disk has no space left.
        """
        ...
