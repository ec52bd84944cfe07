"""One child at a time in a run directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from typing import Final

from trainer.methods.endings import Stopped
from trainer.run_directory import RunDirectory

POLL_S: Final = 0.05


@contextmanager
def alone(run: RunDirectory, stop: Flag) -> Iterator[None]:
    """Hold the lock of ``run`` during the block; waits until no other child holds it.

    An orphan of a killed worker may still be dying when the next worker starts a child. The kernel
    releases the lock with the process, however it ends.

    Raises:
        Stopped: ``stop`` was set first.
        OSError: there is no such directory.
    """
    with (run.path / "lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(POLL_S):
                    raise Stopped("stopped while another process worked on the run") from None
        yield
