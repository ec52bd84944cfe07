"""How a process of vLLM runs: a terminal's Ctrl-C does not reach it, and no traceback is printed when it fails.

The server ends its engine itself, after the requests in flight. vLLM has logged a failure before it raises it.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import SpawnContext, SpawnProcess


def run_quietly(run: Callable[[], None]) -> None:
    """Call ``run`` in a session of its own; an exception becomes exit status 1."""
    with suppress(OSError):  # it leads a session already
        os.setsid()
    try:
        run()
    except Exception:  # noqa: BLE001  vLLM has logged it
        raise SystemExit(1) from None


class EngineProcess(SpawnProcess):
    """A spawned engine core."""

    def run(self) -> None:
        run_quietly(super().run)


class EngineContext(SpawnContext):
    """Starts engine cores as new interpreters, as vLLM does."""

    Process = EngineProcess
