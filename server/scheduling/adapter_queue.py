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
model's queue is always OPEN: it needs no slot. A deferred turn joins the queue of its adapter when it is taken.
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


@dataclass(slots=True, eq=False)
class Turn:
    """The right of one generation to be in the engine, or its wait for that right."""

    queue: AdapterQueue
    prompt_tokens: int
    sequences: int
    charge: int
    """Tokens that its queue is charged for it; an estimate until the turn is over."""
    requested_at: float
    taken_at: float
    state: TurnState = TurnState.WAITING
    is_unread: bool = False
    """True from taking it until the engine has read its prompt."""
    is_deferred: bool = False
    """True for a line of a batch: it waits while any other turn waits."""
    waiter: asyncio.Future[None] | None = None
    generation: Generation | None = None
    """Source of the tokens that its queue is charged when the turn is over."""

    @property
    def waited_s(self) -> float:
        """Seconds from the request to the take."""
        return self.taken_at - self.requested_at


@dataclass(slots=True, eq=False)
class AdapterQueue:
    """The turns of one version (``key``: its id with the engine), or of the base model (None)."""

    key: int | None
    waiting: deque[Turn]
    state: QueueState
    taken: int = 0
    balance: int = 0
    """Tokens it may still take in this round; below zero: it has taken more than its share."""
    since: float = 0.0
    """Time at which it was queued; once it has a slot, at which its first turn in that slot was taken."""
    has_started: bool = False
    """True once a turn was taken in its present slot."""

    def become(self, state: QueueState) -> None:
        """Move to ``state``, as ``QUEUE_STATES`` allows."""
        self.state = QUEUE_STATES.move(self.state, state)
