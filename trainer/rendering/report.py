"""What rendering found in a run's files: the content of ``rendering.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RenderingReport:
    """Fields that the rendering did not come to are None or 0."""

    reason: str | None = None
    """Why nothing was rendered, unless a file has faults."""
    renderer_sha256: str | None = None
    most_tokens: int = 0
    """Tokens that a row may have: as many as the server takes, or the spec's ``max_length``."""
    training: Mapping[str, Any] | None = None
    """The ``FileReport`` of the file, and under ``tokens`` its ``Tally``."""
    validation: Mapping[str, Any] | None = None

    @property
    def files(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(file for file in (self.training, self.validation) if file is not None)

    @property
    def ok(self) -> bool:
        """Whether all rows were rendered."""
        return self.reason is None and bool(self.files) and all(file["ok"] for file in self.files)
