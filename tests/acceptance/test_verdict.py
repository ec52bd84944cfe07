"""Verdicts on the real engine: a trained adapter, one of shuffled labels and an overfitted one, told apart 20 times."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

import embedded
from adapters.gate import VerdictResult
from server.verdicts.contest import BASE, BLIND, CANDIDATE
from trainer.verdicts.judgement import Contestant, judge

MEASURES = ("exact_match", "likelihood")
REPEATS = 20
DRAWN = 100
"""Rows of each repeat."""

Row = dict[str, Any]


@dataclass
class Kind:
    """A way to train, and the verdict that it deserves."""

    rows: list[Row]
    right: VerdictResult
    hyperparameters: dict[str, Any]


def read(skill: str, name: str) -> list[Row]:
    return [json.loads(line) for line in (embedded.DATA / skill / f"{name}.jsonl").read_text().splitlines()]


def shuffled(rows: list[Row]) -> list[Row]:
    """The same questions and the same answers, which do not belong together."""
    answers = [row["messages"][1] for row in rows]
    random.Random(1).shuffle(answers)
    return [{"messages": [row["messages"][0], answer]} for row, answer in zip(rows, answers, strict=True)]


SQL = read("sql", "train")
KINDS = {
    "real": Kind(SQL[:200], VerdictResult.BETTER, {"n_epochs": 6}),
    "shuffled": Kind(shuffled(SQL[:200]), VerdictResult.NO_GAIN, {"n_epochs": 6}),
    "overfitted": Kind(
        SQL[:10], VerdictResult.WORSE, {"n_epochs": 50, "batch_size": 2, "learning_rate_multiplier": 20}
    ),
}
HELD_OUT = [*read("sql", "heldout"), *SQL[200:]]


@pytest.fixture
def judged(client, ended, upload, http):
    """Trains a kind; returns its job, the report of its version, and the scores of each held-out row."""

    async def train(name: str) -> tuple[Any, Row, list[Row]]:
        kind = KINDS[name]
        job = await client.fine_tuning.jobs.create(
            model="embedded-base",
            training_file=await upload(kind.rows),
            validation_file=await upload(HELD_OUT),
            suffix=f"verdict-{name}",
            seed=1,
            method={"type": "supervised", "supervised": {"hyperparameters": kind.hyperparameters}},
            extra_body={"verdict_rows": len(HELD_OUT)},
        )
        job = await ended(job.id)
        root = (await client.models.retrieve(job.fine_tuned_model)).to_dict()["root"]
        adapter, number = root.split("@")
        version = (await http.get(f"/v1/adapters/{adapter}/versions/{number}")).json()
        names = {(await client.files.retrieve(file)).filename: file for file in job.result_files}
        text = (await client.files.content(names["verdict.jsonl"])).text
        return job, version["report"], [json.loads(line)["scores"] for line in text.splitlines()]

    return train


def repeated(scores: list[Row], examples: str, seed: int) -> VerdictResult:
    """The verdict on rows that the seed draws from those that were scored once."""
    rows = random.Random(seed).sample(scores, DRAWN)
    of = {name: {measure: [row[name][measure] for row in rows] for measure in MEASURES} for name in rows[0]}
    contestants = [Contestant(name, name, of[name]) for name in (BASE, examples)]
    contestants.append(Contestant(BLIND, BLIND, of[BLIND], serves=False))
    return judge(of[CANDIDATE], contestants, MEASURES, seed=seed).result


@pytest.mark.parametrize("name", KINDS)
async def test_the_verdict_is_right_in_20_of_20_repeats(judged, name):
    job, report, scores = await judged(name)
    verdict, kind = report["verdict"], KINDS[name]
    of = verdict["of"]
    print(f"{name}: {verdict['result']}: {verdict['message']}")
    print(json.dumps({key: of[key] for key in ("candidate", "general_ability", "memorisation", "tokens")}))
    examples = next(each["name"] for each in of["contestants"] if "examples" in each["name"])
    verdicts = [repeated(scores, examples, seed) for seed in range(REPEATS)]
    print(f"{name}: {verdicts.count(kind.right)} of {REPEATS} repeats with {DRAWN} rows: {kind.right}")
    assert job.to_dict()["verdict"]["result"] == verdict["result"] == kind.right
    assert verdicts == [kind.right] * REPEATS
