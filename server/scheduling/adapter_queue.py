"""The turn of a generation, and the queue of the adapter (or of the base model) in which it waits.

A turn:

    WAITING → TAKEN         take: the engine has a place
    WAITING, TAKEN → OVER   end: the caller left or was refused; the generation ended

A queue:

    QUEUED → OPEN      open: a slot is free
    OPEN → CLOSING     close: it kept its slot for long while another queue has none
    CLOSING → OPEN     reopen: no other queue needs the slot any more
    CLOSING → QUEUED   leave: its last taken turn ended, and more are waiting

Queues without a slot get one in the order of their arrival. Turns of an OPEN queue are taken as the engine has places,
those of a CLOSING one are not, so that its slot falls free soon. A queue whose last turn is over is dropped. The base
model's queue is always OPEN: it needs no slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from adapters.state_machine import StateMachine
from server.engine.protocol import Generation


class TurnState(StrEnum):
    """The states of a turn."""

    WAITING = "waiting"
    TAKEN = "taken"
    OVER = "over"


class QueueState(StrEnum):
    """The states of an adapter's queue: CLOSING and OPEN ones have a slot of the engine."""

    QUEUED = "queued"
    OPEN = "open"
    CLOSING = "closing"


TURN_STATES = StateMachine(
    TurnState,
    {
        "take": {TurnState.WAITING: TurnState.TAKEN},
        "end": dict.fromkeys((TurnState.WAITING, TurnState.TAKEN), TurnState.OVER),
    },
)
QUEUE_STATES = StateMachine(
    QueueState,
    {
        "open": {QueueState.QUEUED: QueueState.OPEN},
        "close": {QueueState.OPEN: QueueState.CLOSING},
        "reopen": {QueueState.CLOSING: QueueState.OPEN},
        "leave": {QueueState.CLOSING: QueueState.QUEUED},
    },
)


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
        self.state = TurnState.WAITING
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
    state: QueueState
    taken: int = 0
    balance: int = 0
    """Tokens it may still have before others are dealt theirs; below zero: it had more."""
    since: float = 0.0
    """When it was queued; once it has a slot, when its first turn there was taken."""
    has_begun: bool = False
    """A turn was taken since it got its slot."""

    def become(self, state: QueueState) -> None:
        """Move to ``state``, as ``QUEUE_STATES`` allows."""
        self.state = QUEUE_STATES.move(self.state, state)
