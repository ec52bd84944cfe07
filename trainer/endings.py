"""How a run may end before its last step. The child turns each into its exit status.

RunEnded
├── SpecRefused, BaseRefused, WarmStartRefused, DataRefused, SamplingRefused
├── NotFinite
└── Stopped
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from adapters.errors import AdapterRefused
from trainer.data.faults import LineFault
from trainer.run_directory import Exit, RunEvent


class RunEnded(Exception):
    """Root of the tree; its message is that of the job's event, with ``data`` as extra keys."""

    status: ClassVar[Exit] = Exit.REFUSED
    level: ClassVar[Literal["info", "error"]] = "error"

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data

    def event(self) -> RunEvent:
        return RunEvent(message=str(self), data=self.data, level=self.level)


class SpecRefused(RunEnded):
    """The spec cannot be trained."""


class BaseRefused(RunEnded):
    """The base's directory lacks what training needs."""


class WarmStartRefused(RunEnded):
    """The adapter to go on from does not fit the base; ``data["faults"]`` has every reason."""

    def __init__(self, refused: AdapterRefused) -> None:
        super().__init__(f"the warm start cannot be gone on from: {refused.message}", **refused.details)


class DataRefused(RunEnded):
    """The rows cannot be trained on; ``faults`` has every reason, ``data["faults"]`` the first ``LISTED``."""

    LISTED: ClassVar[int] = 100

    def __init__(self, file: str, faults: Sequence[LineFault]) -> None:
        self.faults = tuple(faults)
        message = f"{file} cannot be trained on: {self.faults[0]} ({len(self.faults)} faults in all)"
        super().__init__(message, faults=[asdict(fault) for fault in self.faults[: self.LISTED]])


class SamplingRefused(RunEnded):
    """The server drew no answers of the policy, or the grader has no score for any of a step."""


class NotFinite(RunEnded):
    """Loss or gradient is no longer a finite number."""

    status = Exit.NOT_FINITE

    def __init__(self, quantity: str, step: int) -> None:
        super().__init__(
            f"{quantity} is not a finite number at step {step}; checkpoints before it are good. "
            "Try a lower learning_rate_multiplier, or look for rows unlike the others"
        )


class Stopped(RunEnded):
    """SIGTERM; the steps done are in a checkpoint."""

    status = Exit.STOPPED
    level = "info"
