"""Directories for files on their way to publication: ``<root>/staging/<uuid>/``, on the file system of the blobs.

The kernel knows which are in use: the process that fills one holds a lock on it, which ends with the process.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from adapters.errors import AdapterRefused, Fault, SourceTooLarge
from adapters.storage.disk import FileEntry, in_thread, space_needed
from adapters.storage.manifest import EVERY_FILE, FILES, INITIAL, INITIAL_FILES, Manifest

MAX_TOKENIZER_FILE_BYTES: Final = 4 << 20
MAX_TOKENIZER_BYTES: Final = 16 << 20
_SHOWN_NAMES: Final = 10
_SHOWN_NAME: Final = 80


class Staged:
    """The files of one adapter, in the directory ``path``. Made by ``Staging.open``."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: dict[str, FileEntry] = {}
        self.tokenizer_files: dict[str, bytes] = {}
        """Content of those of ``TOKENIZER_FILES`` that lay beside the adapter."""
        self.left_out: list[str] = []
        """Names of files that were sent with the adapter and are no part of it."""

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

    async def clear(self) -> None:
        """Remove the files that ``write`` wrote."""
        await in_thread(self._empty)
        self._entries.clear()
        self._num_bytes = 0

    def _empty(self) -> None:
        """Remove what is in the directory; the lock is on the directory itself."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    async def keep_tokenizer_file(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Keep one of ``TOKENIZER_FILES`` in memory for a comparison.

        One of more than 4 MiB is passed over, and so is what makes all of them more than 16 MiB.
        """
        content = b""
        kept = sum(map(len, self.tokenizer_files.values()))
        async for chunk in chunks:
            content += chunk
            if len(content) > min(MAX_TOKENIZER_FILE_BYTES, MAX_TOKENIZER_BYTES - kept):
                return
        self.tokenizer_files[name] = content

    def notes(self) -> list[str]:
        """Return the note for a report that files were left out, if any were."""
        names = [ascii(name)[1:-1][:_SHOWN_NAME] for name in self.left_out[:_SHOWN_NAMES]]
        more = f" and {len(self.left_out) - _SHOWN_NAMES} more" if len(self.left_out) > _SHOWN_NAMES else ""
        return [f"files that are no part of an adapter were left out: {', '.join(names)}{more}"] if names else []

    def manifest(self) -> Manifest:
        """Return the manifest of the written files; AdapterRefused if one is missing."""
        needed = EVERY_FILE if any(name in self._entries for name in INITIAL_FILES) else FILES
        missing = [name for name in needed if name not in self._entries]
        if missing:
            found = f"only {', '.join([*self._entries, *self.left_out][:_SHOWN_NAMES])}" if self.left_out else "nothing"
            raise AdapterRefused([Fault(name, ascii(found)[1:-1], "the file") for name in missing])
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
        path, lock = self.directory / uuid.uuid4().hex, _DirectoryLock()
        try:
            with space_needed(path):
                await in_thread(lock.make, path)
            yield Staged(path, self._max_bytes)
        finally:
            await in_thread(shutil.rmtree, path, ignore_errors=True)
            lock.release()

    def sweep(self) -> None:
        """Remove the directories that no process is filling: a killed one left them, or a removal of a blob."""
        for path in self.directory.glob("[!.]*"):
            lock = _DirectoryLock()
            if lock.take(path):
                shutil.rmtree(path, ignore_errors=True)
                lock.release()


class _DirectoryLock:
    """A lock on a directory, which moves with it and ends with this process."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def make(self, path: Path) -> None:
        """Make the directory ``path``, which appears with the lock taken."""
        hidden = path.with_name(f".{path.name}")
        hidden.mkdir(parents=True, mode=0o700)
        self.take(hidden)
        hidden.rename(path)

    def take(self, directory: Path) -> bool:
        """Take the lock; False if another one is held, or there is no such directory."""
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
