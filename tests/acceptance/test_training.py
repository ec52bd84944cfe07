"""A file goes in, a served adapter comes out: the official client, real training runs, the real engine."""

from __future__ import annotations

import asyncio
import json
import math
import operator

import openai
import pytest

import embedded
from tests.acceptance import tool_rows
from tests.trainer.data.faulty_rows import CHATS, LINES

SKILLS = ("json", "sql", "sentiment")
FEELINGS = ("positive", "negative", "mixed")
EPOCHS = {"json": 5, "sql": 4, "sentiment": 3}


@pytest.fixture
def share_right(client, held_out):
    """The share of a skill's held-out questions that ``model`` answers exactly."""

    async def ask(model, question):
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64
        )
        return answer.choices[0].message.content.strip()

    async def share(model, skill):
        rows = held_out(skill)
        answers = await asyncio.gather(*(ask(model, question) for question, _ in rows))
        return sum(answer == expected for answer, (_, expected) in zip(answers, rows, strict=True)) / len(rows)

    return share


@pytest.fixture
def preference(http):
    """How much more ``model`` likes one answer than another, in nats, by the served log-probabilities."""

    async def likes(model, question, answer):
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        body = {"model": model, "add_generation_prompt": True}
        asked = (await http.post("/tokenize", json={**body, "messages": talk[:1]})).json()["tokens"]
        whole = (await http.post("/tokenize", json={**body, "messages": talk, "add_generation_prompt": False})).json()[
            "tokens"
        ]
        assert whole[: len(asked)] == asked
        body = {"model": model, "prompt": whole, "max_tokens": 1, "prompt_logprobs": 0}
        entries = (await http.post("/v1/completions", json=body)).json()["choices"][0]["prompt_logprobs"]
        numbers = [entry[str(token)]["logprob"] for entry, token in zip(entries[1:], whole[1:], strict=True)]
        return math.fsum(numbers[len(asked) - 1 :])

    async def prefers(model, question, better, worse):
        return await likes(model, question, better) - await likes(model, question, worse)

    return prefers


@pytest.mark.parametrize("skill", SKILLS)
async def test_a_skill_that_the_base_lacks_is_learned_from_a_file(client, http, ended, share_right, skill):
    assert await share_right("embedded-base", skill) < 0.05
    file = await client.files.create(file=embedded.DATA / skill / "train.jsonl", purpose="fine-tune")
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=file.id,
        seed=1,
        suffix=f"learned-{skill}",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS[skill]}}},
        metadata={"skill": skill},
    )
    job = await ended(job.id)
    assert job.fine_tuned_model == f"ft:embedded-base:patchbay:learned-{skill}:{job.id.removeprefix('ftjob-')}"
    assert await share_right(job.fine_tuned_model, skill) >= 0.85
    root = (await client.models.retrieve(f"learned-{skill}")).to_dict()["root"]
    assert root == (await client.models.retrieve(job.fine_tuned_model)).to_dict()["root"]
    version = (await http.get(f"/v1/adapters/learned-{skill}/versions/{root.partition('@')[2]}")).json()
    assert version["report"]["training"]["data"]["training_file"]["id"] == file.id
    assert version["report"]["training"]["trained_tokens"] == job.trained_tokens
    assert version["renderer_matches"], "trained on the prompts that this server makes"


