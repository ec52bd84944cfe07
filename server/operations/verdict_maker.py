"""Makes the verdict on a job that has a validation file, when its result is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import structlog

from adapters.errors import PatchbayError
from adapters.gate import VERDICT, VerdictResult
from adapters.names import DEFAULT_ALIAS
from adapters.storage.disk import in_thread
from adapters.versions import Version
from server.engine.protocol import EngineGone, ScoringUnsupported
from server.errors import EngineNotReady, ResidencyFull
from server.gateway.authenticate import holder
from server.gateway.gateway import Deferred
from server.operations.grader_client import GraderClient, as_caller
from server.state import AppState
from server.verdicts.contest import Contest
from server.verdicts.row_scorer import Grade, RowScorer
from trainer.graders.grader import GradingError, Sample
from trainer.graders.parsing import parse
from trainer.jobs.events import EventDraft, Level
from trainer.jobs.job import Job
from trainer.run_directory import VERDICT_FILE, RunDirectory
from trainer.training_method import TrainingMethod
from trainer.verdicts.judged_rows import JudgedRows

log = structlog.get_logger(__name__)

MOST_TRIES: Final = 3
"""Deaths of the engine, or times that a version found no capacity, after which there is no verdict."""
RETRY_S: Final = 1.0
GRADED_AT_ONCE: Final = 32
MORE_TOKENS: Final = 8
"""Tokens that a graded answer may have beyond the longest reference."""
MISSING: Final = "verdict_missing"
"""The entry of a version's report where its job has no verdict, with the reason."""


class _NoVerdict(Exception):
    """There cannot be a verdict; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a job, or the reason why it has none."""

    message: str
    result: VerdictResult | None = None
    of: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind it."""

    @property
    def report(self) -> dict[str, Any]:
        """The entry of the version's report."""
        if self.result is None:
            return {MISSING: {"reason": self.message}}
        return {VERDICT: {"result": self.result, "message": self.message, "of": self.of}}

    @property
    def of_job(self) -> dict[str, Any]:
        """What the job shows of it."""
        return {"result": self.result, "message": self.message, "rows": self.of.get("rows", 0)}

    @property
    def event(self) -> EventDraft:
        if self.result is None:
            return EventDraft(f"No verdict: {self.message}", Level.WARN)
        level = Level.WARN if self.result is VerdictResult.WORSE else Level.INFO
        return EventDraft(f"Verdict: {self.message}", level, data={"verdict": self.result, **self.of})


