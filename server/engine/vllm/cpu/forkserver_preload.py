"""What the fork server imports when it starts, through the import of this module: all that vLLM's processes need.

No thread is started here, since threads do not survive a fork.
"""

import atexit
import gc
import os
import signal
from functools import partial

from server.engine.vllm import environment
from server.engine.vllm.cpu import fork_server

POLL_S = 0.5
"""How often the imports check that the parent process lives; after them the fork server watches it by itself."""


def _import() -> None:
    fork_server.OpenMPBinding.inherited = fork_server.OpenMPBinding.of_this_process()
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))  # imports need not crowd on the CPUs of the workers
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    on_alarm = signal.signal(signal.SIGALRM, partial(_exit_if_orphaned, os.getppid()))
    signal.setitimer(signal.ITIMER_REAL, POLL_S, POLL_S)
    environment.prepare()  # the logs of what is imported
    gc.disable()

    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401  it replaces parts of torch: after the core, as in a worker
    from vllm.utils.system_utils import set_process_title

    set_process_title("forkserver", prefix="patchbay")  # once before a fork: it uses the first environment's memory
    fork_server.never_restart()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGINT, on_interrupt)
    atexit.register(os._exit, 0)  # spares the interpreter's shutdown of six thousand modules, which logs warnings
    gc.freeze()  # pages that no collection touches stay shared by all forks
    gc.enable()


def _exit_if_orphaned(parent: int, *_: object) -> None:
    if os.getppid() != parent:
        os._exit(1)


_import()
