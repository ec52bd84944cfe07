"""What a child process writes on stderr."""

from __future__ import annotations

import os
import tempfile
from typing import Final

_TAIL_BYTES: Final = 2000


class ChildLog:
    """A temporary file for the stderr of a child process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``close``

    def fileno(self) -> int:
        """Return the file's descriptor, for the child."""
        return self._file.fileno()

    def tail(self) -> str:
        """Return the end of what the child wrote; empty once closed."""
        if self._file.closed:
            return ""
        size = os.fstat(self.fileno()).st_size  # and pread: the child moves the position
        return os.pread(self.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def clear_log() -> None:
    """Empty the log of the calling child process, so that work without end does not fill the disk."""
    os.lseek(2, 0, os.SEEK_SET)
    os.ftruncate(2, 0)