@dataclass(frozen=True, slots=True)
class VerdictMaker:
    """Makes verdicts on the serving engine; ``deferred`` returns an app whose requests act for a key."""

    state: AppState
    deferred: Deferred

    async def make(self, job: Job, candidate: Version, run: RunDirectory) -> Verdict:
        """Return the verdict on ``candidate``, the best checkpoint of ``job``. Waits while no engine is ready.

        It never fails a job that has trained: where there can be no verdict, the reason is returned.
        """
        try:
            return await self._made(job, candidate, run)
        except _NoVerdict as why:
            reason = str(why)
        except PatchbayError as refused:
            reason = refused.message
        except ScoringUnsupported:
            reason = "the base model generates no text"
        except Exception as unexpected:  # whatever it is, the result of hours of training is worth more
            log.exception("a verdict could not be made", job=job.id)
            reason = f"an unforeseen error: {unexpected}"[:500]
        log.warning("a job has no verdict", job=job.id, reason=reason)
        return Verdict(reason)

    async def _made(self, job: Job, candidate: Version, run: RunDirectory) -> Verdict:
        rows = await in_thread(JudgedRows.read, run.token_rows)
        if rows is None:
            raise _NoVerdict(_reason_for_no_rows(job))
        if not rows.held_out:
            raise _NoVerdict(
                f"none of the {rows.rows} rows of the validation file can be judged: {rows.near_duplicates} have a "
                f"prompt of the training file, {rows.too_long} are too long"
            )
        scorer = RowScorer(rows.held_out, self._grade(job), _max_tokens(job, rows))
        contest = Contest(rows, scorer, candidate, self._stable(candidate), job.project)
        try:
            await self._run(contest)
        finally:
            self._charge(job, contest)
        base = self.state.engine.info.served_names[0]
        try:
            judgement = await in_thread(contest.judgement, base, job.seed)
        except ValueError as why:
            raise _NoVerdict(str(why)) from why
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in contest.lines())
        await in_thread(run.write_bytes, VERDICT_FILE, lines)
        of = {
            "rows": judgement.rows,
            "left_out": contest.left_out(),
            "not_compared": contest.not_compared,
            "measures": list(scorer.measures),
            "candidate": {"model": candidate.name, "means": contest.candidate_means()},
            "contestants": [each.to_json() for each in judgement.beside],
            "level": judgement.level,
            "seed": job.seed,
            "tokens": asdict(contest.spent),
            **await in_thread(contest.probes),
        }
        return Verdict(str(judgement), judgement.result, of)

    async def _run(self, contest: Contest) -> None:
        for tries in range(1, MOST_TRIES + 1):
            while not self.state.engine.is_ready:  # noqa: ASYNC110  the supervisor sets no event
                await asyncio.sleep(RETRY_S)
            try:
                await contest.run(self.state.engine.serving())
            except (EngineGone, EngineNotReady, ResidencyFull) as passing:
                log.warning("a verdict is tried again", candidate=contest.candidate.name, reason=str(passing))
                if tries == MOST_TRIES:
                    raise _NoVerdict(f"{MOST_TRIES} attempts failed, the last one with: {passing}") from passing
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _stable(self, candidate: Version) -> Version | None:
        """Return the version that answers for the adapter now, if another one of the same base model does."""
        adapter = self.state.registry.catalog.get(candidate.adapter)
        alias = None if adapter is None else adapter.aliases.get(DEFAULT_ALIAS)
        if adapter is None or alias is None or alias.version == candidate.number:
            return None
        stable = adapter.versions[alias.version]
        return stable if stable.base_fingerprint == candidate.base_fingerprint else None

    def _grade(self, job: Job) -> Grade | None:
        """Return the function that grades answers for the job; None where it names no grader."""
        definition = job.grader or job.extension.get("verdict_grader")
        if definition is None:
            return None
        grader = parse(definition, "grader")
        caller = holder(self.state.keys, job.key_id, job.project)
        models = GraderClient(self.state, caller, as_caller(self.deferred(job.key_id), {}), is_deferred=True)
        places = asyncio.Semaphore(GRADED_AT_ONCE)

        async def grade(answer: str, item: Mapping[str, Any]) -> float | None:
            async with places:
                found = await grader.grade(Sample(answer, item), models)
            return None if found.errors.keys() - {GradingError.SAMPLE} else found.reward

        return grade

    def _charge(self, job: Job, contest: Contest) -> None:
        """Count the tokens as the job's adapter's; like a batch, they count in no limit a minute."""
        caller = holder(self.state.keys, job.key_id, job.project)
        counts = self.state.accounts.usage.counts(caller, job.adapter)
        counts.prompt_tokens += contest.spent.prompt
        counts.completion_tokens += contest.spent.completion


def _reason_for_no_rows(job: Job) -> str:
    if job.extension.get("verdict_rows") == 0:
        return "verdict_rows is 0"
    if job.method["type"] == TrainingMethod.DISTILL:
        return "a distilled prompt is judged by its agreement with the teacher, which stands as `distillation`"
    return "the files of the job were checked by an older release, which chose no rows for it"


def _max_tokens(job: Job, rows: JudgedRows) -> int:
    """Return the limit on a graded answer: that of training where answers were drawn, else by the references."""
    limit = job.hyperparameters.get("max_completion_tokens")
    if isinstance(limit, int):
        return limit
    return max(len(row.answer) for row in rows.held_out) + MORE_TOKENS
