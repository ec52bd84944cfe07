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


class JobState(StrEnum):
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


TRANSITIONS: Final[Mapping[Verb, Mapping[JobState, JobState]]] = MappingProxyType(
    {
        Verb.ADMIT: {JobState.VALIDATING_FILES: JobState.QUEUED},
        Verb.REJECT: {JobState.VALIDATING_FILES: JobState.FAILED},
        Verb.PAUSE: {JobState.QUEUED: JobState.PAUSED, JobState.RUNNING: JobState.PAUSING},
        Verb.RESUME: {JobState.PAUSED: JobState.QUEUED, JobState.PAUSING: JobState.RUNNING},
        Verb.CANCEL: {
            JobState.VALIDATING_FILES: JobState.CANCELLED,
            JobState.QUEUED: JobState.CANCELLED,
            JobState.RUNNING: JobState.CANCELLED,
            JobState.PAUSING: JobState.CANCELLED,
            JobState.PAUSED: JobState.CANCELLED,
        },
        Verb.TAKE: {JobState.QUEUED: JobState.RUNNING},
        Verb.RELEASE: {JobState.RUNNING: JobState.QUEUED, JobState.PAUSING: JobState.PAUSED},
        Verb.SUCCEED: {JobState.RUNNING: JobState.SUCCEEDED, JobState.PAUSING: JobState.SUCCEEDED},
        Verb.FAIL: {JobState.RUNNING: JobState.FAILED, JobState.PAUSING: JobState.FAILED},
    }
)
"""For each verb, the states it may begin in and where it leads from each."""

TERMINAL: Final = frozenset(JobState) - {state for edges in TRANSITIONS.values() for state in edges}
"""Nothing leads out of these."""

HELD: Final = frozenset(TRANSITIONS[Verb.RELEASE])
"""A worker has the job, and a lease on it."""


def verbs_from(state: JobState) -> list[Verb]:
    """Return what may be done to a job in ``state``."""
    return [verb for verb, edges in TRANSITIONS.items() if state in edges]