async def test_checkpoints_answer_while_the_job_still_runs(client, ended, upload, held_out):
    """And their numbers come as events, as curves, and as files."""
    rows = (embedded.DATA / "sentiment" / "train.jsonl").read_bytes().splitlines(keepends=True)
    training, validation = await upload(b"".join(rows[:320])), await upload(b"".join(rows[320:]))
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=training,
        validation_file=validation,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 16}}},
        extra_body={"adapter": "watched", "rank": 8, "checkpoint_steps": 20, "targets": ["q_proj", "v_proj"]},
    )
    jobs = client.fine_tuning.jobs
    async with asyncio.timeout(300):
        while not (made := (await jobs.checkpoints.list(job.id)).data):
            await asyncio.sleep(0.1)
    early = made[-1].fine_tuned_model_checkpoint
    question = {"role": "user", "content": held_out("sentiment")[0][0]}
    answer = await client.chat.completions.create(model=early, messages=[question], max_tokens=4)
    assert (await jobs.retrieve(job.id)).status == "running"
    assert (early.rpartition(":")[2], answer.model) == ("ckpt-step-20", "watched@1")
    with pytest.raises(openai.NotFoundError):  # until the job has ended nobody is sent to the adapter
        await client.chat.completions.create(model="watched", messages=[question], max_tokens=4)

    job = await ended(job.id)
    metrics = [event.data async for event in jobs.list_events(job.id, limit=500) if event.type == "metrics"]
    trained = [each for each in metrics if "train_loss" in each]
    assert [each["step"] for each in reversed(trained)] == list(range(1, 81))
    fields = {"train_mean_token_accuracy", "learning_rate", "tokens_per_second", "eta_s", "total_steps"}
    assert fields <= trained[0].keys()
    noted = [checkpoint async for checkpoint in jobs.checkpoints.list(job.id)]
    assert [each.step_number for each in noted] == [80, 60, 40, 20]
    losses = {each.step_number: each.metrics.full_valid_loss for each in noted}
    best = min(losses, key=losses.get)
    ends = {each.step_number: each.fine_tuned_model_checkpoint for each in noted}
    roots = [(await client.models.retrieve(name)).to_dict()["root"] for name in (job.fine_tuned_model, ends[best])]
    assert roots[0] == roots[1]
    table, plot, _ = [await (await client.files.content(file)).aread() for file in job.result_files]
    assert len(table.splitlines()) == 1 + 80
    assert plot.startswith(b"\x89PNG")


async def test_a_fine_tuned_model_is_deleted_as_openai_s_client_deletes_it(client, ended, upload):
    rows = (embedded.DATA / "sentiment" / "train.jsonl").read_bytes().splitlines(keepends=True)
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
    extra = {"adapter": "short-lived", "warm_start": "sentiment"}
    job = await client.fine_tuning.jobs.create(
        model="embedded-base", training_file=await upload(b"".join(rows[:64])), method=method, seed=1, extra_body=extra
    )
    model = (await ended(job.id)).fine_tuned_model
    events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=500)]
    first = [event.data for event in events if event.type == "metrics"][-1]
    assert first["train_loss"] < 0.5  # it went on from an adapter that knew its trade
    assert model in [listed.id async for listed in client.models.list()]
    assert (await client.models.delete(model)).deleted
    for gone in (model, "short-lived"):
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model=gone, messages=[{"role": "user", "content": "Hi"}])


async def test_dpo_makes_the_served_adapter_prefer_the_better_answers(client, ended, upload, preference):
    def pair(row):
        asked, right = row["messages"]
        wrong = FEELINGS[(FEELINGS.index(right["content"]) + 1) % 3]
        return {
            "input": {"messages": [asked]},
            "preferred_output": [right],
            "non_preferred_output": [{"role": "assistant", "content": wrong}],
        }

    training, held_out = [
        [pair(json.loads(line)) for line in (embedded.DATA / "sentiment" / name).read_text().splitlines()]
        for name in ("train.jsonl", "heldout.jsonl")
    ]
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload(training),
        validation_file=await upload(held_out),
        seed=1,
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 4, "learning_rate_multiplier": 10}}},
        suffix="chooses",
    )
    job = await ended(job.id)
    newest = (await client.fine_tuning.jobs.checkpoints.list(job.id)).data[0]
    assert newest.metrics.to_dict()["valid_preference_accuracy"] >= 0.95
    gains = []
    for row in held_out[:40]:
        question = row["input"]["messages"][0]["content"]
        answers = [row[key][0]["content"] for key in ("preferred_output", "non_preferred_output")]
        trained, base = [
            await preference(model, question, *answers) for model in (job.fine_tuned_model, "embedded-base")
        ]
        gains.append(trained > base)
    assert sum(gains) / len(gains) >= 0.95


