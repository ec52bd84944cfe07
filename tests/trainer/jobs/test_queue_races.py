"""Several processes at one queue, some of which stall past their lease and come back late."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

from tests.postgres import on_both_databases
from tests.trainer.conftest import Create
from trainer.jobs.state import JobState
from trainer.records import Records

pytestmark = on_both_databases

ROOT = Path(__file__).resolve().parents[3]
TAKER = Path(__file__).with_name("taking_process.py")
NUM_PROCESSES, NUM_JOBS = 4, 40


async def test_each_job_of_four_processes_is_finished_exactly_once(
    records: Records, database_url: str, enqueue: Create
):
    ids = [(await enqueue()).id for _ in range(NUM_JOBS)]
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(TAKER),
            database_url,
            records.queue.store,
            str(seed),
            env={"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        for seed in range(NUM_PROCESSES)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * NUM_PROCESSES

    finishes = [json.loads(line) for output, _ in outputs for line in output.splitlines()]
    winners = {finish["job"]: finish["token"] for finish in finishes if finish["won"]}
    assert Counter(finish["job"] for finish in finishes if finish["won"]) == Counter(ids)
    assert any(not finish["won"] for finish in finishes)
    tokens = Counter((finish["job"], finish["token"]) for finish in finishes)
    assert set(tokens.values()) == {1}, "two claims carried one token"
    for job_id in ids:
        job = await records.jobs.get(job_id)
        assert (job.state, job.fine_tuned_model) == (JobState.SUCCEEDED, f"{job_id}-{winners[job_id]}")
        messages = Counter(event.message for event in (await records.events.list(job_id, limit=1000)).data)
        assert messages["The job has successfully completed"] == 1
        assert len((await records.checkpoints.list(job_id)).data) == 1
