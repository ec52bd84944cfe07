"""What a worker asks of the server whose base model it trains on."""

from __future__ import annotations

from typing import Protocol


class Publishing(Protocol):
    """Makes versions of what runs export. Asked twice for the same, it answers the same: one version results.

    While the server cannot publish (its engine is being rebuilt, it restarts) it waits: hours of training must not
    fail for that. Every method raises PatchbayError when what was exported is refused.
    """

    async def checkpoint(self, job_id: str, step: int) -> str:
        """Publish the job's checkpoint of ``step`` and return its fine-tuned name."""

    async def result(self, job_id: str) -> str:
        """Make the job's best checkpoint its result, resident and under ``stable``; return its fine-tuned name."""
