"""An adapter that a client uploads, file by file."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapters.storage.staging import Staged


class UploadSource:
    """Named streams of bytes in any order, such as the parts of a multipart request."""

    def __init__(self, parts: AsyncIterator[tuple[str, AsyncIterator[bytes]]]) -> None:
        self._parts = parts

    async def fetch(self, staged: Staged) -> str:
        """Write every part; see ``Source.fetch``."""
        async for name, chunks in self._parts:
            await staged.write(name, chunks)
        return "upload"
