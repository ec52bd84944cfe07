"""The ranks that an engine's slots can have."""

from __future__ import annotations

SERVABLE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's ``--max-lora-rank`` takes; a test compares them with vLLM's own."""


def fitting_rank(rank: int) -> int | None:
    """Return the smallest servable rank that holds ``rank``; None where ``rank`` is above vLLM's bound."""
    return next((allowed for allowed in SERVABLE_RANKS if allowed >= rank), None)