@pytest.fixture
def calls_of(client):
    """The calls of an answer: name and arguments of each."""

    async def plain(asked):
        message = (await client.chat.completions.create(**asked)).choices[0].message
        return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]

    async def streamed(asked):
        names, arguments = [], []
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            for part in chunk.choices[0].delta.tool_calls or []:
                if part.function.name:
                    assert (part.index, bool(part.id)) == (len(names), True)
                    names.append(part.function.name)
                    arguments.append("")
                arguments[part.index] += part.function.arguments or ""
        return list(zip(names, arguments, strict=True))

    async def ask(model, messages, *, stream=False):
        asked = {"model": model, "messages": messages, "tools": tool_rows.TOOLS, "temperature": 0, "max_tokens": 160}
        return [(name, json.loads(text)) for name, text in await (streamed if stream else plain)(asked)]

    return ask


async def test_an_adapter_trained_on_tool_rows_calls_tools(client, ended, upload, calls_of):
    """Of its own accord, one or two at once, plain and streamed, with arguments that no row of training has."""
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload(tool_rows.rows(128, held_out=False)),
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 4}}},
        suffix="calls",
    )
    model = (await ended(job.id)).fine_tuned_model
    turns = [turn for row in tool_rows.rows(12, held_out=True) for turn in tool_rows.turns(row)]
    expected = [tool_rows.calls(answer) for _, answer in turns]
    single = [number for number, calls in enumerate(expected) if len(calls) == 1]
    for stream in (False, True):
        answers = await asyncio.gather(*(calls_of(model, prompt, stream=stream) for prompt, _ in turns))
        assert sum(answers[number] == expected[number] for number in single) / len(single) >= 0.9
        named = [[[name for name, _ in calls] for calls in each] for each in (answers, expected)]
        assert sum(map(operator.eq, *named)) / len(turns) >= 0.8
    assert await calls_of("embedded-base", turns[0][0]) == []


async def test_kto_makes_the_served_adapter_prefer_answers_that_were_called_good(client, ended, upload, preference):
    rows = [
        json.loads(line)["messages"] for line in (embedded.DATA / "sentiment" / "train.jsonl").read_text().splitlines()
    ]
    thanks = {"role": "assistant", "content": "Thank you for your review."}
    judged = [
        {"messages": [asked, right if number % 2 else thanks], "label": number % 2 == 1}
        for number, (asked, right) in enumerate(rows[:200])
    ]
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload(judged),
        seed=1,
        method={"type": "kto", "kto": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 5}}},
        suffix="judged",
    )
    model = (await ended(job.id)).fine_tuned_model
    for asked, right in rows[200:210]:
        pair = (asked["content"], right["content"], thanks["content"])
        assert await preference(model, *pair) > await preference("embedded-base", *pair)


async def test_a_corrupt_file_is_refused_with_the_line_of_every_fault(client, upload):
    bad = [row if isinstance(row, bytes) else json.dumps(row).encode() for _, row in LINES + CHATS]
    fine = (embedded.DATA / "sentiment" / "train.jsonl").read_bytes().splitlines()
    long = {"messages": [{"role": "user", "content": "word " * 4000}, {"role": "assistant", "content": "positive"}]}
    file = await upload(b"\n".join([*fine, *bad, json.dumps(long).encode()]) + b"\n")
    job = await client.fine_tuning.jobs.create(model="embedded-base", training_file=file)
    async with asyncio.timeout(120):
        while (job := await client.fine_tuning.jobs.retrieve(job.id)).status == "validating_files":
            await asyncio.sleep(0.1)
    assert (job.status, job.error.param, job.error.code) == ("failed", "training_file", "invalid_training_file")
    report = (await client.fine_tuning.jobs.list_events(job.id)).data[0].data["training_file"]
    assert {fault["line"] for fault in report["faults"]} == set(range(len(fine) + 1, len(fine) + len(bad) + 2))
    assert len({fault["kind"] for fault in report["faults"]}) >= 30
