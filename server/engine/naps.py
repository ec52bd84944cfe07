"""vLLM's processes sleep while they wait for each other: on the CPU build everything shares a few cores.

vLLM spins (``SpinCondition``): between two looks for word from the other process it hands its CPU on with
``sched_yield``, for up to a second after the last word. Linux may give the CPU right back (seen on 6.18): for seconds
the front, the clients beside it, a training job and the threads that prepare adapters stand still, and requests reach
the engine one at a time. A nap's end comes within a tenth of a millisecond; a step takes two and more. Beside
accelerators cores are many, and vLLM is left alone.

Loaded through ``vllm.general_plugins``.
"""

from __future__ import annotations

import time
from typing import Final

from vllm.distributed.device_communicators import shm_broadcast
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

SPIN_S: Final = 300e-6
"""Word that comes at once is not slept over."""
NAP_S: Final = 50e-6


class NappingCondition(SpinCondition):  # type: ignore[misc]  # vLLM comes without types here
    """Spins as vLLM's, but naps from ``SPIN_S`` on; after its second of silence it is vLLM's again."""

    _read = -1.0
    """When word was last read, as of the wait that goes on."""
    _naps_from = 0.0

    def wait(self, timeout_ms: int | None = None) -> None:
        """Wait a little for word, or for ``timeout_ms`` where there was none for long; called until there is."""
        now = time.monotonic()
        if self._read != self.last_read:
            self._read, self._naps_from = self.last_read, now + SPIN_S
        if self._naps_from <= now <= self.last_read + self.busy_loop_s:
            time.sleep(NAP_S)
        else:
            super().wait(timeout_ms)


def install() -> None:
    """Have queues between processes wait so, on the CPU platform. vLLM calls it in each of its processes."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        shm_broadcast.SpinCondition = NappingCondition
