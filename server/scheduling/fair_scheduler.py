"""Schedules generations fairly across projects, and across the adapters of each, before they reach vLLM.

vLLM starts requests first come, first served, and skips a request whose adapter has no slot: two busy adapters that
overlap keep a third one out for ever. So the scheduler admits only what the engine can start at once: generations of at
most ``slots`` adapters, as many as fit a batch and a few more. The rest waits here, where

* a queue that kept its slot for long closes in favour of one that has none, of its project or of one with fewer slots;
* projects that wait get the same number of tokens, and so do the adapters with slots within each project: a project
  gains nothing by having many adapters;
* deferred turns, those of batches, are taken while no other turn waits. They hold at most half of the engine's places,
  unread tokens and slots, are not charged, and leave one slot free: what comes next need not wait for them.

Runs on one thread without I/O; the time is read from ``clock``. ``adapter_queue`` draws the states.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from adapters.errors import PatchbayError
from adapters.names import DEFAULT_PROJECT
from server.engine.protocol import Batch, Demand, Generation
from server.scheduling.adapter_queue import (
    TURN_STATES,
    AdapterQueue,
    Project,
    ProjectLine,
    QueueState,
    Turn,
    TurnState,
)
from server.scheduling.project_accounts import ProjectAccounts
from server.scheduling.slot_shares import next_to_open, queues_to_close, slots_of

FIRST_EXPECTED_TOKENS: Final = 64
"""Tokens that a generation is expected to write before any has ended."""
SMOOTHING: Final = 0.1
"""Weight of the newest generation in the moving averages."""
PATIENCE: Final = 4
"""After this many stays without a slot for a queued adapter one more queue closes; one more each time that doubles. So
many stays a queue keeps its slot while its project is behind others: while a queue closes, its project gets less."""
SWEEP_S: Final = 1.0
"""Seconds between checks, while a turn waits, for turns that the engine has finished and callers have not read."""
FULL_ENGINES_BEHIND: Final = 4
"""A waiting project may be behind another one by the tokens of this many engines full of the largest generations."""
FORGETTING: Final = 0.999
"""How much of the size of the largest generation is left after each generation."""
LOOKAHEAD: Final = 8
"""Admit 1/LOOKAHEAD more than a full batch, so that vLLM always has the next request at hand."""

_WAITING, _TAKEN, _OVER = TurnState  # Python 3.11 takes 0.1 µs to look a member up in its enum
_QUEUED, _OPEN, _CLOSING = QueueState


class FairScheduler:
    """The turns of one engine. A scheduler lives as long as its engine.

    Args:
        slots: adapters that one batch can mix.
        batch: sequences and tokens that the engine computes in one step.
        turn_s: seconds that a queue keeps its slot at least while another waits for one.
        clock: returns the time in seconds.
    """

    def __init__(self, slots: int, batch: Batch, *, turn_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._turn_s = turn_s
        self._clock = clock
        self._sequences = batch.sequences
        self._places = batch.sequences + max(1, batch.sequences // LOOKAHEAD)
        self._unread_limit = 2 * batch.tokens
        self._queues: dict[int | None, AdapterQueue] = {}
        self._accounts = ProjectAccounts()
        self._queued: dict[int, AdapterQueue] = {}
        """Queues without a slot, in order of arrival."""
        self._slotted: dict[int, AdapterQueue] = {}
        """Queues with a slot, in the order in which they got it."""
        self._closing: list[AdapterQueue] = []
        """Queues with a slot that are CLOSING, in the order in which they were closed."""
        self._deferred: deque[Turn] = deque()
        """Deferred turns that wait, in order of arrival."""
        self._taken: set[Turn] = set()
        self._deferred_taken: set[Turn] = set()
        self._places_taken = 0
        self._unread = 0
        self._mean_s = self._largest_size = 0.0
        self._mean_tokens = self._mean_size = float(FIRST_EXPECTED_TOKENS)
        self._moved_at = 0.0
        """Time at which a queued adapter last got a slot."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed_with: PatchbayError | None = None
        self.waiting = 0
        """Number of turns that wait, without the deferred ones."""

    @property
    def active(self) -> int:
        """Number of adapters that have generations in the engine."""
        return len(self._slotted)

    @property
    def running_keys(self) -> list[int]:
        """Adapters that have generations in the engine. Other threads may read it."""
        return [key for key, queue in self._queues.copy().items() if key is not None and queue.taken]

    @property
    def waiting_keys(self) -> list[int]:
        """Adapters that have generations waiting for a turn. Other threads may read it."""
        return [key for key, queue in self._queues.copy().items() if key is not None and queue.waiting]

    def request(
        self, key: int | None, demand: Demand, *, project: str = DEFAULT_PROJECT, is_deferred: bool = False
    ) -> Turn:
        """Return a turn for a generation of ``key`` for ``project``; it is TAKEN at once where it need not wait.

        Raises:
            PatchbayError: the scheduler was closed with this error.
        """
        if self._closed_with is not None:
            raise self._closed_with
        if is_deferred:
            return self._defer(key, demand, project)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _new_queue(key)
        expected = min(demand.max_tokens, int(self._mean_tokens) + 1)
        charge, now = demand.prompt_tokens + demand.sequences * expected, self._clock()
        line = self._accounts.line(queue, project)
        turn = Turn(line, demand.prompt_tokens, demand.sequences, charge, requested_at=now, taken_at=now)
        if not self.waiting and self._has_place_for(turn) and self._has_slot_for(queue):
            self._take(turn)
            return turn
        self._accounts.wait(turn)
        self.waiting += 1
        if queue.state is _QUEUED and key is not None and key not in self._queued:
            queue.since = turn.requested_at
            self._queued[key] = queue
        self._advance()
        return turn

    async def turn(
        self, key: int | None, demand: Demand, *, project: str = DEFAULT_PROJECT, is_deferred: bool = False
    ) -> Turn:
        """Return a TAKEN turn, after waiting for it if need be. The caller ends it with ``end``.

        Raises:
            PatchbayError: the scheduler was closed with this error.
        """
        turn = self.request(key, demand, project=project, is_deferred=is_deferred)
        if turn.state is _TAKEN:
            return turn
        loop = asyncio.get_running_loop()
        turn.waiter = loop.create_future()
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep_again)
        try:
            await turn.waiter
        except BaseException:  # a cancellation too: the turn must not stay in the queue, nor with its holder
            self.end(turn)
            raise
        return turn

    def read(self, turn: Turn) -> None:
        """Record that the engine has read the prompt of ``turn`` and writes its answer now."""
        self._mark_read(turn)
        self._after_change()

    def end(self, turn: Turn) -> None:
        """End ``turn`` in any state; the tokens of its generation are charged. A second call has no effect."""
        line, queue = turn.line, turn.queue
        if turn.state is _WAITING and turn.is_deferred:
            self._deferred.remove(turn)
            turn.state = TURN_STATES.move(turn.state, _OVER)
            return
        if turn.state is _WAITING:
            self._accounts.stop_waiting(turn)
            self.waiting -= 1
        elif turn.state is _TAKEN:
            line.taken -= 1
            queue.taken -= 1
            self._taken.remove(turn)
            self._deferred_taken.discard(turn)
            self._places_taken -= turn.sequences
            self._mark_read(turn)
            if turn.generation is not None and not turn.is_deferred:
                self._learn(turn, turn.generation)
        else:
            return
        turn.state = TURN_STATES.move(turn.state, _OVER)
        self._accounts.drop_if_empty(line)
        self._after_turn(queue)
        self._after_change()

    def sweep(self) -> None:
        """End the turns that the engine has finished: a caller who stops reading must not keep others waiting."""
        for turn in [turn for turn in self._taken if turn.generation is not None and turn.generation.is_finished()]:
            turn.generation = None  # its tokens are not counted before it is read: the estimate stays charged
            self.end(turn)

    def close(self, error: PatchbayError) -> None:
        """End waiting turns with ``error``, and raise it on each later call."""
        self._closed_with = error
        if self._sweeping is not None:
            self._sweeping.cancel()
        lines = [line for queue in self._queues.values() for line in queue.lines.values()]
        waiting = [turn for line in lines for turn in line.waiting]
        for turn in (*waiting, *self._deferred):
            if turn.waiter is not None and not turn.waiter.done():
                turn.waiter.set_exception(error)
            self.end(turn)

    # -- inside ------------------------------------------------------------------------------------------------

    def _sweep_again(self) -> None:
        self.sweep()
        waits = self.waiting or self._deferred
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again) if waits else None

    def _after_change(self) -> None:
        """Take turns after the engine may have got a free place."""
        if self.waiting:
            self._advance()
        if self._deferred and not self.waiting:
            self._advance_deferred()

    def _mark_read(self, turn: Turn) -> None:
        if turn.is_unread:
            turn.is_unread = False
            self._unread -= turn.prompt_tokens

    def _learn(self, turn: Turn, generation: Generation) -> None:
        """Correct the charge of a turn that is over, and update the averages."""
        size = generation.prompt_tokens + generation.generated_tokens
        turn.line.charge(size - turn.charge)
        self._mean_size += SMOOTHING * (size / turn.sequences - self._mean_size)
        self._largest_size = max(size / turn.sequences, FORGETTING * self._largest_size)
        written = generation.generated_tokens / turn.sequences
        self._mean_tokens += SMOOTHING * (written - self._mean_tokens)
        self._mean_s += (SMOOTHING if self._mean_s else 1.0) * (self._clock() - turn.taken_at - self._mean_s)

    def _after_turn(self, queue: AdapterQueue) -> None:
        """Drop, requeue or keep ``queue`` after one of its turns ended."""
        if queue.taken:
            return
        key = queue.key
        is_closing = queue.state is _CLOSING
        if is_closing:
            self._closing.remove(queue)
        if not queue.waiting:
            del self._queues[key]
            if key is not None:
                self._queued.pop(key, None)
                self._slotted.pop(key, None)
        elif key is not None and is_closing:
            del self._slotted[key]
            queue.become(_QUEUED)
            queue.since, queue.has_started = self._clock(), False
            self._queued[key] = queue

    @property
    def _full_engine(self) -> float:
        """Tokens of as many generations as the engine has places for."""
        return self._places * self._mean_size

    @property
    def _has_place(self) -> bool:
        return self._places_taken < self._places and self._unread < self._unread_limit

    def _has_place_for(self, turn: Turn) -> bool:
        """Whether all sequences of ``turn`` have a place; one that is larger than the engine gets all places."""
        fits = self._places_taken + turn.sequences <= self._places or not self._places_taken
        return self._has_place and fits

    def _has_slot_for(self, queue: AdapterQueue) -> bool:
        """Give ``queue`` a slot if it has none and one is free; return whether it has one."""
        if queue.key is None or queue.state is not _QUEUED:
            return True
        if len(self._slotted) < self._slots:
            self._slotted[queue.key] = queue
            queue.become(_OPEN)
            return True
        return False

    def _advance(self) -> None:
        """Take turns while the engine has places."""
        while self._closed_with is None and self.waiting and self._has_place:
            while self._queued and len(self._slotted) < self._slots:
                queue = next_to_open(self._queued.values(), slots_of(self._slotted.values()))
                assert queue.key is not None
                self._slotted[queue.key] = self._queued.pop(queue.key)
                queue.become(_OPEN)
                self._moved_at = queue.project.got_slot_at = self._clock()
            if self._queued or self._closing:
                self._close_queues()
            # By the mean, many short answers of one project would forgive another one its few long ones.
            most_behind = FULL_ENGINES_BEHIND * self._places * max(self._mean_size, self._largest_size)
            turn = self._accounts.next_turn(self._open_queues(), most_behind=most_behind)
            if turn is None or not self._has_place_for(turn):
                return  # a turn of many sequences waits for as many places, and is not passed by
            self._accounts.stop_waiting(turn)
            self.waiting -= 1
            self._take(turn)

    def _open_queues(self) -> Iterator[AdapterQueue]:
        if (base := self._queues.get(None)) is not None:
            yield base
        yield from (queue for queue in self._slotted.values() if queue.state is _OPEN)

    def _close_queues(self) -> None:
        """Close queues in favour of those without a slot; reopen them where none waits any more.

        One for each queue without a slot, a quarter of the slots at most. Where no slot falls free for long, because
        generations run on, others close too.
        """
        missing = len(self._queued) - (self._slots - len(self._slotted))
        if missing <= 0:
            for queue in self._closing:
                queue.become(_OPEN)
            self._closing.clear()
            return
        now, stay = self._clock(), max(self._turn_s, self._mean_s)  # the mean generation ends within a stay
        waited = now - max(self._moved_at, next(iter(self._queued.values())).since)
        late = int(waited / (PATIENCE * stay)).bit_length()
        wanted = min(missing, max(1, self._slots // 4)) + late - len(self._closing)
        if wanted <= 0:
            return
        open_ = [queue for queue in self._slotted.values() if queue.state is _OPEN]
        behind = self._accounts.most_used - self._full_engine
        stays = [stay * (PATIENCE if queue.project.used < behind else 1) for queue in open_]
        due = [queue for queue, stay in zip(open_, stays, strict=True) if queue.taken and now - queue.since >= stay]
        if not due:
            return
        coming = max(0, len(self._closing) - late)
        for queue in queues_to_close(self._queued.values(), open_, due, count=wanted, coming=coming):
            queue.become(_CLOSING)
            self._closing.append(queue)

    def _defer(self, key: int | None, demand: Demand, project: str) -> Turn:
        line, now = ProjectLine(_new_queue(key), Project(project)), self._clock()
        turn = Turn(line, demand.prompt_tokens, demand.sequences, 0, requested_at=now, taken_at=now, is_deferred=True)
        self._deferred.append(turn)
        if not self.waiting:
            self._advance_deferred()
        return turn

    def _advance_deferred(self) -> None:
        """Take deferred turns up to their share of the engine; the caller has seen that no other turn waits."""
        for turn in list(self._deferred):
            if self._closed_with is not None or not (self._has_deferred_place and self._has_place_for(turn)):
                return
            queue = self._queues.get(turn.queue.key)
            if queue is None and self._may_defer_to(turn.queue.key):
                queue = self._queues[turn.queue.key] = turn.queue
            if queue is None or queue.state is _CLOSING or not self._has_slot_for(queue):
                continue
            turn.line = self._accounts.line(queue, turn.line.project.name)
            self._deferred.remove(turn)
            self._deferred_taken.add(turn)
            self._take(turn)

    @property
    def _has_deferred_place(self) -> bool:
        taken = sum(turn.sequences for turn in self._deferred_taken)
        unread = sum(turn.prompt_tokens for turn in self._deferred_taken if turn.is_unread)
        has_share = taken < max(1, self._sequences // 2) and unread < self._unread_limit // 2
        return has_share and self._has_place and self._places_taken < self._sequences

    def _may_defer_to(self, key: int | None) -> bool:
        """Whether a deferred turn of ``key``, which has no turns with the engine, may take a free slot."""
        held = {turn.queue.key for turn in self._deferred_taken} - {None}
        has_share = len(held) < max(1, self._slots // 2) and len(self._slotted) < max(1, self._slots - 1)
        return key is None or has_share

    def _take(self, turn: Turn) -> None:
        line, queue = turn.line, turn.queue
        turn.state, turn.taken_at = TURN_STATES.move(turn.state, _TAKEN), self._clock()
        turn.is_unread = True
        line.taken += 1
        queue.taken += 1
        self._taken.add(turn)
        line.charge(turn.charge)
        if not queue.has_started:
            queue.since, queue.has_started = turn.taken_at, True
        self._places_taken += turn.sequences
        self._unread += turn.prompt_tokens
        if turn.waiter is not None:
            with suppress(asyncio.InvalidStateError):  # cancelled, and its task has not run yet: ``turn`` will end it
                turn.waiter.set_result(None)


def _new_queue(key: int | None) -> AdapterQueue:
    return AdapterQueue(key, _OPEN if key is None else _QUEUED)
