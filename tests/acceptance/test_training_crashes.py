"""Every process of a job is killed with -9 while the job runs, and the published bytes are the same."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import embedded

STEPS, EVERY = 75, 5
ENDED = {"succeeded", "failed", "cancelled"}


@pytest.fixture(scope="module")
def state(start_server, tmp_path_factory):
    """Returns a server that trains no jobs itself, or starts it again with ``restart``."""
    data_dir = tmp_path_factory.mktemp("training-crashes") / "data"
    started = [start_server(data_dir, "--no-worker")]

    def newest(*, restart=False):
        if restart:
            port = int(started[-1].url.rpartition(":")[2])
            started.append(start_server(data_dir, "--no-worker", port=port))
        return started[-1]

    started[0].wait_ready()
    return newest


@pytest.fixture(scope="module")
def start_worker(state):
    """Starts ``patchbay worker`` beside the server."""
    workers = []

    def start():
        server = state()
        patchbay = str(Path(sys.executable).with_name("patchbay"))
        with server.log.open("a") as log:
            command = [patchbay, "worker", "--url", server.url, "--data-dir", str(server.data_dir)]
            workers.append(subprocess.Popen(command, stdout=log, stderr=log))
        return workers[-1]

    yield start
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait(60)


@pytest.fixture
async def http(state):
    async with httpx.AsyncClient(base_url=state().url, timeout=60) as http:
        yield http


@pytest.fixture
def create(http):
    """Creates the job that all tests here run, for an adapter of a name."""

    async def create(adapter):
        data = {"file": (embedded.DATA / "sentiment" / "train.jsonl").read_bytes()}
        file = (await http.post("/v1/files", files=data, data={"purpose": "fine-tune"})).json()["id"]
        body = {"model": "embedded-base", "training_file": file, "seed": 7, "adapter": adapter, "rank": 8}
        body |= {"hyperparameters": {"n_epochs": 3, "batch_size": 16}, "checkpoint_steps": EVERY}
        return (await http.post("/v1/fine_tuning/jobs", json=body)).json()["id"]

    return create


@pytest.fixture
def job_now(http):
    """The job, and the training steps and losses in its log, oldest first; waits while the server is away."""

    async def now(job_id):
        path = f"/v1/fine_tuning/jobs/{job_id}"
        while True:
            try:
                job = (await http.get(path)).json()
                events = (await http.get(f"{path}/events", params={"limit": 1000})).json()["data"]
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            data = [event["data"] for event in reversed(events) if event["type"] == "metrics"]
            return job, [(each["step"], each["train_loss"]) for each in data if "train_loss" in each]

    return now


@pytest.fixture
def trains_past(job_now):
    async def past(job_id, step):
        async with asyncio.timeout(180):
            while True:
                job, losses = await job_now(job_id)
                assert job["status"] not in ENDED, job
                if losses and losses[-1][0] >= step:
                    return
                await asyncio.sleep(0.05)

    return past


@pytest.fixture
def ended(job_now):
    async def ended(job_id):
        async with asyncio.timeout(300):
            while True:
                job, losses = await job_now(job_id)
                if job["status"] in ENDED:
                    assert job["status"] == "succeeded", job["error"]
                    return job, losses
                await asyncio.sleep(0.2)

    return ended


def child_of(data_dir, job_id):
    """Return the process that trains for a job."""
    run = str(data_dir / "training" / "runs" / job_id).encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"trainer.methods" in words and run in words:
                return int(process.name)
    raise AssertionError("nothing trains")


async def test_a_job_comes_to_the_same_bytes_whatever_is_killed_on_the_way(
    state, start_worker, http, create, trains_past, ended
):
    worker = start_worker()
    calm, undisturbed = await ended(await create("calm"))

    job_id = await create("storm")
    steps = [random.choice(range(start, start + 11)) for start in range(3, 58, 11)]
    print("the child is killed after steps", steps)
    for number, step in enumerate(steps):
        await trains_past(job_id, step)
        os.kill(child_of(state().data_dir, job_id), signal.SIGKILL)
        if number == 1:
            worker.kill()
            worker = start_worker()
        if number == 4:  # the run goes on meanwhile, and is published when the server is back
            state().process.kill()
            state(restart=True).wait_ready()
    storm, losses = await ended(job_id)

    assert losses == undisturbed
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert storm["trained_tokens"] == calm["trained_tokens"]
    versions = {
        name: (await http.get(f"/v1/adapters/{name}/versions", params={"limit": 100})).json()["data"]
        for name in ("calm", "storm")
    }
    assert len(versions["calm"]) == len(versions["storm"]) == STEPS // EVERY
    assert [each["digest"] for each in versions["storm"]] == [each["digest"] for each in versions["calm"]]
    results = [version for version in versions["storm"] if storm["fine_tuned_model"] in version["fine_tuned_names"]]
    assert [version["aliases"] for version in results] == [["stable"]]
    question = {"role": "user", "content": "Very slow phone, quite terrible music."}
    chat = {"model": "storm", "messages": [question], "max_tokens": 4, "temperature": 0}
    answer = (await http.post("/v1/chat/completions", json=chat)).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == (results[0]["id"], "negative")
