"""The contest behind a verdict: base, base with examples, ``stable`` and the candidate read the same rows.

What was scored is kept when the engine dies, so that the contest goes on where it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.current_engine import RunningEngine
from server.engine.protocol import Resident
from server.gateway.resolve import check_base
from server.verdicts.engine_reader import EngineReader, Ids, SpentTokens
from server.verdicts.general_texts import GENERAL_TEXTS
from server.verdicts.row_scorer import EXACT_MATCH, LIKELIHOOD, RowScorer, RowScores, likelihoods
from trainer.evals.comparison import mean_interval
from trainer.verdicts.judged_rows import MOST_TOKENS, JudgedRow, JudgedRows, Scores
from trainer.verdicts.judgement import Contestant, Judgement, judge, means, use_of_question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHOOSING: Final = 16
"""Training rows on which the number of examples is chosen."""
BASE: Final = "base"
STABLE: Final = "stable"
CANDIDATE: Final = "candidate"
EXCHANGED: Final = "{} with the question of another row"
"""What a model answers without regard to the question."""
USE: Final = "base by its use of the question"
_GENERAL: Final = "general texts: "
_TRAINED: Final = "trained rows: "
_PROBES: Final = (_GENERAL, _TRAINED)


@dataclass(slots=True, eq=False)
class Contest:
    """The contest on ``rows`` between the base model, ``stable`` if there is one, and ``candidate``."""

    rows: JudgedRows
    scorer: RowScorer
    candidate: Version
    stable: Version | None
    project: str
    spent: SpentTokens = field(default_factory=SpentTokens)
    shots: int = 0
    """Examples before the base model's prompts; 0: none can be put there."""
    not_compared: dict[str, str] = field(default_factory=dict)
    """Versions that cannot be loaded, with the reason."""
    _scores: dict[str, RowScores] = field(default_factory=dict)

    async def run(self, running: RunningEngine) -> None:
        """Score all contestants that have no scores yet.

        Raises:
            EngineGone, EngineNotReady: the engine died.
            ScoringUnsupported: the base model generates no text.
            PatchbayError: the candidate cannot be loaded.
        """
        reader = EngineReader(running, self.project, self.spent)
        prompts = [row.prompt for row in self.rows.held_out]
        general = [ids for ids in map(running.engine.encode, GENERAL_TEXTS) if len(ids) > 1]
        await self._score_base(reader, prompts, general)
        if self.stable is not None:
            await self._score_stable(running, reader, self.stable, prompts)
        async with _leased(running, self.candidate) as resident:
            await self._once(CANDIDATE, lambda: self.scorer.scores(reader, resident, prompts))
            await self._score_exchanged(CANDIDATE, reader, resident, prompts)
            await self._probe(CANDIDATE, reader, resident, general)

    def judgement(self, base: str, seed: int) -> Judgement:
        """Return the verdict; the base model is called ``base``.

        Raises:
            ValueError: no row has all scores, or a score is not finite.
        """
        measures, kept = self.scorer.measures, self._rows_with_all_scores()
        if not kept:
            raise ValueError("the grader had no score for any row")
        contestants = [Contestant("base", base, self._kept(BASE, kept))]
        if self._examples in self._scores:
            contestants.append(Contestant(self._examples, base, self._kept(self._examples, kept)))
        if self.stable is not None:
            contestants.append(Contestant(f"stable ({self.stable.name})", self.stable.name, self._kept(STABLE, kept)))
        if self.scorer.has_questions:
            used, of_candidate = (
                use_of_question(self._kept(name, kept), self._kept(EXCHANGED.format(name), kept))
                for name in (BASE, CANDIDATE)
            )
            contestants.append(Contestant(USE, base, used, of_candidate))
        return judge(self._kept(CANDIDATE, kept), contestants, measures, seed=seed)

    def candidate_means(self) -> dict[str, float]:
        return means(self._kept(CANDIDATE, self._rows_with_all_scores()))

    def left_out(self) -> dict[str, int]:
        """Return the number of rows of the validation file that were left out, by the reason."""
        ungraded = len(self.rows.held_out) - len(self._rows_with_all_scores())
        return {"near_duplicates": self.rows.near_duplicates, "too_long": self.rows.too_long, "ungraded": ungraded}

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield each row with the scores of all contestants, for people."""
        named = [name for name in self._scores if not name.startswith(_PROBES)]
        for place, row in enumerate(self.rows.held_out):
            scores = {
                name: {measure: values[place] for measure, values in self._scores[name].items()} for name in named
            }
            yield {"line": row.line, "scores": scores}

    def probes(self) -> dict[str, Any]:
        """Return the changes of the candidate beside the job: on general texts, and on rows that it was trained on."""
        found: dict[str, Any] = {}
        general = [self._scores.get(f"{_GENERAL}{name}") for name in (BASE, CANDIDATE)]
        if None not in general:
            base, candidate = (_numbers(each[LIKELIHOOD]) for each in general if each is not None)
            moved = [after - before for before, after in zip(base, candidate, strict=True)]
            found["general_ability"] = {
                "texts": len(moved),
                "likelihood": fmean(candidate),
                "of_base": fmean(base),
                "difference": _difference(moved),
            }
        if f"{_TRAINED}{CANDIDATE}" in self._scores:
            found["memorisation"] = self._memorisation()
        return found

    def _memorisation(self) -> dict[str, Any]:
        """Compare what the candidate gained on rows that it was trained on with its gain on held-out ones."""
        trained, of_base = (self._scores[f"{_TRAINED}{name}"] for name in (CANDIDATE, BASE))
        held_out, of_base_there = self._scores[CANDIDATE], self._scores[BASE]
        gains = [_gains(trained, of_base), _gains(held_out, of_base_there)]
        return {
            "trained": {"rows": len(gains[0]), "exact_match": fmean(_numbers(trained[EXACT_MATCH]))},
            "held_out": {"rows": len(gains[1]), "exact_match": fmean(_numbers(held_out[EXACT_MATCH]))},
            "likelihood_gap": _difference([first - second for first, second in zip(*gains, strict=False)]),
        }

    async def _score_exchanged(
        self, name: str, reader: EngineReader, resident: Resident | None, prompts: Sequence[Ids]
    ) -> None:
        """Score each row with the prompt of the next one, in their random order; a long one loses its start."""
        if self.scorer.has_questions:
            most = min(MOST_TOKENS, reader.running.engine.context - 1)
            pairs = zip([*prompts[1:], *prompts[:1]], self.rows.held_out, strict=True)
            others = [other[-(most - len(row.answer)) :] for other, row in pairs]
            await self._once(EXCHANGED.format(name), lambda: self.scorer.scores(reader, resident, others))

    async def _score_stable(
        self, running: RunningEngine, reader: EngineReader, stable: Version, prompts: Sequence[Ids]
    ) -> None:
        try:
            async with _leased(running, stable) as resident:
                await self._once(STABLE, lambda: self.scorer.scores(reader, resident, prompts))
        except PatchbayError as refused:
            if refused.is_passing:
                raise
            self.stable, self.not_compared = None, {stable.name: refused.message}

    async def _score_base(self, reader: EngineReader, prompts: Sequence[Ids], general: Sequence[Ids]) -> None:
        await self._once(BASE, lambda: self.scorer.scores(reader, None, prompts))
        await self._score_exchanged(BASE, reader, None, prompts)
        if not self.shots:
            self.shots = await self._best_number_of_examples(reader)
        if self.shots:
            with_examples = [_with_examples(row, self.shots) for row in self.rows.held_out]
            await self._once(self._examples, lambda: self.scorer.scores(reader, None, with_examples))
        await self._probe(BASE, reader, None, general)

    async def _probe(self, name: str, reader: EngineReader, resident: Resident | None, general: Sequence[Ids]) -> None:
        texts = [JudgedRow(line=0, prompt=[*ids[:1]], answer=[*ids[1:]]) for ids in general]
        if texts:  # none without a tokenizer
            await self._once(
                f"{_GENERAL}{name}", lambda: likelihoods(reader, resident, texts, [text.prompt for text in texts])
            )
        trained = self.rows.trained
        if LIKELIHOOD in self._scores[name] and trained:
            await self._once(
                f"{_TRAINED}{name}", lambda: likelihoods(reader, resident, trained, [row.prompt for row in trained])
            )

    async def _best_number_of_examples(self, reader: EngineReader) -> int:
        """Return the number with which the base model finds the answers of training rows likeliest."""
        numbers = sorted({number for row in self.rows.held_out for number in row.shots})
        rows = [row for row in self.rows.trained if row.shots][:CHOOSING]
        found = {}
        for number in numbers if rows else ():
            scores = await likelihoods(reader, None, rows, [_with_examples(row, number) for row in rows])
            found[number] = fmean(_numbers(scores[LIKELIHOOD]))
        return max(found, key=lambda number: found[number], default=0)

    @property
    def _examples(self) -> str:
        return f"base with {self.shots} examples"

    async def _once(self, name: str, score: Callable[[], Awaitable[RowScores]]) -> None:
        if name not in self._scores:
            self._scores[name] = await score()

    def _rows_with_all_scores(self) -> list[int]:
        compared = [scores for name, scores in self._scores.items() if not name.startswith(_PROBES)]
        return [
            place
            for place in range(len(self.rows.held_out))
            if all(scores[measure][place] is not None for scores in compared for measure in self.scorer.measures)
        ]

    def _kept(self, name: str, kept: Sequence[int]) -> Scores:
        return {measure: _numbers([values[place] for place in kept]) for measure, values in self._scores[name].items()}


@asynccontextmanager
async def _leased(running: RunningEngine, version: Version) -> AsyncIterator[Resident]:
    lease = await running.residency.lease(check_base(version, running.info))
    try:
        yield lease.resident
    finally:
        lease.release()


def _with_examples(row: JudgedRow, number: int) -> Ids:
    """Return the prompt with ``number`` examples, or with as many as fit."""
    fitting = [each for each in row.shots if each <= number]
    return row.shots[max(fitting)] if fitting else row.prompt


def _numbers(scores: Sequence[float | None]) -> list[float]:
    return [score for score in scores if score is not None]


def _gains(scores: RowScores, base: RowScores) -> list[float]:
    pairs = zip(_numbers(scores[LIKELIHOOD]), _numbers(base[LIKELIHOOD]), strict=True)
    return [after - before for after, before in pairs]


def _difference(values: Sequence[float]) -> dict[str, float]:
    interval = mean_interval(values)
    return {"mean": fmean(values), "low": interval.low, "high": interval.high}
