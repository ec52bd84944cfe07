"""A model trained whole: its extracted adapter answers at once, and it is served as a base itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import embedded

SKILL = "sentiment"


@pytest.fixture
def patchbay(server):
    """Runs a command of patchbay against the server; returns what it printed."""

    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("patchbay")), *arguments]
        done = subprocess.run(
            command, env={**os.environ, "PATCHBAY_URL": server.url}, capture_output=True, text=True, check=True
        )
        return done.stdout

    return run


async def share_right(client, model: str, rows: list[tuple[str, str]]) -> float:
    async def ask(question: str) -> str:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=8
        )
        return answer.choices[0].message.content.strip()

    answers = await asyncio.gather(*(ask(question) for question, _ in rows))
    return sum(answer == expected for answer, (_, expected) in zip(answers, rows, strict=True)) / len(rows)


async def test_a_model_trained_whole_is_served_as_an_adapter_at_once_and_as_a_base(
    client, http, ended, upload, held_out, patchbay, start_server, tmp_path
):
    files = embedded.DATA / SKILL
    job = await client.fine_tuning.jobs.create(
        model="embedded-base",
        training_file=await upload((files / "train.jsonl").read_bytes()),
        validation_file=await upload((files / "heldout.jsonl").read_bytes()),
        suffix="whole",
        seed=1,
        method={"type": "full", "full": {"hyperparameters": {"n_epochs": 3}}},
    )
    job = await ended(job.id)
    events = (await client.fine_tuning.jobs.list_events(job.id, limit=1000)).data
    told = [event for event in events if event.data and "extraction" in event.data]
    checkpoints = (await client.fine_tuning.jobs.checkpoints.list(job.id, limit=100)).data
    assert len(told) == len(checkpoints)
    version = (await http.get(f"/v1/models/{job.fine_tuned_model}")).json()["root"]
    name, number = version.split("@")
    report = (await http.get(f"/v1/adapters/{name}/versions/{number}")).json()["report"]["training"]["extraction"]
    print(next(event.message for event in told if event.data["extraction"] == report))
    print(json.dumps(report))
    assert 0 < report["energy"] <= 1
    assert report["losses"]["full"] <= report["losses"]["adapter"] < report["losses"]["base"]

    rows = held_out(SKILL)
    shares = {
        model: await share_right(client, model, rows)
        for model in ("embedded-base", job.fine_tuned_model, checkpoints[-1].fine_tuned_model_checkpoint)
    }
    print(f"right of {len(rows)}: {shares}")
    assert shares[job.fine_tuned_model] >= shares["embedded-base"] + 0.3

    model = tmp_path / "whole-model"
    patchbay("jobs", "export", job.id, str(model))
    other = start_server(tmp_path / "data", str(model))
    print(f"the whole model is served after {other.wait_ready():.0f} s")
    async with other.client() as of_model:
        served = (await of_model.models.list()).data[0].id
        whole = await share_right(of_model, served, rows)
    other.process.terminate()
    other.process.wait(60)
    print(f"right of {len(rows)} by the whole model: {whole}")
    assert whole >= max(0.9, shares[job.fine_tuned_model])
