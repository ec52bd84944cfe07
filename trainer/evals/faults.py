"""The faults of a request that has many parts, refused together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from trainer.errors import InvalidField

MAX_LISTED: Final = 20


@dataclass(slots=True)
class Faults:
    """Collects faults; ``check`` refuses the request if there are any."""

    listed: list[InvalidField] = field(default_factory=list)
    count: int = 0

    def add(self, param: str, message: str) -> None:
        self._add(InvalidField(f"{param}: {message}", param=param))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the InvalidField that the block raises."""
        try:
            yield
        except InvalidField as fault:
            self._add(fault)

    def check(self) -> None:
        """Raise InvalidField with all messages, and the field of the first; without effect where there is no fault."""
        if not self.listed:
            return
        more = self.count - len(self.listed)
        messages = [fault.message for fault in self.listed] + ([f"{more} more faults are not listed"] if more else [])
        raise InvalidField("; ".join(messages), param=self.listed[0].param or "")

    def _add(self, fault: InvalidField) -> None:
        self.count += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(fault)
