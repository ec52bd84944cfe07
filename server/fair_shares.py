"""How a capacity is shared: a holder may take more of it while it holds less than ``SHARE`` times what is free.

These are the dynamic thresholds by which network switches share their buffers. One holder alone stops at three quarters
of the capacity, two at three sevenths each; there is always something left for the first request of another holder.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

SHARE: Final = 3
"""How much a holder may have for each unit that is free."""

Holder = TypeVar("Holder", bound=Hashable)


def has_share_left(held: int, free: int, *, wanted: int = 1) -> bool:
    """Whether a holder of ``held`` units of a capacity may take ``wanted`` of the ``free`` ones; any unit."""
    return held + wanted - 1 < SHARE * (free - wanted + 1)


class Holdings(Generic[Holder]):
    """How many units each holder has of a capacity. Holders of none take no memory."""

    def __init__(self) -> None:
        self._held: Counter[Holder] = Counter()

    def __getitem__(self, holder: Holder) -> int:
        return self._held[holder]

    def add(self, holder: Holder, units: int) -> None:
        """Change what ``holder`` has by ``units``, which may be negative."""
        self._held[holder] += units
        if not self._held[holder]:
            del self._held[holder]
