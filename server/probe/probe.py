"""The probe: before a version exists, the running engine itself shows what it makes of the bytes.

A candidate is loaded under a name of its own, scores a few fixed prompts and is unloaded; ``server.probe.verdict``
judges the scores. Nobody is served from it: its cached prefixes are keyed by a name and a path that never come again,
and the engine clears the blocks they lay in before it hands them out again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import structlog

from adapters.checks.report import InspectionReport
from server.current_engine import CurrentEngine
from server.engine.protocol import Demand, Engine, EngineGone, Resident, ScoringUnsupported
from server.errors import EngineNotReady
from server.probe.reference import NoReference
from server.probe.verdict import ReferenceScores, Scores, compare, judge
from server.residency.residency import Residency

log = structlog.get_logger(__name__)

FIRST_TRIAL_ID: Final = 2**30
"""Far above any version's id, so that a trial is never taken for a version, and within vLLM's 32 bits."""
PATIENCE_S: Final = 120.0

SENTENCES: Final = (
    "The museum opens at nine and closes when the last visitor has left.",
    "SELECT name, price FROM products WHERE price > 10 ORDER BY name;",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "User: What is the capital of France?\nAssistant: The capital of France is Paris.",
)
MEANINGLESS: Final = 4
"""So many prompts are ids drawn from the whole vocabulary: they reach what no sentence of ours does."""
LENGTH: Final = 20
"""Tokens of such a prompt, and the most that are taken of a sentence."""
DEMAND: Final = Demand(prompt_tokens=LENGTH, most_tokens=1)
"""One prompt after the other."""
SEED: Final = 20_240_229

Prompts = tuple[tuple[int, ...], ...]


def prompts_for(engine: Engine) -> Prompts:
    """Return the prompts of every probe: the same for the same base model, 20 tokens each at most."""
    draw = random.Random(SEED)  # noqa: S311 - nothing is kept secret
    meaningless = (tuple(draw.randrange(engine.vocabulary) for _ in range(LENGTH)) for _ in range(MEANINGLESS))
    sentences = (tuple(engine.encode(sentence)[:LENGTH]) for sentence in SENTENCES)
    return (*meaningless, *(sentence for sentence in sentences if len(sentence) > 1))


@dataclass(frozen=True, slots=True)
class _Scored:
    prompts: Prompts
    scores: Scores
    base: Scores


class Reference(Protocol):
    """Computes scores with PEFT; ``server.probe.reference.PeftReference`` does."""

    async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
        """Return the scores of ``prompts`` under the adapter in the directory ``adapter`` and under the base model."""


class Probe:
    """The publisher's probe of staged bytes in the engine of ``residency``.

    Args:
        engine: the engine that runs now; the probe takes a turn of its scheduler, as an adapter of its own.
        reference: computes the same scores with PEFT, where the engine's scores are not refused already; None: no
            comparison.
        patience_s: how long a probe may wait for a slot and its turn before its publication is told to come back.
    """

    def __init__(
        self,
        engine: CurrentEngine,
        reference: Reference | None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._engine = engine
        self._reference = reference
        self._patience_s = patience_s
        self._ids = count(FIRST_TRIAL_ID)
        self._turn = asyncio.Lock()
        self._base_scores: WeakKeyDictionary[Residency, Scores] = WeakKeyDictionary()

    async def __call__(self, directory: Path, report: InspectionReport, *, allow_inert: bool) -> Mapping[str, Any]:
        """Probe the adapter in ``directory``.

        Returns the numbers of ``verdict.judge``, the seconds it took and, as "reference", the numbers of
        ``verdict.compare`` (None: nobody was asked).

        Raises:
            AdapterRefused: the engine or PEFT does not take the bytes, or the verdict is against them.
            EngineNotReady: no engine runs at present, or it had no slot to spare.
        """
        started = perf_counter()
        number = next(self._ids)
        candidate = Resident(number, f"trial@{number}", directory)
        try:
            async with asyncio.timeout(self._patience_s), self._turn:  # one at a time: neighbours must not feel it
                scored = await self._scored(candidate)
        except TimeoutError as busy:
            raise EngineNotReady(
                f"the engine had no slot for a probe within {self._patience_s:.0f} s; publish again with less traffic",
                retry_after_s=10,
            ) from busy
        except EngineGone as gone:
            raise EngineNotReady("the engine died during the probe; it is being rebuilt", retry_after_s=5) from gone
        verdict = await self._verdict(directory, scored, allow_inert=allow_inert)
        return {**verdict, "seconds": round(perf_counter() - started, 3)}

    async def _scored(self, candidate: Resident) -> _Scored | str:
        """Return the engine's scores, or why there are none."""
        running = self._engine.running()
        residency, scheduler = running.residency, running.scheduler
        turn = await scheduler.turn(candidate.id, DEMAND)
        try:
            async with residency.trial(candidate) as engine:
                prompts = prompts_for(engine)
                try:
                    scores = await engine.score(candidate, prompts)
                    return _Scored(prompts, scores, await self._of_base(residency, engine, prompts))
                except ScoringUnsupported as unsupported:
                    return f"loaded, not scored: {unsupported}"
        finally:
            scheduler.end(turn)

    async def _verdict(self, directory: Path, scored: _Scored | str, *, allow_inert: bool) -> dict[str, Any]:
        if isinstance(scored, str):
            return {"prompts": 0, "tokens": 0, "effect": None, "reference": None, "notes": [scored]}
        verdict = judge(scored.scores, scored.base, allow_inert=allow_inert)
        if (
            self._reference is None or not self._engine.is_ready
        ):  # while an engine warms up, loading the base would delay it
            return {**verdict, "reference": None}
        try:
            reference_scores = await self._reference.of(directory, scored.prompts)
        except NoReference as unknown:
            log.warning("an adapter could not be compared with PEFT", reason=str(unknown))
            notes = [*verdict["notes"], f"not compared with PEFT: {unknown}"]
            return {**verdict, "reference": None, "notes": notes}
        return {**verdict, "reference": compare(scored.scores, scored.base, reference_scores)}

    async def _of_base(self, residency: Residency, engine: Engine, prompts: Prompts) -> Scores:
        """Return the base model's scores: computed once in an engine's life, and kept as long as it."""
        if (known := self._base_scores.get(residency)) is None:
            known = self._base_scores[residency] = await engine.score(None, prompts)
        return known
