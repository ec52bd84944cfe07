"""The work on one run under one claim: ask the model about each item, grade the answer, record the results.

Results are written at an interval, which renews the claim. That fails once the caller has cancelled or deleted the run,
and so ends the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import structlog

from server.batches.line_client import AccessDenied, LineClient
from server.evals.answers import CHAT, Answer, answer_in, answer_of_source, body_for, counts, failed
from server.operations.grader_client import GraderClient
from trainer.errors import InvalidField
from trainer.evals.criteria import FAULTS_OF_ANSWERS, check_models, read_criteria, result_of
from trainer.evals.data_source import CompletionsSource, RunSource, parse_run_source
from trainer.evals.objects import EvalItem, ItemStatus, Outcome
from trainer.evals.run_queue import MAX_RUN_S, EvalRunClaim, EvalRunQueue
from trainer.evals.state import EvalRunVerb
from trainer.graders.grader import Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.models import GraderAnswer, Question, Rewarded, Usage
from trainer.graders.python_processes import PythonProcesses
from trainer.graders.schema_checks import SchemaChecks
from trainer.jobs.job import Failure

log = structlog.get_logger(__name__)

WRITE_S: Final = 0.5
"""Interval of writes: how soon a cancellation is seen, and how old the answers are that a death costs. A write for each
item would keep other writers out of SQLite, which lets the one in who asks at the right moment."""
ITEMS_AT_ONCE: Final = 64
"""Items of a run that are asked or graded at once, at most; fewer where the engine takes fewer lines of batches."""

_REVOKED: Final = Failure(
    "key_revoked", "the API key that created the run was revoked, or may not call models any more"
)
_EXPIRED: Final = Failure(
    "run_expired",
    f"the run was not finished within {MAX_RUN_S / 86400:g} days: make a run of the items without results",
)


@dataclass(frozen=True, slots=True)
class CountedModels:
    """The models of graders, with the tokens and requests of one item by model."""

    models: GraderClient
    usage: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def project(self) -> str:
        return self.models.project

    @property
    def python(self) -> PythonProcesses:
        return self.models.python

    @property
    def schemas(self) -> SchemaChecks:
        return self.models.schemas

    def check(self, model: str) -> None:
        self.models.check(model)

    async def ask(self, question: Question) -> GraderAnswer:
        answer = await self.models.ask(question)
        self._count(answer.model, answer.usage)
        return answer

    @property
    def can_embed(self) -> bool:
        return self.models.can_embed

    async def embed(self, *texts: str) -> Sequence[Sequence[float]]:
        return await self.models.embed(*texts)

    async def check_reward(self, model: str) -> None:
        await self.models.check_reward(model)

    async def reward(
        self, model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Rewarded:
        rewarded = await self.models.reward(model, messages, tools)
        self._count(rewarded.model, rewarded.usage)
        return rewarded

    def _count(self, model: str, usage: Usage) -> None:
        before = self.usage.get(model, {})
        spent = {"invocation_count": 1, **counts(usage)}
        self.usage[model] = {name: before.get(name, 0) + count for name, count in spent.items()}


@dataclass(slots=True, eq=False)
class EvalRunAttempt:
    """Works on the run of ``claim``; ``models`` answer its graders."""

    queue: EvalRunQueue
    claim: EvalRunClaim
    client: LineClient
    models: GraderClient
    _unwritten: list[Outcome] = field(default_factory=list)
    _is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        """Work until the run has ended.

        Raises:
            LeaseLost: another process has taken the run, or its caller has ended it; in an ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write())
            failure = await self._work()
            self._is_over.set()
            await writing
        verb = EvalRunVerb.COMPLETE if failure is None else EvalRunVerb.FAIL
        await self.queue.end(self.claim, verb, failure)

    async def _write(self) -> None:
        """Write the results that there are, until all are written; without results too, to renew the claim."""
        while not self._is_over.is_set() or self._unwritten:
            outcomes, self._unwritten = self._unwritten, []
            started = monotonic()
            await self.queue.record(self.claim, outcomes)
            pause_s = max(WRITE_S, monotonic() - started)  # on a busy machine too, others get to write as long
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), min(pause_s, self.claim.lease_s / 3))

    async def _work(self) -> Failure | None:
        """Return why the run has failed; None once every item is finished."""
        failure = None
        try:
            async with asyncio.timeout(self.claim.remaining_s):
                await self._finish_all()
        except* InvalidField as gone:  # a model was deleted, or an older release took what this one does not
            fault = next(each for each in gone.exceptions if isinstance(each, InvalidField))
            failure = Failure("invalid_definition", fault.message, fault.param)
        except* AccessDenied:
            failure = _REVOKED
        except* TimeoutError:
            failure = _EXPIRED
        return failure

    async def _finish_all(self) -> None:
        graders = read_criteria(self.claim.testing_criteria)
        source = parse_run_source(self.claim.run.data_source)
        await check_models(graders, self.models)
        places, last = asyncio.Semaphore(min(ITEMS_AT_ONCE, self.client.in_flight.lines)), 0
        async with asyncio.TaskGroup() as group:
            while items := await self.queue.pending(self.claim, after=last):
                for item in items:
                    await places.acquire()
                    finishing = group.create_task(self._finish(item, source, graders))
                    finishing.add_done_callback(lambda _: places.release())
                last = items[-1].number

    async def _finish(self, item: EvalItem, source: RunSource, graders: Sequence[Grader]) -> None:
        """Ask about an item and grade the answer; asked again if this process dies before both are written."""
        answer = (
            await self._ask(item, source) if isinstance(source, CompletionsSource) else answer_of_source(item.answer)
        )
        models = CountedModels(self.models, {name: dict(usage) for name, usage in answer.usage.items()})
        grades = [] if answer.has_failed else [await self._grade(grader, answer, item, models) for grader in graders]
        results = [result_of(grader, grade) for grader, grade in zip(graders, grades, strict=False)]
        status = _status(grades, results)
        self._unwritten.append(Outcome(item.number, status, answer.sample, results, models.usage))

    async def _ask(self, item: EvalItem, source: CompletionsSource) -> Answer:
        try:
            body = body_for(source, self.claim.run.model, item.item)
        except Ungraded as why:
            return failed(why.error, str(why))
        response = await self.client.send(CHAT, body["model"], body)
        return answer_in(response, body, source.sampling_params)

    async def _grade(self, grader: Grader, answer: Answer, item: EvalItem, models: CountedModels) -> Grade:
        try:
            return await grader.grade(Sample(answer.text, item.item), models)
        except AccessDenied:
            raise
        except Exception as unexpected:  # the other items are worth their results
            log.exception("a grader failed", run=self.claim.run.id, item=item.id, grader=grader.name)
            return Grade(0.0, errors={GradingError.OTHER: f"the grader failed: {unexpected}"[:500]})


def _status(grades: Sequence[Grade], results: Sequence[Mapping[str, object]]) -> ItemStatus:
    if not grades or any(grade.errors.keys() - FAULTS_OF_ANSWERS for grade in grades):
        return ItemStatus.ERROR
    return ItemStatus.PASS if all(result["passed"] for result in results) else ItemStatus.FAIL
