"""What was sent and how each request ended, and the writes that the server acknowledged.

A request ends in one of three ways that have a reason: it is answered, it is refused with an error body that names a
code, or its connection breaks because this program killed a process while the request was open. Any other end is a
loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

ANSWERED: Final = "answered"
CUT: Final = "cut by a kill"
LOST: Final = "LOST"
MOST_SHOWN: Final = 20

Key = tuple[str, ...]
"""What a write made, for example ``("version", "sql", "3")``."""


@dataclass
class Account:
    """Counts of requests by kind and end, and what acknowledged writes made.

    Attributes:
        sent: requests by kind.
        ends: ends of requests by kind.
        losses: descriptions of the requests that ended without a reason.
        present: what must exist, with its content (a digest, the target of an alias, or an empty text).
        absent: what must not exist.
    """

    sent: Counter[str] = field(default_factory=Counter)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    present: dict[Key, str] = field(default_factory=dict)
    absent: set[Key] = field(default_factory=set)

    def begin(self, kind: str) -> None:
        """Count a request that is sent now."""
        self.sent[kind] += 1

    def end(self, kind: str, reason: str) -> None:
        """Count the end of a request of ``kind``: ``answered``, ``cut by a kill`` or ``refused CODE``."""
        self.ends.setdefault(kind, Counter())[reason] += 1

    def lose(self, kind: str, description: str) -> None:
        """Count a request that ended without a reason."""
        self.end(kind, LOST)
        self.losses.append(f"{kind}: {description}")

    def acknowledge(self, key: Key, content: str = "") -> None:
        """Note that a write was acknowledged: ``key`` exists from now on, with ``content``."""
        self.absent.discard(key)
        self.present[key] = content

    def acknowledge_removal(self, key: Key) -> None:
        """Note that a deletion was acknowledged: ``key`` must not exist from now on."""
        self.present.pop(key, None)
        self.absent.add(key)

    def doubt(self, key: Key) -> None:
        """Note that a write to ``key`` was cut: both its state before and its state after are right."""
        self.present.pop(key, None)
        self.absent.discard(key)

    def faults(self, found: dict[Key, str]) -> list[str]:
        """Return the reasons why the account does not balance, given all that the server has at the end."""
        return [*self._unbalanced(), *self.losses, *self._missing(found)]

    def _unbalanced(self) -> Iterator[str]:
        for kind, sent in self.sent.items():
            if (ended := self.ends.get(kind, Counter()).total()) != sent:
                yield f"{kind}: {sent} requests were sent, and {ended} ended"

    def _missing(self, found: dict[Key, str]) -> Iterator[str]:
        for key, content in self.present.items():
            if key not in found:
                yield f"{' '.join(key)} was acknowledged and is missing"
            elif content and found[key] != content:
                yield f"{' '.join(key)} is {found[key]}, and {content} was acknowledged"
        for key in sorted(self.absent & found.keys()):
            yield f"{' '.join(key)} was deleted and is back"

    def lines(self) -> Iterator[str]:
        """Return the account as lines of text: each kind of request with its ends."""
        for kind in sorted(self.sent):
            ends = ", ".join(f"{count} {reason}" for reason, count in sorted(self.ends.get(kind, Counter()).items()))
            yield f"{kind:18} {self.sent[kind]:6} sent = {ends}"
        yield f"{'acknowledged':18} {len(self.present):6} that exist, {len(self.absent)} that are deleted"


def shortened(faults: Iterable[str]) -> list[str]:
    """Return at most twenty faults, and how many more there are."""
    listed = list(faults)
    more = len(listed) - MOST_SHOWN
    return [*listed[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
