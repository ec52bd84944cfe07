"""Directories for files on their way to publication: ``<root>/staging/<uuid>/``, on the file system of the blobs."""

import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.errors import AdapterRefused, Fault, SourceTooLarge
from adapters.storage.disk import FileEntry, in_thread, space_needed
from adapters.storage.manifest import EVERY_FILE, FILES, INITIAL, INITIAL_FILES, Manifest


class Staged:
    """The files of one adapter, in the directory ``path``. Made by ``Staging.open``."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: dict[str, FileEntry] = {}

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write one of the adapter's files durably, and return its hash and size.

        Raises:
            AdapterRefused: ``name`` is not one of an adapter's files, or was written before.
            SourceTooLarge: all files together exceed the limit.
            StorageFull: the disk has no space left.
        """
        if name not in EVERY_FILE:
            needed = f"only {' and '.join(FILES)}, and the same two in {INITIAL}/ after a start such as PiSSA"
            raise AdapterRefused([Fault(name[:128], "a file of that name", needed)])
        try:
            entry = await FileEntry.write(self.path / name, self._limited(chunks))
        except FileExistsError:
            raise AdapterRefused([Fault(name, "two files of that name", "one")]) from None
        self._entries[name] = entry
        return entry

    def manifest(self) -> Manifest:
        """Return the manifest of the written files; AdapterRefused if one is missing."""
        needed = EVERY_FILE if any(name in self._entries for name in INITIAL_FILES) else FILES
        missing = [name for name in needed if name not in self._entries]
        if missing:
            raise AdapterRefused([Fault(name, "nothing", "the file") for name in missing])
        return Manifest(dict(self._entries))

    async def _limited(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._num_bytes += len(chunk)
            if self._num_bytes > self._max_bytes:
                raise SourceTooLarge(
                    f"the adapter has more than the {self._max_bytes} bytes this server accepts: publish a "
                    "smaller one (a lower rank, bfloat16 weights), or raise the server's limit"
                )
            yield chunk


class Staging:
    """Makes staging directories under ``root``; ``max_bytes`` limits each of them."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.directory = root / "staging"
        self._max_bytes = max_bytes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Staged]:
        """Make an empty staging directory, which is removed at the end of the block."""
        path = self.directory / uuid.uuid4().hex
        try:
            with space_needed(path):
                await in_thread(path.mkdir, parents=True, mode=0o700)
            yield Staged(path, self._max_bytes)
        finally:
            await in_thread(shutil.rmtree, path, ignore_errors=True)
