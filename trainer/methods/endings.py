"""How a run may end before its last step. The child turns each into its exit status.

RunEnded
├── BaseRefused     the base's directory lacks what training needs
├── DataRefused     the rows cannot be trained on; carries every reason
├── NotFinite       loss or gradient is no longer a finite number
└── Stopped         SIGTERM; a checkpoint was written
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from trainer.data.faults import LineFault
from trainer.run_directory import Exit


class RunEnded(Exception):
    """Root of the tree; the message is what the job's owner reads."""

    status: ClassVar[Exit]
    level: ClassVar[Literal["info", "error"]] = "error"

    @property
    def data(self) -> Mapping[str, Any]:
        """Extra keys of the event that tells of it."""
        return {}


class BaseRefused(RunEnded):
    """The base's directory lacks what training needs."""

    status = Exit.REFUSED


class DataRefused(RunEnded):
    """The rows cannot be trained on; ``faults`` has every reason."""

    status = Exit.REFUSED
    TOLD: ClassVar[int] = 100

    def __init__(self, file: str, faults: Sequence[LineFault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{file} cannot be trained on: {self.faults[0]} ({len(self.faults)} faults in all)")

    @property
    def data(self) -> Mapping[str, Any]:
        """``faults``: the first ``TOLD`` of them."""
        return {"faults": [fault.to_json() for fault in self.faults[: self.TOLD]]}


class NotFinite(RunEnded):
    """Loss or gradient is no longer a finite number."""

    status = Exit.NOT_FINITE

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} is not a finite number at step {step}; checkpoints before it are good. "
            "Try a lower learning_rate_multiplier, or look for rows unlike the others"
        )


class Stopped(RunEnded):
    """SIGTERM; a checkpoint was written."""

    status = Exit.STOPPED
    level = "info"
