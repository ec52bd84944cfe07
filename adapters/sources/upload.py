"""An upload: named streams of bytes, such as the parts of a multipart request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from adapters.errors import AdapterRefused, Fault
from adapters.lora import initial_adapter
from adapters.sources.source import is_pickled_weights, pickle_fault
from adapters.storage.manifest import FILES, INITIAL, TOKENIZER_FILES
from adapters.storage.mistaken_files import START_BYTES, archive_kind
from adapters.storage.staging import Staged

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Files in any order, with the paths that they had where they come from.

    The adapter is that of the folder that lies above every other one with an adapter, as a trainer's output lies above
    its checkpoints. What a trainer leaves beside and below it is left out, optimizers and other pickles unread.
    """

    parts: AsyncIterator[tuple[str, AsyncIterator[bytes]]]

    async def fetch(self, staged: Staged) -> str:
        upload = _Upload(staged)
        async for name, chunks in self.parts:
            await upload.take(name, chunks)
        upload.finish()
        return "upload"


@dataclass(slots=True)
class _Upload:
    """What was received of an upload so far. One adapter at most is on the disk, the uppermost that was received."""

    staged: Staged
    folder: PurePosixPath | None = None
    """That of the adapter on the disk."""
    others: set[PurePosixPath] = field(default_factory=set)
    """Further folders with files of an adapter."""
    archives: dict[str, str] = field(default_factory=dict)
    """Names of archives, with the kind of each."""

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        path = PurePosixPath(name.replace("\\", "/"))
        if is_pickled_weights(name):
            raise AdapterRefused([pickle_fault(name)])
        if path.name in FILES:
            await self._take_file(path, chunks)
        elif path.name in TOKENIZER_FILES:
            await self.staged.keep_tokenizer_file(str(path), chunks)
        else:
            self.staged.left_out.append(name)
            if (kind := archive_kind(await _start(chunks))) is not None:
                self.archives[name] = kind

    async def _take_file(self, path: PurePosixPath, chunks: AsyncIterator[bytes]) -> None:
        folder, file = path.parent, path.name
        if folder.name in initial_adapter.FOLDERS:
            folder, file = folder.parent, f"{INITIAL}/{file}"
        if self.folder is None or folder in self.folder.parents:
            if self.folder is not None:
                self.others.add(self.folder)
                await self.staged.clear()
            self.folder = folder
        if folder == self.folder:
            await self.staged.write(file, chunks)
        else:
            self.others.add(folder)

    def finish(self) -> None:
        """Check that one adapter was sent, and keep the files of its tokenizer alone.

        Raises:
            AdapterRefused: none was sent, but an archive; or several in folders beside each other.
        """
        if self.folder is None:
            needed = f"{' and '.join(FILES)} themselves, each a part of the form: unpack it"
            if faults := [Fault(_shown(name), kind, needed) for name, kind in self.archives.items()][:_SHOWN]:
                raise AdapterRefused(faults)
            return
        if any(self.folder not in folder.parents for folder in self.others):
            names = sorted(map(str, {self.folder, *self.others}))
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found = f"adapters in several folders: {', '.join(map(_shown, names[:_SHOWN]))}{more}"
            raise AdapterRefused([Fault("upload", found, "the files of one of them")])
        self.staged.left_out[:0] = [f"{folder}/" for folder in sorted(self.others)]
        files = ((PurePosixPath(path), content) for path, content in self.staged.tokenizer_files.items())
        self.staged.tokenizer_files = {path.name: content for path, content in files if path.parent == self.folder}


async def _start(chunks: AsyncIterator[bytes]) -> bytes:
    start = b""
    async for chunk in chunks:
        start += chunk
        if len(start) >= START_BYTES:
            break
    return start


def _shown(name: str) -> str:
    return ascii(name)[1:-1][:128]
