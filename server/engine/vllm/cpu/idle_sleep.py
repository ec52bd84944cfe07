"""The engine core sleeps while its worker computes: on the CPU build it shares a core with whoever talks to clients.

vLLM's core spins between two looks at the worker's answer (``SpinCondition``), handing its CPU on with ``sched_yield``.
Linux may give it right back for seconds (seen on 6.18): meanwhile the front, the clients beside it and the threads that
prepare adapters stand still, and requests reach the engine one at a time. A nap's end comes within a tenth of a
millisecond; a step takes two and more. The worker spins on: it has CPUs of its own, and so keeps them from a training
job between two steps. A core that has accelerators beside it has cores to spare, and is left alone.

Loaded through ``vllm.general_plugins``.
"""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from typing import Final

NAP_S: Final = 50e-6
CORE: Final = "EngineCore"
"""What vLLM's name for the process of a core begins with."""


def install() -> None:
    """Let this process nap where it would spin, if it is a core of the CPU build. vLLM calls it in all of its own."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and multiprocessing.current_process().name.startswith(CORE):
        from vllm.distributed.device_communicators import shm_broadcast

        shm_broadcast.sched_yield = partial(time.sleep, NAP_S)
