"""The turnstile: hands generations on to the engine, one line's after another's.

vLLM takes what fits, first come, first served, and skips a request whose adapter has no slot: two busy adapters that
overlap keep a third one out for ever. So no more is handed on than the engine can begin at once: generations of at most
``slots`` adapters, as many as a batch takes and a few more. The rest waits here, where

* a line that kept its slot for long makes way for the one that has waited longest;
* lines with slots get the same number of tokens, in turns (deficit round robin, paid afterwards).

A pure state machine on one thread; the time is read from ``clock``. ``adapter_queue`` draws the states.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from adapters.errors import PatchbayError
from server.engine.protocol import Batch, Demand, Generation
from server.scheduling.adapter_queue import TURN_STATES, AdapterQueue, QueueState, Turn, TurnState

DEAL: Final = 64
"""Tokens that a line is dealt at a time: about a short answer, so that who comes new waits for few others."""
FIRST_GUESS: Final = 64
"""Tokens that a generation is expected to write before any was seen."""
SMOOTHING: Final = 0.1
"""The weight of the newest generation in the averages."""
PATIENCE: Final = 4
"""After so many stays in which no queued line got a slot, one more line closes; one more each time that doubles."""
SWEEP_S: Final = 1.0
"""How often it is asked, while somebody waits, whether the engine is done with more than callers have read."""
LOOKAHEAD: Final = 8
"""One place in so many is given beyond a full batch: what the engine begins next lies with it already."""

_WAITING, _TAKEN, _OVER = TurnState  # Python 3.11 takes 0.1 µs to look a member up in its enum
_QUEUED, _OPEN, _CLOSING = QueueState


class FairScheduler:
    """The turns of one engine. It lives as long as its engine; the next one gets a new one.

    Args:
        slots: adapters that one batch can mix.
        batch: what the engine computes at once.
        turn_s: how long a line keeps its slot at least while another waits for one.
        clock: tells the time in seconds.
    """

    def __init__(self, slots: int, batch: Batch, *, turn_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._turn_s = turn_s
        self._clock = clock
        self._places = batch.sequences + max(1, batch.sequences // LOOKAHEAD)
        self._unread_limit = 2 * batch.tokens
        self._lines: dict[int | None, AdapterQueue] = {}
        self._queue: dict[int, AdapterQueue] = {}
        """Lines without a slot, in the order in which they came."""
        self._slotted: dict[int, AdapterQueue] = {}
        """Lines with a slot, in the order in which they got it."""
        self._closing: list[AdapterQueue] = []
        """Those of them that make way, in the order in which they were told to."""
        self._taken: set[Turn] = set()
        self._places_taken = 0
        self._unread = 0
        self._mean_s = 0.0
        self._mean_tokens = float(FIRST_GUESS)
        self._moved_at = 0.0
        """When a queued line got a slot for the last time."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._why_closed: PatchbayError | None = None
        self.waiting = 0
        """Turns that wait."""

    @property
    def active(self) -> int:
        """Adapters that have generations with the engine."""
        return len(self._slotted)

    def ask(self, key: int | None, demand: Demand) -> Turn:
        """Return a turn for a generation under ``key``; TAKEN at once where nobody has to wait.

        Raises:
            PatchbayError: why the turnstile was closed.
        """
        if self._why_closed is not None:
            raise self._why_closed
        line = self._lines.get(key)
        if line is None:
            state = _OPEN if key is None else _QUEUED
            line = self._lines[key] = AdapterQueue(key, deque(), state)
        expected = min(demand.most_tokens, int(self._mean_tokens) + 1)
        turn = Turn(
            line,
            prompt_tokens=demand.prompt_tokens,
            sequences=demand.sequences,
            charged=demand.prompt_tokens + demand.sequences * expected,
            now=self._clock(),
        )
        if not self.waiting and self._has_place and self._gets_slot(line):
            self._take(turn)
            return turn
        line.waiting.append(turn)
        self.waiting += 1
        if line.state is _QUEUED and key is not None and key not in self._queue:
            line.since = turn.asked_at
            self._queue[key] = line
        self._advance()
        return turn

    async def turn(self, key: int | None, demand: Demand) -> Turn:
        """Return a turn that is TAKEN, to be given back with ``end``; where nobody has to wait, at once.

        Raises:
            PatchbayError: why the turnstile was closed.
        """
        turn = self.ask(key, demand)
        if turn.state is _TAKEN:
            return turn
        loop = asyncio.get_running_loop()
        turn.waiter = loop.create_future()
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep_again)
        try:
            await turn.waiter
        except BaseException:
            self.end(turn)
            raise
        return turn

    def read(self, turn: Turn) -> None:
        """Note that the engine has read the prompt of ``turn``: it writes now."""
        self._was_read(turn)
        if self.waiting:
            self._advance()

    def end(self, turn: Turn) -> None:
        """End ``turn``, wherever it stands; its line pays for what its generation came to. Twice is harmless."""
        line = turn.line
        if turn.state is _WAITING:
            line.waiting.remove(turn)
            self.waiting -= 1
        elif turn.state is _TAKEN:
            line.taken -= 1
            self._taken.remove(turn)
            self._places_taken -= turn.sequences
            self._was_read(turn)
            if turn.generation is not None:
                self._learn(turn, turn.generation)
        else:
            return
        turn.state = TURN_STATES.move(turn.state, _OVER)
        self._settle(line)
        if self.waiting:
            self._advance()

    def sweep(self) -> None:
        """End the turns that the engine is done with: a caller who does not read on keeps nobody else waiting."""
        for turn in [turn for turn in self._taken if turn.generation is not None and turn.generation.is_over()]:
            turn.generation = None  # its numbers are not known before it was read: its line pays the estimate
            self.end(turn)

    def close(self, why: PatchbayError) -> None:
        """Refuse what waits, and whoever asks from now on, with ``why``."""
        self._why_closed = why
        if self._sweeping is not None:
            self._sweeping.cancel()
        for line in list(self._lines.values()):
            for turn in list(line.waiting):
                if turn.waiter is not None and not turn.waiter.done():
                    turn.waiter.set_exception(why)
                self.end(turn)

    # -- inside ------------------------------------------------------------------------------------------------

    def _sweep_again(self) -> None:
        self.sweep()
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again) if self.waiting else None

    def _was_read(self, turn: Turn) -> None:
        if turn.is_unread:
            turn.is_unread = False
            self._unread -= turn.prompt_tokens

    def _learn(self, turn: Turn, generation: Generation) -> None:
        """Settle the account of a turn that is over, and remember what such a one comes to."""
        turn.line.balance += turn.charged - generation.prompt_tokens - generation.generated_tokens
        written = generation.generated_tokens / turn.sequences
        self._mean_tokens += SMOOTHING * (written - self._mean_tokens)
        self._mean_s += (SMOOTHING if self._mean_s else 1.0) * (self._clock() - turn.taken_at - self._mean_s)

    def _settle(self, line: AdapterQueue) -> None:
        """Put ``line`` where it belongs after one of its turns ended."""
        if line.taken:
            return
        key = line.key
        is_closing = line.state is _CLOSING
        if is_closing:
            self._closing.remove(line)
        if not line.waiting:
            del self._lines[key]
            if key is not None:
                self._queue.pop(key, None)
                self._slotted.pop(key, None)
        elif key is not None and is_closing:
            del self._slotted[key]
            line.become(_QUEUED)
            line.since, line.has_begun = self._clock(), False
            self._queue[key] = line

    @property
    def _has_place(self) -> bool:
        return self._places_taken < self._places and self._unread < self._unread_limit

    def _gets_slot(self, line: AdapterQueue) -> bool:
        """Tell whether ``line``, for which nobody has to make way, may go on; it gets a slot if one is free."""
        if line.key is None or line.state is not _QUEUED:
            return True
        if len(self._slotted) < self._slots:
            self._slotted[line.key] = line
            line.become(_OPEN)
            return True
        return False

    def _advance(self) -> None:
        """Take turns for as long as the engine has places."""
        while self._why_closed is None and self.waiting and self._has_place:
            while self._queue and len(self._slotted) < self._slots:
                key = next(iter(self._queue))
                line = self._slotted[key] = self._queue.pop(key)
                line.become(_OPEN)
                self._moved_at = self._clock()
            if self._queue or self._closing:
                self._make_way()
            ready = self._next()
            if ready is None:
                return
            turn = ready.waiting.popleft()
            self.waiting -= 1
            self._take(turn)

    def _next(self) -> AdapterQueue | None:
        """Return the line whose turn it is: the first with tokens left; where none has, all are dealt some."""
        ready = [line for line in self._open() if line.waiting]
        if not ready:
            return None
        if all(line.balance <= 0 for line in ready):
            rounds = min(-line.balance // DEAL + 1 for line in ready)
            for line in ready:
                line.balance += rounds * DEAL
        return next(line for line in ready if line.balance > 0)

    def _open(self) -> Iterator[AdapterQueue]:
        if (base := self._lines.get(None)) is not None:
            yield base
        yield from (line for line in self._slotted.values() if line.state is _OPEN)

    def _make_way(self) -> None:
        """Close lines for those that are queued, or open them again where nobody waits any more.

        One for each queued line, a quarter of the slots at most, the smallest first: they are done soonest, and leave
        the least undone. Where no slot is freed for long, because what has it runs on and on, others close too.
        """
        missing = len(self._queue) - (self._slots - len(self._slotted))
        if missing <= 0:
            for line in self._closing:
                line.become(_OPEN)
            self._closing.clear()
            return
        now, stay = self._clock(), max(self._turn_s, self._mean_s)  # in a stay a line gets something done
        waited = now - max(self._moved_at, next(iter(self._queue.values())).since)
        late = int(waited / (PATIENCE * stay)).bit_length()
        wanted = min(missing, max(1, self._slots // 4)) + late - len(self._closing)
        if wanted <= 0:
            return
        open_ = [line for line in self._slotted.values() if line.state is _OPEN]
        due = [line for line in open_ if line.taken and now - line.since >= stay]
        for line in sorted(due, key=lambda line: line.taken + len(line.waiting))[:wanted]:
            line.become(_CLOSING)
            self._closing.append(line)

    def _take(self, turn: Turn) -> None:
        line = turn.line
        turn.state, turn.taken_at = TURN_STATES.move(turn.state, _TAKEN), self._clock()
        turn.is_unread = True
        line.taken += 1
        self._taken.add(turn)
        line.balance -= turn.charged
        if not line.has_begun:
            line.since, line.has_begun = turn.taken_at, True
        self._places_taken += turn.sequences
        self._unread += turn.prompt_tokens
        if turn.waiter is not None:
            with suppress(asyncio.InvalidStateError):  # cancelled, and its task has not run yet: ``turn`` ends it
                turn.waiter.set_result(None)
