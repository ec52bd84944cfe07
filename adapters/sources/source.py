"""The interface of every source, and the simplest one: an upload."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Named streams of bytes in any order, such as the parts of a multipart request."""

    parts: AsyncIterator[tuple[str, AsyncIterator[bytes]]]

    async def fetch(self, staged: Staged) -> str:
        async for name, chunks in self.parts:
            await staged.write(name, chunks)
        return "upload"
