"""Answers of the real engine are collected, compared, exported and accepted by the check of a dpo job."""

from __future__ import annotations

import asyncio
import json

PAIRS = 12


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
