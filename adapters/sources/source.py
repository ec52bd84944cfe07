"""What every source can do."""

from __future__ import annotations

from typing import Protocol

from adapters.storage.staging import Staged


class Source(Protocol):
    """Somewhere an adapter can be fetched from."""

    async def fetch(self, staged: Staged) -> str:
        """Write the adapter's files into ``staged`` and return the origin that is stored with the version.

        Raises:
            SourceError: the branch of it says why the bytes could not be had.
            AdapterRefused: what is there is no adapter.
            StorageFull: the disk has no space left.
        """
        ...
