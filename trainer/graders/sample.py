"""What is graded: an answer of a model, and the item of the data set that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapters import strict_json


@dataclass(frozen=True)
class Sample:
    """One answer and its item, as templates see them: ``{{sample.…}}`` and ``{{item.…}}``."""

    output_text: str
    item: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def output_json(self) -> Any:
        """The value that the answer spells; read once, however often a template asks.

        Raises:
            ValueError: it spells none.
        """
        return strict_json.parse(self.output_text.encode())
