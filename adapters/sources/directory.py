"""An adapter in a directory on the server."""

import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from adapters.errors import SourceError, SourceForbidden, SourceNotFound
from adapters.lora import initial_adapter
from adapters.storage.disk import BUFFER_BYTES, in_thread
from adapters.storage.manifest import FILES, INITIAL, TOKENIZER_FILES
from adapters.storage.staging import Staged

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """``path``; it and its files must lie in one of the ``allowed`` directories once links are resolved.

    ``origin`` replaces ``file:///…`` as the origin of files that came from elsewhere, such as a training job's export.
    """

    path: Path
    allowed: Sequence[Path]
    origin: str | None = None

    async def fetch(self, staged: Staged) -> str:
        directory = await in_thread(self._checked, self.path)
        for name in FILES:
            await self._copy(directory, name, staged)
        first = await in_thread(initial_adapter.folder_in, directory)
        if first is not None and await in_thread(initial_adapter.is_needed, staged.path):
            for name in FILES:
                await self._copy(directory, f"{first}/{name}", staged, to=f"{INITIAL}/{name}")
        for name in TOKENIZER_FILES:
            with suppress(SourceError), ExitStack() as files:  # it is compared where it can be read
                file = await in_thread(self._opened, directory, name, files)
                await staged.keep_tokenizer_file(name, _chunks(file))
        return self.origin or directory.as_uri()

    async def _copy(self, directory: Path, name: str, staged: Staged, *, to: str | None = None) -> None:
        with ExitStack() as files:
            file = await in_thread(self._opened, directory, name, files)
            await staged.write(to or name, _chunks(file))

    def _checked(self, path: Path) -> Path:
        """Return ``path`` resolved. The error does not reveal whether a path outside the allowed directories exists."""
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(os.path.realpath(root)) for root in self.allowed):
            allowed = ", ".join(map(str, self.allowed)) or "none"
            raise SourceForbidden(
                f"the server may not read {path}: start it with --source-dir DIR to allow a directory "
                f"(allowed now: {allowed}), or upload the files"
            )
        return resolved

    def _opened(self, directory: Path, name: str, files: ExitStack) -> BinaryIO:
        try:
            # Non-blocking, so that a named pipe cannot block the thread.
            descriptor = os.open(self._checked(directory / name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            if not directory.is_dir():
                raise SourceNotFound(f"there is no directory {directory}") from None
            raise SourceNotFound(f"{directory} has no {name}; it holds {_listing(directory)}") from None
        except PermissionError:
            raise SourceForbidden(f"the server's user may not read {directory / name}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SourceForbidden(f"{directory / name} is not a regular file")
        return files.enter_context(os.fdopen(descriptor, "rb", buffering=0))


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await in_thread(file.read, BUFFER_BYTES):
        yield chunk


def _listing(directory: Path) -> str:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return f"files that cannot be listed ({error.strerror})"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
