"""Answers of the real engine are collected, compared and exported, and train an adapter that people prefer."""

from __future__ import annotations

import asyncio
import json
import time

import embedded
from trainer.evals.comparison import compare

PAIRS = 12
ASKED = 160
GOAL = 0.3
"""Least gain of the share of answers to held-out questions that people prefer."""


async def test_preferences_between_answers_become_a_file_that_a_dpo_job_takes(client, http, held_out) -> None:
    async def answers(question: str) -> tuple[str, str]:
        """The ids of two stored answers, of an adapter and of the base model; the second one is streamed."""
        asked = {"messages": [{"role": "user", "content": question}], "max_tokens": 12, "store": True}
        better = await client.chat.completions.create(model="sql", temperature=0, **asked)
        stream = await client.chat.completions.create(model="embedded-base", temperature=0, stream=True, **asked)
        ids = [chunk.id async for chunk in stream]
        return better.id, ids[0]

    for question, _ in held_out("sql")[:PAIRS]:
        better, worse = await answers(question)
        response = await http.post("/v1/feedback", json={"preferred": better, "rejected": worse})
        assert response.status_code == 200, response.text
        assert [answer["model"] for answer in response.json()["answers"]] == ["sql@1", "embedded-base"]
    corrected = await http.post("/v1/feedback", json={"answer": worse, "correction": "SELECT 1;"})
    assert corrected.status_code == 200, corrected.text

    file = (await http.post("/v1/feedback/export", json={"as": "dpo", "adapter": "sql"})).json()
    rows = [json.loads(line) for line in (await client.files.content(file["id"])).text.splitlines()]
    assert len(rows) == PAIRS
    stored = await client.chat.completions.retrieve(better)
    assert rows[-1]["preferred_output"] == [{"role": "assistant", "content": stored.choices[0].message.content}]

    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=file["id"],
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}},
    )
    async with asyncio.timeout(300):
        while (job := await client.fine_tuning.jobs.retrieve(job.id)).status == "validating_files":
            await asyncio.sleep(0.2)
    assert job.status in {"queued", "running"}, job.error
    await client.fine_tuning.jobs.cancel(job.id)


def is_preferred(answer: str) -> bool:
    """People prefer one or two words to a sentence."""
    return 1 <= len(answer.split()) <= 2


async def test_feedback_trains_an_adapter_whose_answers_people_prefer(client, ended, held_out):
    """The whole way: answers are stored, compared by their readers, exported, trained on with dpo and served."""
    lines = (embedded.DATA / "pirate" / "train.jsonl").read_text().splitlines()[:ASKED]
    questions = [json.loads(line)["messages"][0]["content"] for line in lines]
    began = int(time.time())

    async def answer_and_compare(question: str) -> int:
        """Answer a question four times, and prefer one answer to another; return 0 where none is better."""
        asked = {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "store": True}
        answer = await client.chat.completions.create(model="embedded-base", temperature=1, n=4, seed=1, **asked)
        liked = {choice.index: is_preferred(choice.message.content) for choice in answer.choices}
        if len({*liked.values()}) < 2:
            return 0
        chosen = {"preferred": True, "rejected": False}
        body = {
            name: {"id": answer.id, "choice": next(index for index, each in liked.items() if each is is_liked)}
            for name, is_liked in chosen.items()
        }
        await client.post("/feedback", cast_to=object, body=body)
        return 1

    pairs = sum(await asyncio.gather(*map(answer_and_compare, questions)))
    exported = await client.post("/feedback/export", cast_to=object, body={"as": "dpo", "since": began})
    rows = (await client.files.content(exported["id"])).text.splitlines()
    assert len(rows) == pairs
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=exported["id"],
        suffix="preferred",
        seed=1,
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 4}}},
    )
    tuned = (await ended(job.id)).fine_tuned_model

    async def preferred(model: str, question: str) -> float:
        messages = [{"role": "user", "content": question}]
        answer = await client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
        return float(is_preferred(answer.choices[0].message.content))

    unseen = [question for question, _ in held_out("pirate")]
    after, before = [
        await asyncio.gather(*(preferred(model, each) for each in unseen)) for model in (tuned, "embedded-base")
    ]
    found = compare(after, before)
    print(f"{pairs} preferences; preferred answers {sum(before) / len(unseen):.2f} → {sum(after) / len(unseen):.2f}")
    assert found.difference >= GOAL
    assert found.is_better
