"""Where arriving bytes wait to be published: ``<root>/staging/<uuid>/``, on the file system of the blobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from adapters.disk import fsync_directory, room_needed
from adapters.errors import AdapterRefused, Fault, SourceTooLarge
from adapters.manifest import FILES, FileEntry, Manifest

BUFFER_BYTES: Final = 1 << 20
"""Bytes are handed to a thread in pieces of at least this size."""


class Staged:
    """One arriving adapter. Made by ``Staging.open``; ``path`` holds what was written so far."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: dict[str, FileEntry] = {}

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write one of the adapter's files, durably, hashing it on the way.

        Raises:
            AdapterRefused: ``name`` is not one of an adapter's files, or was written before.
            SourceTooLarge: all files together exceed the limit.
            StorageFull: the disk has no room.
        """
        if name not in FILES:
            raise AdapterRefused([Fault(name[:128], "a file of that name", f"only {' and '.join(FILES)}")])
        with room_needed(self.path):
            try:
                file = await asyncio.to_thread(_HashedFile, self.path / name)
            except FileExistsError:
                raise AdapterRefused([Fault(name, "it twice", "it once")]) from None
            try:
                buffer = bytearray()
                async for chunk in chunks:
                    self._admit(len(chunk))
                    buffer += chunk
                    if len(buffer) >= BUFFER_BYTES:
                        await asyncio.to_thread(file.append, bytes(buffer))
                        buffer.clear()
                await asyncio.to_thread(file.append, bytes(buffer))
                entry = await asyncio.to_thread(file.sync)
            finally:
                # In a thread because it waits for an append that a cancelled task left running.
                await asyncio.shield(asyncio.to_thread(file.close))
        self._entries[name] = entry
        return entry

    def manifest(self) -> Manifest:
        """Return what was written.

        Raises:
            AdapterRefused: a file is missing.
        """
        missing = [name for name in FILES if name not in self._entries]
        if missing:
            raise AdapterRefused([Fault(name, "nothing", "the file") for name in missing])
        return Manifest(dict(self._entries))

    def _admit(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            raise SourceTooLarge(
                f"the adapter has more than the {self._max_bytes} bytes this server accepts: publish a "
                "smaller one (a lower rank, bfloat16 weights), or raise the server's limit"
            )


class Staging:
    """Makes staging directories under ``root``; ``max_bytes`` limits each of them."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.directory = root / "staging"
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Staged]:
        """Make an empty staging directory; at the end of the block it is gone, published or not."""
        path = self.directory / uuid.uuid4().hex
        with room_needed(path):
            await asyncio.to_thread(path.mkdir, parents=True, mode=0o700)
        try:
            yield Staged(path, self._max_bytes)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, path, ignore_errors=True))


class _HashedFile:
    """A new file that knows the hash of its bytes. The lock keeps ``close`` behind a running ``append``."""

    def __init__(self, path: Path) -> None:
        self._directory = path.parent
        self._file = open(path, "xb", buffering=0, opener=_open_private)  # noqa: SIM115 - closed by ``close``
        self._hash = hashlib.sha256()
        self._size = 0
        self._lock = threading.Lock()

    def append(self, piece: bytes) -> None:
        with self._lock:
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._hash.update(piece)
            self._size += len(piece)

    def sync(self) -> FileEntry:
        with self._lock:
            os.fsync(self._file.fileno())
            fsync_directory(self._directory)
            return FileEntry(self._hash.hexdigest(), self._size)

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
