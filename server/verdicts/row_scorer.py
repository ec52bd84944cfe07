"""Scores a model on judged rows: by the measures that have a meaning for the job's method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from server.concurrency import together
from server.engine.protocol import Resident
from server.verdicts.engine_reader import EngineReader, Ids
from trainer.verdicts.judged_rows import JudgedRow

LIKELIHOOD: Final = "likelihood"
"""Mean log-probability of the reference answer's tokens."""
EXACT_MATCH: Final = "exact_match"
"""1 where the reference answer is what the model writes at temperature 0, its end included."""
REWARD: Final = "reward"
"""The grader's, of the answer at temperature 0."""
PREFERENCE_ACCURACY: Final = "preference_accuracy"
"""1 where the better answer of a pair is likelier, or has the larger reward."""
PREFERENCE_MARGIN: Final = "preference_margin"
"""By how much, in nats."""

Grade = Callable[[str, Mapping[str, Any]], Awaitable[float | None]]
"""Returns the reward of an answer to an item; None where the grader has none."""
RowScores = dict[str, list[float | None]]
"""By measure, the score of each row; None where a grader had none."""


@dataclass(frozen=True, slots=True)
class RowScorer:
    """Scores on ``rows``; ``grade`` is that of the grader that was asked for, and ``max_tokens`` bounds its answers."""

    rows: Sequence[JudgedRow]
    grade: Grade | None
    max_tokens: int

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that decide: rewards alone where there is a grader."""
        if self.grade is not None:
            return (REWARD,)
        return (PREFERENCE_ACCURACY, PREFERENCE_MARGIN) if self._has_pairs else (EXACT_MATCH, LIKELIHOOD)

    @property
    def has_questions(self) -> bool:
        """Whether each answer is to a question that could be exchanged for another row's."""
        return not self._has_pairs and all(row.answer for row in self.rows) and len({*self._prompts}) > 1

    async def scores(self, reader: EngineReader, resident: Resident | None, prompts: Sequence[Ids]) -> RowScores:
        """Return the scores of each row where its prompt is the one in ``prompts``.

        Raises:
            EngineGone, EngineNotReady, ScoringUnsupported: as the reader.
        """
        scores: RowScores = {}
        if self._has_pairs:
            scores |= await self._preferences(reader, resident, prompts)
        elif all(row.answer for row in self.rows):
            scores |= await likelihoods(reader, resident, self.rows, prompts)
        if self.grade is not None:
            answers = await reader.write(resident, prompts, max_tokens=self.max_tokens)
            pairs = zip(answers, self.rows, strict=True)
            scores[REWARD] = await together(_graded(self.grade, answer, row) for answer, row in pairs)
        return scores

    @property
    def _has_pairs(self) -> bool:
        return any(row.worse is not None for row in self.rows)

    @property
    def _prompts(self) -> list[tuple[int, ...]]:
        return [tuple(row.prompt) for row in self.rows]

    async def _preferences(self, reader: EngineReader, resident: Resident | None, prompts: Sequence[Ids]) -> RowScores:
        worse = [row.worse or [] for row in self.rows]
        if all(row.prompt for row in self.rows):
            better_read = await reader.read(resident, zip(prompts, (row.answer for row in self.rows), strict=True))
            worse_read = await reader.read(resident, zip(prompts, worse, strict=True))
            margins = [better.logprob - other.logprob for better, other in zip(better_read, worse_read, strict=True)]
        else:  # whole conversations, of a reward model
            better_rewards = await reader.rewards(resident, (row.answer for row in self.rows))
            worse_rewards = await reader.rewards(resident, worse)
            margins = [better - other for better, other in zip(better_rewards, worse_rewards, strict=True)]
        accuracy = [0.5 if margin == 0 else float(margin > 0) for margin in margins]
        return {PREFERENCE_ACCURACY: [*accuracy], PREFERENCE_MARGIN: [*margins]}


async def likelihoods(
    reader: EngineReader, resident: Resident | None, rows: Sequence[JudgedRow], prompts: Sequence[Ids]
) -> RowScores:
    """Return likelihood and exact match of the rows' answers after ``prompts``."""
    readings = await reader.read(resident, zip(prompts, (row.answer for row in rows), strict=True))
    return {
        EXACT_MATCH: [float(reading.is_greedy) for reading in readings],
        LIKELIHOOD: [reading.logprob / len(row.answer) for reading, row in zip(readings, rows, strict=True)],
    }


async def _graded(grade: Grade, answer: str, row: JudgedRow) -> float | None:
    return await grade(answer, row.item or {})
