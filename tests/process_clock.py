"""The monotonic clock by which sweeps measure how long they have seen an orphan."""

from __future__ import annotations


class ProcessClock:
    """Stands until a test advances it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
