"""A turn, and the line it waits in: one line for each version that generations want, and one for the base model.

A turn                                         A line
               taken                                       a slot is free
    WAITING ───────────▶ TAKEN                   QUEUED ────────────────────▶ OPEN
       │                   │                       ▲                          │  ▲
       │ left, refused     │ ended                 │ its last turn ended,     │  │ nobody waits for
       └──────▶ OVER ◀─────┘                       │ more are waiting         ▼  │ its slot any more
                                                   └─────────────────────── CLOSING

QUEUED   has no slot: its turns wait, lines are served first come, first served
OPEN     has a slot: its turns are taken as the engine has places
CLOSING  kept its slot for long while another line is queued: no turn of it is taken, so that its last one ends soon
A line whose last turn is over is forgotten. The base model's line is always open: it needs no slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from server.engine.protocol import Generation


class QueueState(StrEnum):
    """Where a turn stands."""

    WAITING = "waiting"
    TAKEN = "taken"
    OVER = "over"


class Turn:
    """The right of one generation to be with the engine, or its wait for that."""

    __slots__ = (
        "asked_at",
        "charged",
        "generation",
        "is_unread",
        "line",
        "prompt_tokens",
        "sequences",
        "state",
        "taken_at",
        "waiter",
    )

    def __init__(self, line: AdapterQueue, *, prompt_tokens: int, sequences: int, charged: int, now: float) -> None:
        self.line = line
        self.prompt_tokens = prompt_tokens
        self.sequences = sequences
        self.charged = charged
        """Tokens that its line pays for it: an estimate, until it is over."""
        self.state = QueueState.WAITING
        self.asked_at = now
        self.taken_at = now
        self.is_unread = False
        """Taken, and the engine has not read its prompt yet."""
        self.waiter: asyncio.Future[None] | None = None
        self.generation: Generation | None = None
        """What its line pays for when it is over."""

    @property
    def waited_s(self) -> float:
        """How long it waited to be taken."""
        return self.taken_at - self.asked_at


@dataclass(slots=True, eq=False)
class AdapterQueue:
    """The turns of one version (``key``: its id with the engine), or of the base model (None)."""

    key: int | None
    waiting: deque[Turn]
    taken: int = 0
    balance: int = 0
    """Tokens it may still have before others are dealt theirs; below zero: it had more."""
    since: float = 0.0
    """When it was queued; once it has a slot, when its first turn there was taken."""
    has_begun: bool = False
    """A turn was taken since it got its slot."""
    is_closing: bool = False
