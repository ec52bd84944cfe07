"""How a run may end before its last step. The child turns each into its exit status.

RunEnded
├── SpecRefused         the spec cannot be trained
├── BaseRefused         the base's directory lacks what training needs
├── WarmStartRefused    the adapter to go on from does not fit the base; carries every reason
├── DataRefused         the rows cannot be trained on; carries every reason
├── NotFinite           loss or gradient is no longer a finite number
└── Stopped             SIGTERM; the steps done are in a checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from adapters.errors import AdapterRefused
from trainer.data.faults import LineFault
from trainer.run_directory import Exit


class RunEnded(Exception):
    """Root of the tree; its message is an event of the job."""

    status: ClassVar[Exit]
    level: ClassVar[Literal["info", "error"]] = "error"

    @property
    def data(self) -> Mapping[str, Any]:
        """Extra keys of the event."""
        return {}


class SpecRefused(RunEnded):
    """The spec cannot be trained."""

    status = Exit.REFUSED


class BaseRefused(RunEnded):
    """The base's directory lacks what training needs."""

    status = Exit.REFUSED


class WarmStartRefused(RunEnded):
    """The adapter to go on from does not fit the base; carries every reason."""

    status = Exit.REFUSED

    def __init__(self, refused: AdapterRefused) -> None:
        self.refused = refused
        super().__init__(f"the warm start cannot be gone on from: {refused.message}")

    @property
    def data(self) -> Mapping[str, Any]:
        """``faults``: every fault of the adapter."""
        return self.refused.details


class DataRefused(RunEnded):
    """The rows cannot be trained on; ``faults`` has every reason."""

    status = Exit.REFUSED
    LISTED: ClassVar[int] = 100

    def __init__(self, file: str, faults: Sequence[LineFault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{file} cannot be trained on: {self.faults[0]} ({len(self.faults)} faults in all)")

    @property
    def data(self) -> Mapping[str, Any]:
        """``faults``: the first ``LISTED`` of them."""
        return {"faults": [fault.to_json() for fault in self.faults[: self.LISTED]]}


class NotFinite(RunEnded):
    """Loss or gradient is no longer a finite number."""

    status = Exit.NOT_FINITE

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"{what} is not a finite number at step {step}; checkpoints before it are good. "
            "Try a lower learning_rate_multiplier, or look for rows unlike the others"
        )


class Stopped(RunEnded):
    """SIGTERM; the steps done are in a checkpoint."""

    status = Exit.STOPPED
    level = "info"
