"""The states of a job, and every way from one to another.

                  (create)
                     │
                     ▼      reject
             validating_files ─────────────────────────────► failed
                     │ admit                                    ▲
                     ▼             take                         │ fail
      ┌──────────► queued ─────────────────────► running ───────┤
      │              │ ▲           release       │  │  ▲        │
      │ resume       │ └─────────────────────────┘  │  │        │
      │              │ pause                  pause │  │ resume │
      │              ▼             release          ▼  │        │
      └─────────── paused ◄────────────────────── pausing ──────┤
                                                                │ succeed
      each of these five ── cancel ──► cancelled                ▼
                                                            succeeded

``running`` and ``pausing`` jobs are held by a worker under a lease. ``release`` gives a job back: by the worker's own
will, or because the attempt died and there may be another; if there may be none, the job fails. A worker that is
asked to pause saves a checkpoint first; one whose job was cancelled stops at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a job is. OpenAI's words for ``status``."""

    VALIDATING_FILES = "validating_files"
    """Created; its files are being checked."""
    QUEUED = "queued"
    """Waits for a worker."""
    RUNNING = "running"
    """A worker has it."""
    PAUSING = "pausing"
    """A worker has it, and is to save a checkpoint and give it back."""
    PAUSED = "paused"
    """Waits for somebody to resume it."""
    SUCCEEDED = "succeeded"
    """Its adapter is published."""
    FAILED = "failed"
    """It ended without an adapter; ``error`` says why."""
    CANCELLED = "cancelled"
    """Somebody ended it; its checkpoints stay."""


class Verb(StrEnum):
    """What may be done to a job."""

    ADMIT = "admit"
    """The files are in order."""
    REJECT = "reject"
    """The files are not."""
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    TAKE = "take"
    """A worker begins an attempt."""
    RELEASE = "release"
    """The attempt ended before the job did."""
    SUCCEED = "succeed"
    FAIL = "fail"


TRANSITIONS: Final[Mapping[Verb, Mapping[State, State]]] = MappingProxyType(
    {
        Verb.ADMIT: {State.VALIDATING_FILES: State.QUEUED},
        Verb.REJECT: {State.VALIDATING_FILES: State.FAILED},
        Verb.PAUSE: {State.QUEUED: State.PAUSED, State.RUNNING: State.PAUSING},
        Verb.RESUME: {State.PAUSED: State.QUEUED, State.PAUSING: State.RUNNING},
        Verb.CANCEL: {
            State.VALIDATING_FILES: State.CANCELLED,
            State.QUEUED: State.CANCELLED,
            State.RUNNING: State.CANCELLED,
            State.PAUSING: State.CANCELLED,
            State.PAUSED: State.CANCELLED,
        },
        Verb.TAKE: {State.QUEUED: State.RUNNING},
        Verb.RELEASE: {State.RUNNING: State.QUEUED, State.PAUSING: State.PAUSED},
        Verb.SUCCEED: {State.RUNNING: State.SUCCEEDED, State.PAUSING: State.SUCCEEDED},
        Verb.FAIL: {State.RUNNING: State.FAILED, State.PAUSING: State.FAILED},
    }
)
"""For each verb, the states it may begin in and where it leads from each."""

TERMINAL: Final = frozenset(State) - {state for edges in TRANSITIONS.values() for state in edges}
"""Nothing leads out of these."""

HELD: Final = frozenset(TRANSITIONS[Verb.RELEASE])
"""A worker has the job, and a lease on it."""


def verbs_from(state: State) -> list[Verb]:
    """Return what may be done to a job in ``state``."""
    return [verb for verb, edges in TRANSITIONS.items() if state in edges]
