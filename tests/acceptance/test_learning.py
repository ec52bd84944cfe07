"""Rewards: rankings make a reward model, and a policy learns from the rewards of its own answers on the real engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import embedded

TERSE = {"role": "system", "content": "Answer tersely."}
ABOUT = {"type": "string_check", "name": "word", "input": "{{sample.output_text}}", "operation": "like"}
GOAL = 0.3
"""Least gain of the share of short answers to held-out questions."""


def asked(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Questions about facts: the base answers in a sentence, now and then in a word."""
    lines = (embedded.DATA / "pirate" / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"][0]["content"] for line in lines]


@pytest.fixture
def answers(client):
    """Asks a model all questions at once, each without chance."""

    async def ask(model: str, messages: list[dict[str, Any]]) -> str:
        answer = await client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
        return answer.choices[0].message.content

    async def answers(model: str, asked: list[str], *before: dict[str, Any]) -> list[str]:
        return await asyncio.gather(*(ask(model, [*before, {"role": "user", "content": each}]) for each in asked))

    return answers


@pytest.fixture
def curve(client):
    """The values of a metric in a job's events, from the first step to the last."""

    async def curve(job_id: str, name: str) -> list[float]:
        events = (await client.fine_tuning.jobs.list_events(job_id, limit=1000)).data
        return [event.data[name] for event in reversed(events) if event.type == "metrics" and name in event.data]

    return curve


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


async def test_a_policy_learns_what_a_reward_model_has_learned_from_rankings(
    client, http, ended, upload, held_out, questions, answers, curve
):
    """People prefer short answers. Neither job is told so: the rankings say it, and the reward model passes it on."""
    short = await answers("embedded-base", questions[:120], TERSE)
    whole = await answers("embedded-base", questions[:120])
    pairs = zip(questions, short, whole, strict=False)
    ranked = [{**asked(each), "ranking": [better, worse]} for each, better, worse in pairs if better != worse]
    judge = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload(ranked[:-24]),
        validation_file=await upload(ranked[-24:]),
        suffix="judge",
        seed=1,
        method={"type": "reward", "reward": {"hyperparameters": {"n_epochs": 2}}},
    )
    await ended(judge.id)
    accuracies = await curve(judge.id, "valid_preference_accuracy")
    print(f"reward model: {accuracies[-1]:.2f} of {24} held-out pairs")
    assert accuracies[-1] >= 0.9

    grader = {"type": "reward_model", "name": "people", "model": "judge"}
    policy = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload([asked(each) for each in questions[120:280]]),
        suffix="policy",
        seed=1,
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": grader,
                "hyperparameters": {"n_epochs": 1, "max_completion_tokens": 16, "learning_rate_multiplier": 4},
            },
        },
    )
    policy = await ended(policy.id)
    rewards = await curve(policy.id, "train_mean_reward")
    unseen = [question for question, _ in held_out("pirate")]
    shares = [
        mean([len(each.split()) <= 2 for each in await answers(model, unseen)])
        for model in ("embedded-base", policy.fine_tuned_model)
    ]
    print(f"reward {mean(rewards[:3]):.2f} → {mean(rewards[-3:]):.2f}, short answers {shares[0]:.2f} → {shares[1]:.2f}")
    assert mean(rewards[-3:]) > mean(rewards[:3])
    assert shares[1] >= shares[0] + GOAL

    # The answers were drawn here: with the adapter of each step, which was neither a version nor a resident.
    assert max(await curve(policy.id, "sampling_difference")) < 0.1
    versions = (await http.get("/v1/adapters/policy/versions")).json()["data"]
    assert {version["source"] for version in versions} == {f"job:{policy.id}"}
    used = (await http.get("/v1/usage", params={"adapter": "policy"})).json()["data"]
    drawn = sum(row["completion_tokens"] for row in used if row["adapter"] == "policy")
    lengths = await curve(policy.id, "mean_completion_tokens")
    assert drawn >= sum(lengths) * 8 * 8 * 0.9  # 8 answers to 8 prompts a step; usage is written every few seconds
    samples = [file for file in policy.result_files if (await client.files.retrieve(file)).filename == "samples.jsonl"]
    lines = (await client.files.content(samples[0])).text.splitlines()
    assert [json.loads(line)["step"] for line in lines] == [step for step in range(len(rewards)) for _ in range(2)]


async def test_a_string_check_teaches_a_word(client, ended, upload, questions, curve, http):
    """Beside the job the server answers chats: the sampling waits behind them."""
    grader = {**ABOUT, "reference": "{{item.word}}"}
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload([{**asked(each), "word": "."} for each in questions[:64]]),
        suffix="dots",
        seed=1,
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": grader,
                "hyperparameters": {"n_epochs": 1, "max_completion_tokens": 16, "algorithm": "rloo"},
            },
        },
    )
    running = asyncio.create_task(ended(job.id))
    answered = 0
    while not running.done():
        chat = await client.chat.completions.create(
            model="sql", messages=[{"role": "user", "content": "List the author of books."}], max_tokens=8
        )
        assert chat.choices[0].message.content
        answered += 1
    await running
    print(f"{answered} chats were answered beside the job")
    rewards = await curve(job.id, "train_mean_reward")
    assert len(rewards) == 8
    assert all(0 <= reward <= 1 for reward in rewards)


async def test_a_job_that_needs_a_grader_says_so(client):
    from openai import BadRequestError

    create = client.fine_tuning.jobs.create
    for method, param in (
        ({"type": "reinforcement"}, "method.reinforcement.grader"),
        ({"type": "reinforcement", "reinforcement": {"grader": {"type": "magic"}}}, "method.reinforcement.grader.type"),
    ):
        with pytest.raises(BadRequestError) as refused:
            await create(model="embedded-base", training_file="file-none", method=method)
        assert refused.value.param == param
