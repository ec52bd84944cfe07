"""What the fork server imports, by importing this file: all that vLLM's processes need, and no thread is started."""

from __future__ import annotations

import atexit
import gc
import os
import signal
from functools import partial

from server.engine.vllm.cpu import fork_server
from server.engine.vllm.orphans import EXIT_ORPHANED

PULSE_S = 0.5
"""How often the life of whoever started us is felt while we import; after that the fork server feels it itself."""


def _preload() -> None:
    template = fork_server.Template.of_this_process()
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))  # imports need not crowd on the CPUs of the workers
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    on_alarm = signal.signal(signal.SIGALRM, partial(_end_with, os.getppid()))
    signal.setitimer(signal.ITIMER_REAL, PULSE_S, PULSE_S)
    gc.disable()

    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401  it replaces parts of torch: after the core, as in a worker
    from vllm.utils.system_utils import set_process_title
    from vllm.v1.executor import multiproc_executor

    set_process_title("forkserver", prefix="patchbay")  # once before a fork: it uses the first environment's memory
    fork_server.keep()
    multiproc_executor.get_mp_context = lambda: fork_server.WorkerContext(template)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGINT, on_interrupt)
    atexit.register(os._exit, 0)  # its end concerns nobody; taking six thousand modules apart complains at length
    gc.freeze()  # what no collection touches stays shared by all
    gc.enable()


def _end_with(parent: int, *_: object) -> None:
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


_preload()
