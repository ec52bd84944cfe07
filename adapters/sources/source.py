"""The interface of every source, and the fault of a pickle, which none of them reads."""

from pathlib import PurePosixPath
from typing import Final, Protocol

from adapters.errors import Fault
from adapters.storage.manifest import WEIGHTS_FILE
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


def is_pickled_weights(name: str) -> bool:
    """Whether the file ``name`` is a pickle that holds an adapter's weights."""
    path = PurePosixPath(name.lower())
    return path.suffix in PICKLE_SUFFIXES and path.stem == PurePosixPath(WEIGHTS_FILE).stem


def pickle_fault(name: str) -> Fault:
    """Return the fault of a pickle called ``name``."""
    needed = "safetensors: pickle can execute code; save with safe_serialization=True"
    return Fault(ascii(name[:_SHOWN_NAME])[1:-1], "a pickle, left unread", needed)
