"""The interface of every source, and the simplest one: an upload."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from adapters.errors import AdapterRefused, Fault
from adapters.storage.manifest import EVERY_FILE, TOKENIZER_FILES, WEIGHTS_FILE
from adapters.storage.staging import Staged

_SHOWN_NAME: Final = 128
PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


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
    """Named streams of bytes in any order, such as the parts of a multipart request.

    A trainer leaves more beside an adapter: those files are left out, optimizers and other pickles unread.
    """

    parts: AsyncIterator[tuple[str, AsyncIterator[bytes]]]

    async def fetch(self, staged: Staged) -> str:
        async for name, chunks in self.parts:
            if name in EVERY_FILE:
                await staged.write(name, chunks)
                continue
            if is_pickled_weights(name):
                raise AdapterRefused([pickle_fault(name)])
            if name in TOKENIZER_FILES:
                await staged.keep_tokenizer_file(name, chunks)
            else:
                staged.left_out.append(name)
        return "upload"


def is_pickled_weights(name: str) -> bool:
    """Whether the file ``name`` is a pickle that holds an adapter's weights."""
    path = PurePosixPath(name.lower())
    return path.suffix in PICKLE_SUFFIXES and path.stem == PurePosixPath(WEIGHTS_FILE).stem


def pickle_fault(name: str) -> Fault:
    """Return the fault of a pickle called ``name``."""
    needed = "safetensors: pickle can execute code; save with safe_serialization=True"
    return Fault(ascii(name[:_SHOWN_NAME])[1:-1], "a pickle, left unread", needed)
