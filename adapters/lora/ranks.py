"""The ranks that an engine's slots can have, and the fault of a rank above them."""

from adapters.errors import Fault

SERVABLE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's ``--max-lora-rank`` takes; a test compares them with vLLM's own."""


def server_option(rank: int) -> str | None:
    """Return the way to serve ``rank`` for a message, with the smallest slots that fit; None: vLLM has none."""
    fitting = next((allowed for allowed in SERVABLE_RANKS if allowed >= rank), None)
    return None if fitting is None else f"start the server with --max-lora-rank {fitting}"


def rank_fault(where: str, rank: int, max_rank: int, otherwise: str, *, found: str = "") -> Fault:
    """Return the fault of a ``rank`` above the server's ``max_rank``.

    ``otherwise``: the way out that leaves the server as it is. ``found``: more about the rank.
    """
    option = server_option(rank) or f"use a rank of at most {SERVABLE_RANKS[-1]}, which is vLLM's own bound"
    return Fault(where, f"rank {rank}{found}", f"at most {max_rank}: {option}, or {otherwise}")
