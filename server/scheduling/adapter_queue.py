"""The turn of a generation, and the queue of the adapter (or of the base model) in which it waits.

A turn:

    WAITING → TAKEN         take: the engine has a place
    WAITING, TAKEN → OVER   end: the caller left or was refused; the generation ended

A queue:

    QUEUED → OPEN      open: a slot is free
    OPEN → CLOSING     close: it kept its slot for long while another queue has none
    CLOSING → OPEN     reopen: no other queue needs the slot any more
    CLOSING → QUEUED   leave: its last taken turn ended, and more are waiting

Queues without a slot get one in the order of their arrival, those of the project with the fewest slots first. Turns of
an OPEN queue are taken as the engine has places, those of a CLOSING one are not, so that its slot falls free soon. A
queue whose last turn is over is dropped. The base model's queue is always OPEN: it needs no slot. A deferred turn joins
the queue of its adapter when it is taken. Within a queue, each project has a line of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

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
class Project:
    """What a project has waiting, and what it has used."""

    name: str
    lines: set[ProjectLine] = field(default_factory=set)
    """Its lines, in the queues of all adapters."""
    waiting: int = 0
    used: float = 0.0
    """Tokens that it was charged since the first turn of all began to wait, or as many as another project by then."""
    chosen: int = 0
    """Turns of it that were given after a wait, because it had used the fewest tokens."""
    got_slot_at: float = -inf
    """Time at which one of its queues last got a slot for which it had waited."""


@dataclass(slots=True, eq=False)
class Turn:
    """The right of one generation to be in the engine, or its wait for that right."""

    line: ProjectLine
    prompt_tokens: int
    sequences: int
    charge: int
    """Tokens that its line and its project are charged for it; an estimate until the turn is over."""
    requested_at: float
    taken_at: float
    state: TurnState = TurnState.WAITING
    is_unread: bool = False
    """True from taking it until the engine has read its prompt."""
    is_deferred: bool = False
    """True for a line of a batch: it waits while any other turn waits."""
    waiter: asyncio.Future[None] | None = None
    generation: Generation | None = None
    """Source of the tokens that are charged when the turn is over."""

    @property
    def queue(self) -> AdapterQueue:
        """The queue of its adapter."""
        return self.line.queue

    @property
    def waited_s(self) -> float:
        """Seconds from the request to the take."""
        return self.taken_at - self.requested_at


@dataclass(slots=True, eq=False)
class ProjectLine:
    """The turns of one project in the queue of one adapter; ``waiting`` in order of arrival."""

    queue: AdapterQueue
    project: Project
    waiting: deque[Turn] = field(default_factory=deque)
    taken: int = 0
    balance: int = 0
    """Tokens it may still take in this round; below zero: it has taken more than its share."""

    def charge(self, tokens: int) -> None:
        """Count ``tokens`` as used; below zero: give them back."""
        self.balance -= tokens
        self.project.used += tokens


@dataclass(slots=True, eq=False)
class AdapterQueue:
    """The turns of one version (``key``: its id with the engine), or of the base model (None)."""

    key: int | None
    state: QueueState
    lines: dict[str, ProjectLine] = field(default_factory=dict)
    """The lines that have turns, by the name of their project, in order of arrival."""
    waiting: int = 0
    taken: int = 0
    since: float = 0.0
    """Time at which it was queued; once it has a slot, at which its first turn in that slot was taken."""
    has_started: bool = False
    """True once a turn was taken in its present slot."""

    @property
    def project(self) -> Project:
        """The project for which its slot counts: of those with turns in it, the one that came first."""
        return next(iter(self.lines.values())).project

    def become(self, state: QueueState) -> None:
        """Move to ``state``, as ``QUEUE_STATES`` allows."""
        self.state = QUEUE_STATES.move(self.state, state)
