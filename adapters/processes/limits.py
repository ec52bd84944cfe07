"""Limits on the memory and the time of one piece of work."""

import resource
import signal
from dataclasses import dataclass


class LimitExceeded(Exception):
    """A child process reached one of its limits; ``str`` names the limit, such as "30 seconds"."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What one piece of work may take.

    ``memory_bytes`` bounds what the process allocates (RLIMIT_DATA): torch and PEFT take some 700 MiB, and there are
    several copies of the base's largest weight at eight bytes per number. ``cpu_s`` counts seconds of one core.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float

    def apply(self) -> None:
        """Limit memory and CPU time of the calling process; its parent enforces ``wall_s``."""
        # Not RLIMIT_AS: torch reserves address space by the gigabyte that it never touches.
        resource.setrlimit(resource.RLIMIT_DATA, (self.memory_bytes, self.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (self.cpu_s, self.cpu_s + 1))

    def check_status(self, status: int) -> None:
        """Raise LimitExceeded if ``status`` (negative: a signal, as in subprocess) shows that time was exceeded."""
        if status == -signal.SIGXCPU:
            raise LimitExceeded(f"{self.cpu_s} seconds of a core")
        if status == -signal.SIGALRM:
            raise LimitExceeded(f"{self.wall_s:g} seconds")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is a failed allocation; torch raises RuntimeError where it allocates or maps a file."""
    message = str(error)
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in message or "Cannot allocate memory" in message
