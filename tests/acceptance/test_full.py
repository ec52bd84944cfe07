"""A model trained whole: its extracted adapter answers at once, and it is served as a base itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import embedded

REPOSITORY = Path(__file__).parents[2]
TRAIN, EXPORT = re.findall(
    r"^patchbay ((?:train|jobs export) .*)$", (REPOSITORY / "docs" / "full-training.md").read_text(), re.MULTILINE
)
SKILL = "sentiment"


@pytest.fixture
def patchbay(server):
    """Runs a command of patchbay against the server; returns what it printed."""

    def run(command: str) -> str:
        program = [str(Path(sys.executable).with_name("patchbay")), *shlex.split(command)]
        environment = {**os.environ, "PATCHBAY_URL": server.url}
        done = subprocess.run(program, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def extraction(http):
    """The report on the extracted adapter in that of a version."""

    async def read(model: str) -> dict:
        name, number = (await http.get(f"/v1/models/{model}")).json()["root"].split("@")
        return (await http.get(f"/v1/adapters/{name}/versions/{number}")).json()["report"]["training"]["extraction"]

    return read


async def share_right(client, model: str, rows: list[tuple[str, str]]) -> float:
    async def ask(question: str) -> str:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=8
        )
        return answer.choices[0].message.content.strip()

    answers = await asyncio.gather(*(ask(question) for question, _ in rows))
    return sum(answer == expected for answer, (_, expected) in zip(answers, rows, strict=True)) / len(rows)


async def test_the_documented_commands_make_an_adapter_that_answers_and_a_base_that_is_served(
    client, held_out, patchbay, extraction, start_server, tmp_path
):
    job_id, *events, name = (await asyncio.to_thread(patchbay, TRAIN)).split("\n")[:-1]
    extracted = [event for event in events if "extracted at rank" in event]
    print(extracted[-1])
    checkpoints = (await client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)).data
    assert len(extracted) == len(checkpoints)
    report = await extraction(name)
    print(json.dumps(report))
    assert 0 < report["energy"] <= 1
    assert report["losses"]["full"] <= report["losses"]["adapter"] * 1.1 < report["losses"]["base"]
    rows = held_out(SKILL)
    models = ("embedded-base", name, checkpoints[-1].fine_tuned_model_checkpoint)
    shares = {model: await share_right(client, model, rows) for model in models}
    print(f"right of {len(rows)}: {shares}")
    assert shares[name] >= shares["embedded-base"] + 0.3

    model = tmp_path / "whole-model"
    await asyncio.to_thread(patchbay, EXPORT.replace("JOB", job_id).replace("DIR", str(model)))
    other = start_server(tmp_path / "data", str(model))
    print(f"the whole model is served after {other.wait_ready():.0f} s")
    async with other.client() as of_model:
        served = (await of_model.models.list()).data[0].id
        whole = await share_right(of_model, served, rows)
    other.process.terminate()
    other.process.wait(60)
    print(f"right of {len(rows)} by the whole model: {whole}")
    assert whole >= shares["embedded-base"] + 0.3


async def test_openai_s_client_trains_a_model_whole(client, ended, upload, extraction):
    rows = (embedded.DATA / SKILL / "train.jsonl").read_bytes().splitlines(keepends=True)[:16]
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload(b"".join(rows)),
        suffix="whole",
        seed=1,
        method={"type": "full", "full": {"hyperparameters": {"n_epochs": 1, "extraction_energy": 0.5}}},
    )
    job = await ended(job.id)
    report = await extraction(job.fine_tuned_model)
    assert report["energy"] >= 0.5
    assert report["rank"] < 16
    assert report["measured_on"] == "training"
    (checkpoint,) = (await client.fine_tuning.jobs.checkpoints.list(job.id)).data
    assert checkpoint.metrics.to_dict()["extraction_energy"] == report["energy"]
    answer = await client.chat.completions.create(
        model=checkpoint.fine_tuned_model_checkpoint, messages=[{"role": "user", "content": "Fine."}], max_tokens=4
    )
    assert answer.choices[0].message.content is not None
