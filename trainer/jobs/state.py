"""The states of a job, and the verbs that lead from one to another.

VALIDATING_FILES → QUEUED      admit: its files are accepted
VALIDATING_FILES → FAILED      reject: its files are refused
QUEUED → RUNNING               take: a worker starts an attempt
RUNNING → QUEUED               release: the attempt ended before the job did
PAUSING → PAUSED               release: after a checkpoint, or because the attempt died
QUEUED → PAUSED                pause
RUNNING → PAUSING              pause: its worker saves a checkpoint first
PAUSED → QUEUED                resume
PAUSING → RUNNING              resume: before its worker has released it
RUNNING, PAUSING → SUCCEEDED   succeed
RUNNING, PAUSING → FAILED      fail
VALIDATING_FILES, QUEUED, RUNNING, PAUSING, PAUSED → CANCELLED   cancel

A worker holds RUNNING and PAUSING jobs under a lease. It releases one when it shuts down, and when the attempt died
and another may follow; if none may, the job fails. The worker of a cancelled job stops at once, without a checkpoint.
"""

from enum import StrEnum
from typing import Final

from adapters.state_machine import StateMachine


class JobState(StrEnum):
    """OpenAI's values of a job's ``status``."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verb(StrEnum):
    """What moves a job to another state."""

    ADMIT = "admit"
    REJECT = "reject"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    TAKE = "take"
    RELEASE = "release"
    SUCCEED = "succeed"
    FAIL = "fail"


_HELD = (JobState.RUNNING, JobState.PAUSING)
UNFINISHED: Final = (JobState.VALIDATING_FILES, JobState.QUEUED, *_HELD, JobState.PAUSED)

JOB_STATES: Final = StateMachine(
    JobState,
    {
        Verb.ADMIT: {JobState.VALIDATING_FILES: JobState.QUEUED},
        Verb.REJECT: {JobState.VALIDATING_FILES: JobState.FAILED},
        Verb.PAUSE: {JobState.QUEUED: JobState.PAUSED, JobState.RUNNING: JobState.PAUSING},
        Verb.RESUME: {JobState.PAUSED: JobState.QUEUED, JobState.PAUSING: JobState.RUNNING},
        Verb.CANCEL: dict.fromkeys(UNFINISHED, JobState.CANCELLED),
        Verb.TAKE: {JobState.QUEUED: JobState.RUNNING},
        Verb.RELEASE: {JobState.RUNNING: JobState.QUEUED, JobState.PAUSING: JobState.PAUSED},
        Verb.SUCCEED: dict.fromkeys(_HELD, JobState.SUCCEEDED),
        Verb.FAIL: dict.fromkeys(_HELD, JobState.FAILED),
    },
)

HELD: Final = frozenset(_HELD)
"""The states in which a worker has a lease on the job."""
