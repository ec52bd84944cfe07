"""The probe: before a version exists, the running engine loads the candidate and scores fixed prompts with it.

The candidate is loaded under a name of its own, scores the prompts and is unloaded; ``server.probe.verdict`` judges the
scores. No request reaches the candidate: its cached prefixes are keyed by a name and a path that are never used again,
and the engine clears their blocks before it uses them again.
"""

import asyncio
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import structlog

from adapters.checks.inspection import InspectionReport
from adapters.errors import AdapterRefused, Fault
from adapters.storage.disk import in_thread
from adapters.storage.manifest import WEIGHTS_FILE
from server.current_engine import CurrentEngine
from server.death_suspects import DeathSuspects
from server.engine.protocol import Demand, Engine, EngineGone, Resident, ScoringUnsupported
from server.errors import EngineNotReady
from server.probe.reference import NoReference
from server.probe.verdict import ReferenceScores, Scores, compare, judge
from server.residency.residency import Residency

log = structlog.get_logger(__name__)

FIRST_TRIAL_ID: Final = 2**30
"""Above every version's id, so that no trial has the id of a version, and within vLLM's 32 bits."""
PATIENCE_S: Final = 120.0
"""Seconds that a probe waits for a slot and its turn."""

SENTENCES: Final = (
    "The museum opens at nine and closes when the last visitor has left.",
    "SELECT name, price FROM products WHERE price > 10 ORDER BY name;",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "User: What is the capital of France?\nAssistant: The capital of France is Paris.",
)
RANDOM_PROMPTS: Final = 4
"""Prompts of token ids drawn from the whole vocabulary: they cover tokens that the sentences do not."""
LENGTH: Final = 20
"""Tokens of a random prompt, and the most that are taken of a sentence."""
DEMAND: Final = Demand(prompt_tokens=LENGTH, max_tokens=1)
"""The prompts are scored one after the other."""
SEED: Final = 20_240_229

Prompts = tuple[tuple[int, ...], ...]
Scored = tuple[Prompts, Scores, Scores]
"""The prompts, and their scores under the candidate and under the base model."""


def prompts_for(engine: Engine) -> Prompts:
    """Return the prompts of every probe as token ids, 20 at most each; the same for the same base model."""
    draw = random.Random(SEED)  # noqa: S311 - no secret depends on it
    random_prompts = (tuple(draw.randrange(engine.vocabulary) for _ in range(LENGTH)) for _ in range(RANDOM_PROMPTS))
    sentences = (tuple(engine.encode(sentence)[:LENGTH]) for sentence in SENTENCES)
    return (*random_prompts, *(sentence for sentence in sentences if len(sentence) > 1))


def _fingerprint(directory: Path) -> str:
    with (directory / WEIGHTS_FILE).open("rb") as weights:
        return f"probe of {hashlib.file_digest(weights, 'sha256').hexdigest()}"


class ReferenceScorer(Protocol):
    """Computes scores with PEFT; ``server.probe.reference.PeftReference`` does."""

    async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
        """Return the scores of ``prompts`` under the adapter in the directory ``adapter`` and under the base model."""


@dataclass(eq=False)
class Probe:
    """The publisher's probe of staged bytes in the engine of ``residency``.

    Args:
        engine: the engine that runs now; the probe takes a turn of its scheduler, as an adapter of its own.
        reference: computes the same scores with PEFT, where the engine's scores are not refused already; None: no
            comparison.
        suspects: what engines were doing when they died; bytes that were probed at two deaths are refused.
        patience_s: seconds that a probe may wait for a slot and its turn before its publication fails.
    """

    engine: CurrentEngine
    reference: ReferenceScorer | None
    _: KW_ONLY
    suspects: DeathSuspects = field(default_factory=DeathSuspects)
    patience_s: float = PATIENCE_S
    _ids: Iterator[int] = field(default_factory=partial(count, FIRST_TRIAL_ID), init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _base_scores: WeakKeyDictionary[Residency, Scores] = field(default_factory=WeakKeyDictionary, init=False)

    async def __call__(self, directory: Path, report: InspectionReport, *, allow_inert: bool) -> Mapping[str, Any]:
        """Probe the adapter in ``directory``.

        Returns the numbers of ``verdict.judge``, the seconds it took and, as "reference", the numbers of
        ``verdict.compare`` (None: no comparison was made).

        Raises:
            AdapterRefused: the engine or PEFT does not load the files, or the scores are refused.
            EngineNotReady: no engine runs at present, or it had no free slot in time.
        """
        started = perf_counter()
        if self.suspects and self.suspects.is_guilty(await in_thread(_fingerprint, directory)):
            raise AdapterRefused([Fault(WEIGHTS_FILE, "weights with which the engine died twice", "other weights")])
        number = next(self._ids)
        candidate = Resident(number, f"trial@{number}", directory)
        try:
            # One probe at a time: less load beside traffic.
            async with asyncio.timeout(self.patience_s), self._turn:
                scored = await self._scored(candidate)
        except TimeoutError as busy:
            raise EngineNotReady(
                f"the engine had no slot for a probe within {self.patience_s:.0f} s; publish again with less traffic",
                retry_after_s=10,
            ) from busy
        except EngineGone as gone:
            raise EngineNotReady("the engine died during the probe; it is being rebuilt", retry_after_s=5) from gone
        if self.suspects:
            self.suspects.acquit(await in_thread(_fingerprint, directory))
        verdict = await self._verdict(directory, scored, allow_inert=allow_inert)
        return {**verdict, "seconds": round(perf_counter() - started, 3)}

    async def _scored(self, candidate: Resident) -> Scored | str:
        """Return the engine's scores, or the reason why there are none."""
        running = self.engine.running()
        residency, scheduler = running.residency, running.scheduler
        turn = await scheduler.turn(candidate.id, DEMAND)
        try:
            async with residency.trial(candidate) as engine:
                prompts = prompts_for(engine)
                try:
                    scores = await engine.score(candidate, prompts)
                    return prompts, scores, await self._base_model_scores(residency, engine, prompts)
                except ScoringUnsupported as unsupported:
                    return f"loaded, not scored: {unsupported}"
        except (EngineGone, EngineNotReady):
            self.suspects.note(await in_thread(_fingerprint, candidate.path), running.engine)
            raise
        finally:
            scheduler.end(turn)

    async def _verdict(self, directory: Path, scored: Scored | str, *, allow_inert: bool) -> dict[str, Any]:
        if isinstance(scored, str):
            return {"prompts": 0, "tokens": 0, "effect": None, "reference": None, "notes": [scored]}
        prompts, scores, base = scored
        verdict = judge(scores, base, allow_inert=allow_inert)
        # While an engine warms up, loading the base would delay it.
        if self.reference is None or not self.engine.is_ready:
            return {**verdict, "reference": None}
        try:
            reference_scores = await self.reference.of(directory, prompts)
        except NoReference as unknown:
            log.warning("an adapter could not be compared with PEFT", reason=str(unknown))
            notes = [*verdict["notes"], f"not compared with PEFT: {unknown}"]
            return {**verdict, "reference": None, "notes": notes}
        return {**verdict, "reference": compare(scores, base, reference_scores)}

    async def _base_model_scores(self, residency: Residency, engine: Engine, prompts: Prompts) -> Scores:
        """Return the base model's scores, computed once for each engine."""
        if (known := self._base_scores.get(residency)) is None:
            known = self._base_scores[residency] = await engine.score(None, prompts)
        return known
