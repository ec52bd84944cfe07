"""Disk work: off the event loop, durable files and names, a full disk as StorageFull."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Final, ParamSpec, TypeVar

from adapters.errors import StorageFull

P = ParamSpec("P")
T = TypeVar("T")

BUFFER_BYTES: Final = 1 << 20
"""Bytes are passed to a thread in pieces of at least this size."""

RESERVE_BYTES: Final = 64 << 20
"""Bytes of a disk that uploads leave free: the database lies there too, and must be written when they are refused."""
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


WRITERS: Final = ThreadPoolExecutor(8, "write")
"""Threads that write what is sent: slow disks and many uploads must not take those that loads and the database need."""


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` in a thread. A cancelled caller waits for its end too: what follows may delete its files."""
    return await _in_pool(None, partial(work, *args, **kwargs))


async def _in_pool(pool: Executor | None, work: Callable[[], T]) -> T:
    running = asyncio.get_running_loop().run_in_executor(pool, copy_context().run, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def is_no_space(error: BaseException, path: Path) -> bool:
    """Whether ``error`` comes of a full disk under ``path``, of which libraries tell in many ways, or not at all."""
    if getattr(error, "errno", None) in NO_SPACE or any(os.strerror(number) in str(error) for number in NO_SPACE):
        return True
    with suppress(OSError):
        disk = os.statvfs(path)
        return disk.f_bavail * disk.f_frsize < RESERVE_BYTES
    return False


@contextmanager
def space_needed(path: Path) -> Iterator[None]:
    """Turn "no space", "quota" and "file too large" into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise StorageFull(
            f"no space to store what was sent under {path} ({os.strerror(error.errno)}): free some space, "
            "delete versions that are not needed, or give the server a larger --data-dir"
        ) from error


def fsync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file's bytes: sha256 in hex digits, size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Hash the file at ``path``; OSError where it cannot be read."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(sha256, file.tell())

    @classmethod
    async def write(cls, path: Path, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write ``chunks`` durably as the new file ``path``, and its directory if need be.

        Raises:
            FileExistsError: there is such a file, or a symbolic link.
            StorageFull: the disk has less than ``RESERVE_BYTES`` left. A part of the file may be left.
        """
        sha256, buffer = hashlib.sha256(), bytearray()
        # The stack closes the file also when the caller is cancelled while it is being opened.
        with space_needed(path.parent), ExitStack() as opened:
            file = await _in_pool(WRITERS, partial(_open_new, path, opened))
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= BUFFER_BYTES:
                    await _in_pool(WRITERS, partial(_append, file, sha256, bytes(buffer)))
                    buffer.clear()
            await _in_pool(WRITERS, partial(_append, file, sha256, bytes(buffer)))
            await _in_pool(WRITERS, partial(_sync, file, path))
            return cls(sha256.hexdigest(), file.tell())


def _open_new(path: Path, opened: ExitStack) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return opened.enter_context(open(path, "xb", opener=partial(os.open, mode=0o600)))


def append(file: IO[bytes], piece: bytes) -> None:
    """Write ``piece``; OSError "no space" where the disk has less than ``RESERVE_BYTES`` left."""
    disk = os.fstatvfs(file.fileno())
    if disk.f_bavail * disk.f_frsize < RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file.write(piece)


def _append(file: BinaryIO, sha256: hashlib._Hash, piece: bytes) -> None:
    append(file, piece)
    sha256.update(piece)


def _sync(file: BinaryIO, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    for directory in path.parents[:2]:  # the nearer one may be new
        fsync_directory(directory)
