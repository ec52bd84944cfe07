"""The states of a batch, and the verbs that lead from one to another.

VALIDATING → IN_PROGRESS              accept: every line of its file can be sent
VALIDATING → FAILED                   reject: its file has faults
IN_PROGRESS → FINALIZING              finish: every line has a result
FINALIZING → COMPLETED                complete: the result files are written
VALIDATING, IN_PROGRESS → CANCELLING  cancel: by the caller, or because its key was revoked
CANCELLING → CANCELLED                end: the result files are written
VALIDATING, IN_PROGRESS → EXPIRED     expire: its time is over; the result files are written
"""

from enum import StrEnum
from typing import Final

from adapters.state_machine import StateMachine


class BatchState(StrEnum):
    """OpenAI's values of a batch's ``status``."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class BatchVerb(StrEnum):
    """What moves a batch to another state."""

    ACCEPT = "accept"
    REJECT = "reject"
    FINISH = "finish"
    COMPLETE = "complete"
    CANCEL = "cancel"
    END = "end"
    EXPIRE = "expire"


_OPEN = (BatchState.VALIDATING, BatchState.IN_PROGRESS)

BATCH_STATES: Final = StateMachine(
    BatchState,
    {
        BatchVerb.ACCEPT: {BatchState.VALIDATING: BatchState.IN_PROGRESS},
        BatchVerb.REJECT: {BatchState.VALIDATING: BatchState.FAILED},
        BatchVerb.FINISH: {BatchState.IN_PROGRESS: BatchState.FINALIZING},
        BatchVerb.COMPLETE: {BatchState.FINALIZING: BatchState.COMPLETED},
        BatchVerb.CANCEL: dict.fromkeys(_OPEN, BatchState.CANCELLING),
        BatchVerb.END: {BatchState.CANCELLING: BatchState.CANCELLED},
        BatchVerb.EXPIRE: dict.fromkeys(_OPEN, BatchState.EXPIRED),
    },
)
