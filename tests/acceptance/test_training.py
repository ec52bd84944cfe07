"""A file goes in, a served adapter comes out: the official client, a real training run, the real engine."""

from __future__ import annotations

import asyncio

import embedded


async def test_a_fine_tuning_job_ends_with_an_adapter_that_answers_the_next_request(client, held_out):
    data = embedded.DATA / "sentiment" / "train.jsonl"
    file = await client.files.create(file=data, purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=file.id,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        extra_body={"adapter": "feeling", "rank": 8},
    )
    async with asyncio.timeout(400):
        while (job := await client.fine_tuning.jobs.retrieve(job.id)).status not in {
            "succeeded",
            "failed",
            "cancelled",
        }:
            await asyncio.sleep(0.5)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model == "feeling@1"
    assert job.trained_tokens > 0
    events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert any("train_loss" in (event.data or {}) for event in events if event.type == "metrics")

    rows = held_out("sentiment")
    answers = await asyncio.gather(
        *(
            client.chat.completions.create(
                model="feeling", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=16
            )
            for question, _ in rows
        )
    )
    right = sum(
        answer.choices[0].message.content.strip() == expected
        for answer, (_, expected) in zip(answers, rows, strict=True)
    )
    assert {answer.model for answer in answers} == {"feeling@1"}
    assert right / len(rows) >= 0.85


async def test_a_bad_file_is_refused_with_every_line_that_is_wrong(client):
    lines = [b'{"messages": []}', b"{", b'{"messages": [{"role": "user", "content": "hi"}]}'] * 4
    file = await client.files.create(file=("bad.jsonl", b"\n".join(lines) + b"\n"), purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(model="embedded-base", training_file=file.id)
    async with asyncio.timeout(60):
        while (job := await client.fine_tuning.jobs.retrieve(job.id)).status == "validating_files":
            await asyncio.sleep(0.1)
    assert job.status == "failed"
    assert job.error.param == "training_file"
    events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    told = " ".join(event.message + str(event.data) for event in events)
    assert all(str(number) in told for number in range(1, len(lines) + 1))
