"""Draws answers for runs on the serving engine, behind all other requests: of policies, with rewards; of teachers."""

import asyncio
import math
import random
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Final

from adapters.errors import AdapterRefused, Fault
from adapters.storage.disk import in_thread
from adapters.storage.manifest import CONFIG_FILE
from server.access.caller import Caller
from server.concurrency import together
from server.engine.protocol import Demand, Engine, EngineGone, Resident, Sampled
from server.errors import EngineNotReady
from server.gateway.authenticate import holder
from server.gateway.gateway import Deferred
from server.operations.grader_client import GraderClient, as_caller
from server.state import AppState
from trainer.errors import InvalidField
from trainer.graders.grader import Grader, GradingError, Sample
from trainer.graders.models import Models
from trainer.graders.parsing import parse
from trainer.jobs.job import Job
from trainer.jobs.rows import check_publishable
from trainer.policy_sampling import PolicyAnswer, PolicyAnswers, PolicyPrompt, PolicyRequest
from trainer.run_directory import RunDirectory
from trainer.training_method import TrainingMethod

FIRST_POLICY_ID: Final = 3 * 2**29
"""Above the ids of versions and of the probe's candidates, and within vLLM's 32 bits."""
GRADED_AT_ONCE: Final = 32
_IDS: Final = count(FIRST_POLICY_ID)


@dataclass(frozen=True, slots=True)
class RunSampler:
    """Implements ``trainer.policy_sampling.PolicySampling``; ``deferred`` returns an app whose requests act for a key.

    The policy of a step is a temporary resident: the engine has it for one request, under an id that is never used
    again. It has no version, no row and no probe, takes no capacity from the residents and evicts none of them.

    A teacher is the base model or a version, and is asked as any request asks it.
    """

    state: AppState
    deferred: Deferred
    _grading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(GRADED_AT_ONCE))

    async def sample(self, job_id: str, request: PolicyRequest, claim: int | None = None) -> PolicyAnswers:
        """Return the answers of the job's policy and their rewards, or those of its teacher.

        Raises:
            JobNotFound: there is no such job.
            IllegalTransition, LeaseLost: as ``check_publishable``.
            NotFound: there is no such teacher any more.
            AdapterRefused: the engine does not take the policy, died twice with it, or computes NaN.
            EngineNotReady: no engine answers at present.
        """
        job = await self.state.records.jobs.get(job_id)
        check_publishable(job, claim)
        is_taught = job.method["type"] == TrainingMethod.DISTILL
        if job.grader is None and not is_taught:
            raise InvalidField(f"a job of the method {job.method['type']} draws no answers", param="job_id")
        if request.step is None and not is_taught:
            raise InvalidField(f"a job of the method {job.method['type']} has no teacher", param="step")
        caller = holder(self.state.keys, job.key_id, job.project)
        if request.step is None:
            drawn = await self._taught(job, caller, request)
        else:
            drawn = await self._drawn(job, request, request.step)
            self._charge(caller, job, request, drawn)
        if job.grader is None:
            return PolicyAnswers(answers=[[_ungraded(answer) for answer in answers] for answers in drawn])
        grader = parse(job.grader, "grader")
        models = GraderClient(self.state, caller, as_caller(self.deferred(job.key_id), {}), is_deferred=True)
        grading = [
            self._graded(grader, prompt, answer, models)
            for prompt, answers in zip(request.prompts, drawn, strict=True)
            for answer in answers
        ]
        graded = iter(await asyncio.gather(*grading))
        return PolicyAnswers(answers=[[next(graded) for _ in answers] for answers in drawn])

    async def _taught(self, job: Job, caller: Caller, request: PolicyRequest) -> list[list[Sampled]]:
        """Return the teacher's answers: one deferred request, of a generation for each prompt."""
        hooks, trying = self.state.hooks, f"teacher of {job.id} with seed {request.seed}".encode()
        with hooks.request(caller, is_deferred=True, content=trying) as context:
            if hooks.suspects.is_guilty(context.fingerprint):
                fault = Fault("teacher", "questions with which the engine died twice", "other questions, in a new job")
                raise AdapterRefused([fault])
            resident = None if job.teacher is None else await hooks.resolve(job.teacher)

            async def ask(prompt: PolicyPrompt, place: int) -> list[Sampled]:
                engine = self.state.engine.serving().engine
                most = _most_tokens(engine, prompt, request)
                async with hooks.generation(resident, Demand(len(prompt.ids), most, request.samples)) as generation:
                    answers = await _sampled(engine, resident, prompt, request, place)
                    generation.prompt_tokens = len(prompt.ids)
                    generation.generated_tokens = sum(len(answer.ids) for answer in answers)
                return answers

            try:
                drawn = await together(ask(prompt, place) for place, prompt in enumerate(request.prompts))
            except EngineGone as gone:
                raise EngineNotReady(
                    "the engine died while a teacher answered; it is rebuilt", retry_after_s=5
                ) from gone
            context.status = HTTPStatus.OK
        return drawn

    async def _drawn(self, job: Job, request: PolicyRequest, step: int) -> list[list[Sampled]]:
        directory = RunDirectory(self.state.settings.runs_dir / job.id).policy_path(step)
        if not await in_thread((directory / CONFIG_FILE).is_file):
            needed = "a worker that shares this server's --data-dir"
            raise AdapterRefused([Fault("policy", f"no adapter of step {step} in the run's directory", needed)])
        running, suspects = self.state.engine.serving(), self.state.hooks.suspects
        policy = Resident(number := next(_IDS), f"policy@{number}", directory)
        trying = f"policy of {job.id} at step {step}"
        try:
            async with running.residency.trial(policy) as engine:
                return await together(
                    self._answers(engine, policy, job, prompt, request, place)
                    for place, prompt in enumerate(request.prompts)
                )
        except (EngineGone, EngineNotReady) as gone:
            if suspects.note(trying, running.engine):
                fault = Fault("policy", "weights with which the engine died twice", "a lower learning_rate_multiplier")
                raise AdapterRefused([fault]) from gone
            raise EngineNotReady("the engine died while a policy answered; it is rebuilt", retry_after_s=5) from gone

    async def _answers(
        self, engine: Engine, policy: Resident, job: Job, prompt: PolicyPrompt, request: PolicyRequest, place: int
    ) -> list[Sampled]:
        """Return the answers to one prompt, in a turn behind all other requests."""
        demand = Demand(len(prompt.ids), _most_tokens(engine, prompt, request), request.samples)
        scheduler = self.state.engine.running().scheduler
        turn = await scheduler.turn(policy.id, demand, project=job.project, is_deferred=True)
        try:
            return await _sampled(engine, policy, prompt, request, place)
        finally:
            scheduler.end(turn)

    def _charge(self, caller: Caller, job: Job, request: PolicyRequest, drawn: list[list[Sampled]]) -> None:
        """Count the tokens as the job's adapter's; like a batch, they count in no limit a minute."""
        counts = self.state.accounts.usage.counts(caller, job.adapter)
        counts.prompt_tokens += sum(len(prompt.ids) for prompt in request.prompts)
        counts.completion_tokens += sum(len(answer.ids) for answers in drawn for answer in answers)

    async def _graded(self, grader: Grader, prompt: PolicyPrompt, answer: Sampled, models: Models) -> PolicyAnswer:
        """Return ``answer`` with its reward: 0 for an error that the answer is to blame for, none for others."""
        async with self._grading:
            grade = await grader.grade(Sample(answer.text, prompt.item), models)
        others = grade.errors.keys() - {GradingError.SAMPLE}
        return PolicyAnswer(
            ids=list(answer.ids),
            logprobs=list(answer.logprobs),
            text=answer.text,
            reward=None if others else grade.reward,
            error=next((f"{error}: {message}" for error, message in grade.errors.items()), None),
        )


