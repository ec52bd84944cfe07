"""What the engine was doing each time it died. What it was doing at two deaths is not tried a third time.

What an engine did to its end between two deaths is not suspected: a popular request is in flight at most deaths.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import ReferenceType, ref

from server.engine.protocol import Engine

DEATHS: Final = 2
"""Deaths after which a suspect is guilty. OpenAI's client repeats a request twice: with three, one call could do it."""
WINDOW_S: Final = 600.0
"""Seconds for which a suspect is remembered after the last death."""
MOST: Final = 4096
"""Suspects remembered; the oldest is forgotten first."""


@dataclass(slots=True)
class _Suspicion:
    deaths: int
    engine: ReferenceType[Engine]
    at: float


class DeathSuspects:
    """The suspects of one process, each a text that names what the engine was doing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspicions: OrderedDict[str, _Suspicion] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anything is suspected; costs next to nothing where nothing is."""
        while self._suspicions and self._is_forgotten(next(iter(self._suspicions.values()))):
            self._suspicions.popitem(last=False)
        return bool(self._suspicions)

    def note(self, suspect: str, engine: Engine) -> bool:
        """Record that ``engine`` died while it did ``suspect``, once for each engine; return whether it is guilty."""
        known = self._suspicions.pop(suspect, None)
        if known is None or self._is_forgotten(known):
            known = _Suspicion(0, ref(engine), self._clock())
        if known.engine() is not engine or not known.deaths:
            known.deaths += 1
        known.engine, known.at = ref(engine), self._clock()
        self._suspicions[suspect] = known
        if len(self._suspicions) > MOST:
            self._suspicions.popitem(last=False)
        return known.deaths >= DEATHS

    def acquit(self, suspect: str) -> None:
        """Record that an engine has done ``suspect`` to its end: it was not the cause of earlier deaths."""
        self._suspicions.pop(suspect, None)

    def is_guilty(self, suspect: str) -> bool:
        """Whether engines died twice while they did ``suspect``, the last time within ``WINDOW_S``."""
        known = self._suspicions.get(suspect)
        return known is not None and not self._is_forgotten(known) and known.deaths >= DEATHS

    def _is_forgotten(self, suspicion: _Suspicion) -> bool:
        return suspicion.at < self._clock() - WINDOW_S
