"""Named points at which tests can have the process crash. In production ``CrashPoints(None)`` does nothing."""

import os
from dataclasses import dataclass

KILLED = 137
"""Exit status of a process killed by signal 9, as a shell reports it."""


@dataclass(frozen=True, slots=True)
class CrashPoints:
    """Ends the process without clean-up at the point named ``at``, as ``kill -9`` would."""

    at: str | None = None

    def point(self, name: str) -> None:
        if self.at == name:
            os._exit(KILLED)
