"""Verdicts on the real engine: a trained adapter, one of shuffled labels and an overfitted one, told apart 20 times."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

import embedded
from adapters.gate import VerdictResult
from server.verdicts.contest import BASE, CANDIDATE, EXCHANGED, USE
from trainer.verdicts.judgement import Contestant, judge, use_of_question

MEASURES = ("exact_match", "likelihood")
REPEATS = 20
DRAWN = 60
"""Rows of each repeat."""
HELD_OUT_ROWS = 80

Row = dict[str, Any]


def read(skill: str, name: str) -> list[Row]:
    return [json.loads(line) for line in (embedded.DATA / skill / f"{name}.jsonl").read_text().splitlines()]


def shuffled(rows: list[Row]) -> list[Row]:
    """The same questions and the same answers, which do not belong together."""
    answers = [row["messages"][1] for row in rows]
    random.Random(1).shuffle(answers)
    return [{"messages": [row["messages"][0], answer]} for row, answer in zip(rows, answers, strict=True)]


@pytest.fixture
def answered(client):
    """Rows of questions with the base model's own answers: there is nothing to gain, and much to forget."""

    async def answer(row: Row) -> Row:
        asked = row["messages"][:1]
        answers = await client.chat.completions.create(
            model="embedded-base", messages=asked, temperature=0, max_tokens=24
        )
        return {"messages": [*asked, {"role": "assistant", "content": answers.choices[0].message.content}]}

    async def answered(rows: list[Row]) -> list[Row]:
        return await asyncio.gather(*map(answer, rows))

    return answered


@pytest.fixture
def judged(client, ended, upload, http):
    """Trains on rows; returns the job, the report of its version, and the scores of each held-out row."""

    async def train(
        name: str, rows: list[Row], held_out: list[Row], **hyperparameters: float
    ) -> tuple[Any, Row, list[Row]]:
        job = await client.fine_tuning.jobs.create(
            model="embedded-base",
            training_file=await upload(rows),
            validation_file=await upload(held_out),
            suffix=f"verdict-{name}",
            seed=1,
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            extra_body={"checkpoint_steps": 1000},  # the last alone: the best of several would be less overfitted
        )
        job = await ended(job.id)
        adapter, number = (await client.models.retrieve(job.fine_tuned_model)).to_dict()["root"].split("@")
        report = (await http.get(f"/v1/adapters/{adapter}/versions/{number}")).json()["report"]
        names = {(await client.files.retrieve(file)).filename: file for file in job.result_files}
        text = (await client.files.content(names["verdict.jsonl"])).text
        return job, report, [json.loads(line)["scores"] for line in text.splitlines()]

    return train


def repeated(scores: list[Row], examples: str, seed: int) -> VerdictResult:
    """The verdict on rows that the seed draws from those that were scored once."""
    rows = random.Random(seed).sample(scores, DRAWN)
    of = {name: {measure: [row[name][measure] for row in rows] for measure in MEASURES} for name in rows[0]}
    contestants = [Contestant(name, name, of[name]) for name in (BASE, examples)]
    base, candidate = (use_of_question(of[name], of[EXCHANGED.format(name)]) for name in (BASE, CANDIDATE))
    contestants.append(Contestant(USE, USE, base, candidate))
    return judge(of[CANDIDATE], contestants, MEASURES, seed=seed).result


def check(name: str, right: VerdictResult, job: Any, report: Row, scores: list[Row]) -> None:
    verdict, of = report["verdict"], report["verdict"]["of"]
    print(f"{name}: {verdict['result']}: {verdict['message']}")
    print({key: of[key] for key in ("candidate", "general_ability", "memorisation", "tokens")})
    examples = next(each["name"] for each in of["contestants"] if "examples" in each["name"])
    verdicts = [repeated(scores, examples, seed) for seed in range(REPEATS)]
    print(f"{name}: {verdicts.count(right)} of {REPEATS} repeats on {DRAWN} rows say {right}")
    assert job.to_dict()["verdict"]["result"] == verdict["result"] == right
    assert verdicts == [right] * REPEATS


async def test_a_skill_that_was_learned_is_better(judged):
    rows, held_out = read("sql", "train")[:96], read("sql", "heldout")[:HELD_OUT_ROWS]
    check("real", VerdictResult.BETTER, *await judged("real", rows, held_out, n_epochs=3))


async def test_shuffled_labels_are_no_gain_although_the_base_knows_less_of_their_form(judged):
    rows, held_out = shuffled(read("sql", "train")[:96]), read("sql", "heldout")[:HELD_OUT_ROWS]
    check("shuffled", VerdictResult.NO_GAIN, *await judged("shuffled", rows, held_out, n_epochs=3))


async def test_an_overfitted_adapter_is_worse(judged, answered):
    rows = await answered(read("pirate", "train")[:10])
    held_out = await answered(read("pirate", "heldout")[:HELD_OUT_ROWS])
    options = {"n_epochs": 8, "batch_size": 2, "learning_rate_multiplier": 4}
    check("overfitted", VerdictResult.WORSE, *await judged("overfitted", rows, held_out, **options))