def _most_tokens(engine: Engine, prompt: PolicyPrompt, request: PolicyRequest) -> int:
    """Return the tokens that an answer may have.

    Raises:
        AdapterRefused: none is left for it.
    """
    left = engine.context - len(prompt.ids)
    if left < 1:
        raise AdapterRefused(
            [Fault("prompt", f"a prompt of {len(prompt.ids)} tokens", f"fewer than {engine.context}, for an answer")]
        )
    return min(request.max_tokens, left)


async def _sampled(
    engine: Engine, resident: Resident | None, prompt: PolicyPrompt, request: PolicyRequest, place: int
) -> list[Sampled]:
    """Return the engine's answers to the prompt in this ``place`` of the request.

    Raises:
        AdapterRefused: the model computes NaN.
    """
    answers = await engine.sample(
        resident,
        prompt.ids,
        samples=request.samples,
        max_tokens=_most_tokens(engine, prompt, request),
        seed=random.Random(f"{request.seed} {place}").getrandbits(31),  # noqa: S311 - no secret depends on it
        temperature=request.temperature,
    )
    if not all(math.isfinite(number) for answer in answers for number in answer.logprobs):
        whose, needed = "policy", "finite numbers: a lower learning_rate_multiplier"
        if request.step is None:
            whose, needed = "teacher", "a model that computes finite numbers"
        raise AdapterRefused([Fault(whose, f"no finite probabilities {request.source}", needed)])
    return answers


def _ungraded(answer: Sampled) -> PolicyAnswer:
    return PolicyAnswer(ids=list(answer.ids), logprobs=list(answer.logprobs), text=answer.text, reward=None)
