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
    """Wait until no other child is at work in ``run``, and keep others waiting meanwhile.

    An orphan of a killed worker may still be dying when the next worker starts a child. The kernel gives the lock
    back with the process, however it ends.

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
                    raise Stopped("stopped while another process was at work on the run") from None
        yield
