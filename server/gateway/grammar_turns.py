"""Turns in which the engine compiles grammars of structured output that it has not compiled before.

The engine compiles in a few threads, in the order of arrival, and a large grammar takes seconds. So only some new
grammars are in the engine at once, and projects take turns: one that sends many delays the others by a few of them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import ReferenceType, ref

from adapters.fair_places import FairPlaces
from server.engine.protocol import Engine

AT_ONCE: Final = 4 * max(1, ((os.cpu_count() or 1) + 1) // 2)
"""Four for each thread in which vLLM compiles, so that none of them waits for the next request."""
MAX_KNOWN: Final = 1024
"""Grammars remembered, those used last; vLLM's own cache has 512 MiB (``VLLM_XGRAMMAR_CACHE_MB``)."""


@dataclass(slots=True)
class GrammarTurn:
    """The turn of one request with a new grammar."""

    end: Callable[[], None]
    """Give the place back; a second call has no effect."""
    _know: Callable[[], None]

    def compiled(self) -> None:
        """Give the place back, because the engine has the grammar now."""
        self._know()
        self.end()


_NOT_NEEDED: Final = GrammarTurn(lambda: None, lambda: None)


@dataclass(eq=False)
class GrammarTurns:
    """The places for new grammars. ``at_once``: requests with a new grammar in the engine."""

    at_once: int = AT_ONCE
    _known: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)
    _engine: ReferenceType[Engine] | None = field(default=None, init=False)
    """The engine that knows them."""

    def __post_init__(self) -> None:
        self._places = FairPlaces(self.at_once)

    async def turn(self, project: str, grammar: str | None, engine: Engine) -> GrammarTurn:
        """Wait for the turn of ``project``, unless ``engine`` knows the ``grammar``, or there is none (None)."""
        if grammar is None:
            return _NOT_NEEDED
        if self._engine is None or self._engine() is not engine:
            self._engine = ref(engine)
            self._known.clear()
        if grammar in self._known:
            self._known.move_to_end(grammar)
            return _NOT_NEEDED
        end = await self._places.take(project)

        def know() -> None:
            if self._engine is not None and self._engine() is engine:
                self._known[grammar] = None
                if len(self._known) > MAX_KNOWN:
                    self._known.popitem(last=False)

        return GrammarTurn(end, know)
