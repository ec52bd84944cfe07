"""Has the engine read and write answers in deferred turns: live requests go first, a few answers at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from server.concurrency import together
from server.current_engine import RunningEngine
from server.engine.protocol import AnswerReading, Demand, Resident
from trainer.reward_tokens import reward_tokens

AT_ONCE: Final = 8
"""Answers that are read at once: each computes the whole vocabulary's probabilities at each of its tokens."""

Ids = Sequence[int]
T = TypeVar("T")


@dataclass(slots=True)
class SpentTokens:
    """What a verdict cost."""

    prompt: int = 0
    """Tokens that were read, reference answers included."""
    completion: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class EngineReader:
    """Reads for a project on the engine that is ``running``.

    All methods raise ScoringUnsupported where the base model generates no text, EngineGone if the engine died, and
    EngineNotReady if it died while a turn was waited for.
    """

    running: RunningEngine
    project: str
    spent: SpentTokens
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def read(self, resident: Resident | None, answers: Iterable[tuple[Ids, Ids]]) -> list[AnswerReading]:
        """Return the reading of each answer after its prompt."""
        return await together(self._read(resident, prompt, answer) for prompt, answer in answers)

    async def write(self, resident: Resident | None, prompts: Iterable[Ids], *, max_tokens: int) -> list[str]:
        """Return the likeliest answer to each prompt."""
        return await together(self._written(resident, prompt, max_tokens) for prompt in prompts)

    async def rewards(self, resident: Resident | None, conversations: Iterable[Ids]) -> list[float]:
        """Return the reward of each conversation; see ``trainer.reward_tokens``."""
        better_worse = reward_tokens(self.running.engine.encode)
        return await together(self._reward(resident, ids, better_worse) for ids in conversations)

    async def _read(self, resident: Resident | None, prompt: Ids, answer: Ids) -> AnswerReading:
        demand = Demand(len(prompt) + len(answer), 1)
        return await self._in_turn(resident, demand, self.running.engine.read(resident, prompt, answer))

    async def _written(self, resident: Resident | None, prompt: Ids, max_tokens: int) -> str:
        most = max(1, min(max_tokens, self.running.engine.context - len(prompt)))
        sampling = self.running.engine.sample(resident, prompt, samples=1, max_tokens=most, seed=0, temperature=0.0)
        (answer,) = await self._in_turn(resident, Demand(len(prompt), most), sampling)
        self.spent.completion += len(answer.ids)
        return answer.text

    async def _reward(self, resident: Resident | None, ids: Ids, better_worse: tuple[int, int]) -> float:
        asking = self.running.engine.next_logprobs(resident, ids, better_worse)
        better, worse = await self._in_turn(resident, Demand(len(ids), 1), asking)
        return better - worse

    async def _in_turn(self, resident: Resident | None, demand: Demand, work: Coroutine[Any, Any, T]) -> T:
        scheduler, key = self.running.scheduler, None if resident is None else resident.id
        try:
            async with self._places:
                turn = await scheduler.turn(key, demand, project=self.project, is_deferred=True)
                try:
                    done = await work
                finally:
                    scheduler.end(turn)
        finally:
            work.close()  # where it was not begun
        self.spent.prompt += demand.prompt_tokens
        return done
