"""Named places where a crash can be ordered, so that tests kill the process exactly there.

A production process carries ``CrashPoints(None)``, which does nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

KILLED = 137
"""Exit status of a process killed by signal 9, as a shell reports it."""


@dataclass(frozen=True, slots=True)
class CrashPoints:
    """Dies without clean-up when the named point ``at`` is passed, as ``kill -9`` would there."""

    at: str | None = None

    def point(self, name: str) -> None:
        """Pass the point ``name``; the process ends here if it was ordered to."""
        if self.at == name:
            os._exit(KILLED)
