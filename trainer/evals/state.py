"""The states of a run of an eval, and the verbs that lead from one to another.

QUEUED, IN_PROGRESS → IN_PROGRESS  take: a process works on it, or another one does after its death
IN_PROGRESS → COMPLETED            complete: every item has results
IN_PROGRESS → FAILED               fail: its key was revoked
QUEUED, IN_PROGRESS → CANCELED     cancel: by the caller
"""

from enum import StrEnum
from typing import Final

from adapters.state_machine import StateMachine


class EvalRunState(StrEnum):
    """OpenAI's values of a run's ``status``."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELED = "canceled"
    FAILED = "failed"


class EvalRunVerb(StrEnum):
    """What moves a run to another state."""

    TAKE = "take"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


_OPEN = (EvalRunState.QUEUED, EvalRunState.IN_PROGRESS)

EVAL_RUN_STATES: Final = StateMachine(
    EvalRunState,
    {
        EvalRunVerb.TAKE: dict.fromkeys(_OPEN, EvalRunState.IN_PROGRESS),
        EvalRunVerb.COMPLETE: {EvalRunState.IN_PROGRESS: EvalRunState.COMPLETED},
        EvalRunVerb.FAIL: {EvalRunState.IN_PROGRESS: EvalRunState.FAILED},
        EvalRunVerb.CANCEL: dict.fromkeys(_OPEN, EvalRunState.CANCELED),
    },
)
UNFINISHED: Final = frozenset(EvalRunState) - EVAL_RUN_STATES.terminal
