"""vLLM's processes end when ours does, however it ended.

A process killed with -9 cannot clean up after itself, and vLLM's engine core does not watch its parent: it would stay
behind with the accelerator's memory, and the restarted server would find none. Loaded through ``vllm.general_plugins``.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

EXIT_ORPHANED = 1


def install() -> None:
    """Watch the parent of this process, if ``multiprocessing`` started it. Called by vLLM in each of its processes."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _end_with.__name__ for thread in threading.enumerate()):
        return
    threading.Thread(target=_end_with, args=(parent.sentinel,), name=_end_with.__name__, daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(EXIT_ORPHANED)  # the workers below watch this process themselves
