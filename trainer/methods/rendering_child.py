"""The child process that renders a run's files, started before this process imports its tensor libraries."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event as Flag
from typing import Final

from adapters.processes.child import python_command, set_up_child
from adapters.processes.limits import ResourceLimits
from trainer.child import training_environment
from trainer.endings import Stopped
from trainer.run_directory import Exit, RunDirectory

_POLL_S: Final = 0.1
_DAY_S: Final = 86400
LIMITS: Final = ResourceLimits(memory_bytes=16 << 30, cpu_s=_DAY_S, wall_s=_DAY_S)
"""Rows of any length are rendered beside the engine. Its parent ends a check that takes too long."""
_QUIET: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # a row that the template refuses is a fault in the report
    "PYTHONWARNINGS": "ignore",  # vLLM's request models warn each time
}


@contextmanager
def rendering(run: RunDirectory) -> Iterator[Callable[[Flag], None]]:
    """Start the child, unless the run's files are rendered already; yield a function that waits for its end.

    That function takes the flag that stops the run. It raises Stopped if the flag is set first, OSError if the disk is
    full, and CalledProcessError if the child dies. The child is killed at the end of the block.
    """
    if run.is_rendered or run.result() is not None:
        yield lambda _: None
        return
    command = python_command("trainer.rendering", str(run.path))
    with subprocess.Popen(  # noqa: S603 - no word of it is anybody else's
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for this process
        preexec_fn=partial(set_up_child, limits=LIMITS),
        env=training_environment(run) | _QUIET,
    ) as child:

        def wait(stop: Flag) -> None:
            while child.poll() is None:
                if stop.wait(_POLL_S):
                    raise Stopped("stopped while the files were rendered")
            if child.returncode == Exit.NO_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if child.returncode != 0:
                raise subprocess.CalledProcessError(child.returncode, command)

        try:
            yield wait
        finally:
            child.kill()
