"""Answers of a policy are drawn with its adapter of the step, behind other requests, and graded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from adapters.errors import AdapterRefused, NotFound
from server.errors import EngineNotReady
from server.gateway.gateway import Gateway
from server.operations.run_sampler import RunSampler
from server.responses.recorder import ResponseRecorder
from tests.server.opened import CHAT, Opened
from tests.until import until
from trainer.errors import InvalidField, JobNotFound
from trainer.jobs.job import Job, JobDraft
from trainer.policy_sampling import PolicyAnswers, PolicyPrompt, PolicyRequest
from trainer.run_directory import RunDirectory

FIRST = {
    "type": "string_check",
    "name": "first",
    "input": "{{sample.output_text}}",
    "reference": "answer 0",
    "operation": "like",
}
ASKED = PolicyRequest(
    step=3,
    prompts=[PolicyPrompt(ids=[1, 2, 3], item={"n": 1}), PolicyPrompt(ids=[4], item={"n": 2})],
    samples=4,
    max_tokens=8,
    seed=7,
)


OF_TEACHER = ASKED.model_copy(update={"step": None, "samples": 1, "temperature": 0.0})


async def make_job(opened: Opened, grader: dict[str, Any] | None = FIRST, method: dict[str, Any] | None = None) -> Job:
    method = method or {
        "type": "reinforcement",
        "reinforcement": {"hyperparameters": {}} | ({"grader": grader} if grader else {}),
    }

    async def rows() -> AsyncIterator[bytes]:
        yield b"{}\n"

    file = await opened.state.records.files.create("fine-tune", "tasks.jsonl", rows())
    draft = JobDraft("base", file.id, method, seed=1, extension={"adapter": "policy"})
    job = await opened.state.records.jobs.create(draft)
    run = RunDirectory(opened.state.settings.runs_dir / job.id)
    opened.make_adapter(1).write(run.policy_path(3))
    return job


@pytest.fixture
async def job(opened: Opened) -> Job:
    return await make_job(opened)


@pytest.fixture
def sampler(opened: Opened) -> RunSampler:
    state = opened.state
    gateway = Gateway(
        hooks=state.hooks,
        engine=state.engine,
        keys=state.keys,
        admission=state.admission,
        bodies=state.bodies,
        responses=ResponseRecorder(state.responses),
    )
    return RunSampler(state, gateway.deferred)


async def test_the_policy_is_resident_for_its_answers_alone_and_is_no_version(
    opened: Opened, job: Job, sampler: RunSampler
) -> None:
    answer = await sampler.sample(job.id, ASKED)
    assert [[answer.reward for answer in group] for group in answer.answers] == [[1.0, 0.0, 0.0, 0.0]] * 2
    (loaded,) = (name for name in opened.engine.loads if name.startswith("policy@"))
    assert answer.answers[0][0].text == f"{loaded} answer 0"
    assert opened.engine.unloads == [loaded]
    assert opened.residents == {}
    assert (await opened.client.get("/v1/adapters")).json()["data"] == []


async def test_no_two_policies_have_the_same_id(opened: Opened, job: Job, sampler: RunSampler) -> None:
    for _ in range(3):
        await sampler.sample(job.id, ASKED)
    loads = [name for name in opened.engine.loads if name.startswith("policy@")]
    assert len(set(loads)) == len(loads) == 3


async def test_a_chat_is_answered_before_the_answers_that_wait(opened: Opened, job: Job, sampler: RunSampler) -> None:
    """The policy's answers hold half of the engine's places, so they come in three waves, and the chat in the first."""
    opened.builder.knobs.token_s = 0.2
    half = opened.engine.batch.sequences // 2
    prompts = [PolicyPrompt(ids=[number + 1], item={}) for number in range(3 * half // ASKED.samples)]
    sampling = asyncio.create_task(sampler.sample(job.id, ASKED.model_copy(update={"prompts": prompts})))
    await until(lambda: bool(opened.engine.residents))
    asked = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    chat = await opened.client.post(CHAT, json=asked)
    assert chat.status_code == 200, chat.text
    assert not sampling.done()
    assert len((await sampling).answers) == len(prompts)


async def test_the_tokens_are_charged_to_the_job_s_adapter(opened: Opened, job: Job, sampler: RunSampler) -> None:
    await sampler.sample(job.id, ASKED)
    await opened.state.accounts.usage.flush()
    (row,) = (await opened.client.get("/v1/usage")).json()["data"]
    assert (row["adapter"], row["prompt_tokens"], row["completion_tokens"]) == ("policy", 4, 16)


async def test_a_worker_beside_the_server_gets_the_same_answers(opened: Opened, job: Job, sampler: RunSampler) -> None:
    asked = await opened.client.post(f"/v1/fine_tuning/jobs/{job.id}/policy_answers", json=ASKED.model_dump())
    assert asked.status_code == 200, asked.text
    answer = PolicyAnswers.model_validate(asked.json())
    again = await sampler.sample(job.id, ASKED)
    assert [[each.ids for each in group] for group in answer.answers] == [
        [each.ids for each in group] for group in again.answers
    ]


async def test_an_answer_that_the_grader_cannot_read_is_worth_nothing(opened: Opened, sampler: RunSampler) -> None:
    job = await make_job(opened, {**FIRST, "input": "{{sample.output_json.x}}"})
    answer = (await sampler.sample(job.id, ASKED)).answers[0][0]
    assert (answer.reward, answer.error is not None and "sample_parse_error" in answer.error) == (0.0, True)


async def test_an_answer_without_a_score_has_no_reward(opened: Opened, sampler: RunSampler) -> None:
    job = await make_job(opened, {**FIRST, "reference": "{{item.unknown}}"})
    answer = (await sampler.sample(job.id, ASKED)).answers[0][0]
    assert answer.reward is None
    assert answer.error is not None
    assert "invalid_variable_error" in answer.error


async def test_what_cannot_be_sampled_is_refused(opened: Opened, job: Job, sampler: RunSampler) -> None:
    with pytest.raises(AdapterRefused, match="no adapter of step 4"):
        await sampler.sample(job.id, ASKED.model_copy(update={"step": 4}))
    too_long = PolicyPrompt(ids=[1] * opened.engine.context, item={})
    with pytest.raises(AdapterRefused, match="a prompt of 2048 tokens"):
        await sampler.sample(job.id, ASKED.model_copy(update={"prompts": [too_long]}))
    with pytest.raises(JobNotFound):
        await sampler.sample("ftjob-unknown", ASKED)
    other = await make_job(opened, None)
    with pytest.raises(InvalidField, match="draws no answers"):
        await sampler.sample(other.id, ASKED)
    assert opened.engine.residents == {}


async def test_a_policy_whose_numbers_are_not_finite_is_refused(opened: Opened, job: Job, sampler: RunSampler) -> None:
    opened.builder.knobs.effect = float("nan")
    with pytest.raises(AdapterRefused, match="no finite probabilities at step 3"):
        await sampler.sample(job.id, ASKED)


async def test_a_policy_with_which_the_engine_died_twice_is_not_tried_again(
    opened: Opened, job: Job, sampler: RunSampler
) -> None:
    opened.builder.knobs.token_s = 1.0

    async def die() -> asyncio.Task[PolicyAnswers]:
        engine = opened.engine
        asking = asyncio.create_task(sampler.sample(job.id, ASKED))
        await until(lambda: bool(engine.residents))
        engine.die()
        return asking

    with pytest.raises(EngineNotReady):
        await (await die())
    await opened.until_ready()
    with pytest.raises(AdapterRefused, match="the engine died twice"):
        await (await die())


def distilling(teacher: str | None = None) -> dict[str, Any]:
    prompt = [{"role": "system", "content": "Be brief."}]
    return {"type": "distill", "distill": {"prompt": prompt, "teacher": teacher, "hyperparameters": {}}}


async def test_the_base_model_teaches_and_nothing_is_loaded_for_it(opened: Opened, sampler: RunSampler) -> None:
    job = await make_job(opened, method=distilling())
    answers = (await sampler.sample(job.id, OF_TEACHER)).answers
    assert [[(answer.text, answer.reward) for answer in group] for group in answers] == [[("base answer 0", None)]] * 2
    assert opened.engine.loads == []
    await opened.state.accounts.usage.flush()
    (row,) = (await opened.client.get("/v1/usage")).json()["data"]
    assert (row["adapter"], row["requests"], row["prompt_tokens"], row["completion_tokens"]) == ("(base)", 1, 4, 4)


async def test_a_version_teaches_while_it_is_resident_as_for_any_request(opened: Opened, sampler: RunSampler) -> None:
    await opened.publish("sql")
    job = await make_job(opened, method=distilling("sql@1"))
    answers = (await sampler.sample(job.id, OF_TEACHER)).answers
    assert [group[0].text for group in answers] == ["sql@1 answer 0"] * 2
    assert opened.residents == {"sql@1": ("resident", 0)}


async def test_the_adapter_that_was_taught_answers_without_a_grader(opened: Opened, sampler: RunSampler) -> None:
    job = await make_job(opened, method=distilling())
    answers = (await sampler.sample(job.id, OF_TEACHER.model_copy(update={"step": 3}))).answers
    (loaded,) = (name for name in opened.engine.loads if name.startswith("policy@"))
    assert [group[0].text for group in answers] == [f"{loaded} answer 0"] * 2
    assert opened.engine.residents == {}


async def test_a_worker_beside_the_server_asks_the_teacher_too(opened: Opened, sampler: RunSampler) -> None:
    job = await make_job(opened, method=distilling())
    asked = await opened.client.post(f"/v1/fine_tuning/jobs/{job.id}/policy_answers", json=OF_TEACHER.model_dump())
    assert asked.status_code == 200, asked.text
    assert PolicyAnswers.model_validate(asked.json()) == await sampler.sample(job.id, OF_TEACHER)


async def test_a_teacher_that_is_not_there_is_named(opened: Opened, job: Job, sampler: RunSampler) -> None:
    with pytest.raises(InvalidField, match="reinforcement has no teacher"):
        await sampler.sample(job.id, OF_TEACHER)
    with pytest.raises(NotFound, match="sql@9"):
        await sampler.sample((await make_job(opened, method=distilling("sql@9"))).id, OF_TEACHER)


async def test_questions_with_which_the_engine_died_twice_are_not_asked_again(
    opened: Opened, sampler: RunSampler
) -> None:
    await opened.publish("sql")
    opened.builder.knobs.token_s = 1.0
    job = await make_job(opened, method=distilling("sql@1"))
    for _ in range(2):
        engine = opened.engine
        asking = asyncio.create_task(sampler.sample(job.id, OF_TEACHER))
        await until(lambda: bool(opened.state.engine.running().scheduler.running_keys))
        engine.die()
        with pytest.raises(EngineNotReady):
            await asking
        await opened.until_ready()
    with pytest.raises(AdapterRefused, match="the engine died twice"):
        await sampler.sample(job.id, OF_TEACHER)


async def test_another_project_can_neither_draw_nor_see_the_job(opened: Opened, job: Job) -> None:
    body = ASKED.model_dump()
    unknown: httpx.Response = await opened.client.post("/v1/fine_tuning/jobs/ftjob-none/policy_answers", json=body)
    assert unknown.status_code == 404
