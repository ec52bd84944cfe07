"""How soon a trained adapter answers, and what a running job costs those who chat beside it.

    python -m bench.training [--jobs 3] [--epochs 3] [--seconds 20] [--out bench/results]

Starts `patchbay serve` with the embedded base and asks over HTTP.

publish: jobs on `embedded/data/sentiment`, one after the other. The clock starts when the job's last step is over, as the
training process itself notes it in its run directory, and ends with the first token of a streamed answer, by the
adapter's name, that is right. Until then the name is asked for every 20 ms; the moments in between are polled alike, so
each is up to 20 ms, and its own answer, late.

neighbours: closed loops of 1 and of 4 clients stream answers of 64 tokens from the adapter `sql`: before a job, beside
it, and after it, which shows what drifted meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.run import Row, record, serving, summary

POLL_S = 0.02
PATIENCE_S = 900
CLIENTS = (1, 4)
TOKENS = 64
MOST_EPOCHS = 50
BASE = "embedded-base"
DATA = Path("embedded/data")
JOBS = "/v1/fine_tuning/jobs"
CHAT = "/v1/chat/completions"
ENDED = {"succeeded", "failed", "cancelled"}
Moments = dict[str, float]


async def answer(http: httpx.AsyncClient, model: str, question: str, limit: int, **extra: Any) -> AsyncIterator[str]:
    """Stream an answer token by token; nothing comes while nobody has the name ``model``."""
    asked = [{"role": "user", "content": question}]
    body = {"model": model, "messages": asked, "max_tokens": limit, "temperature": 0, "stream": True, **extra}
    async with http.stream("POST", CHAT, json=body) as response:
        if response.status_code == httpx.codes.NOT_FOUND:
            return
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text


def conversations(skill: str, name: str) -> list[tuple[str, str]]:
    """Return the questions and answers of a data set."""
    rows = [json.loads(line)["messages"] for line in (DATA / skill / f"{name}.jsonl").read_text().splitlines()]
    return [(asked["content"], right["content"]) for asked, right in rows]


class Run:
    """A job, and the directory that its training process writes."""

    def __init__(self, http: httpx.AsyncClient, data_dir: Path, job: str) -> None:
        self.http = http
        self.job = job
        self._directory = data_dir / "training" / "runs" / job

    @classmethod
    async def start(cls, http: httpx.AsyncClient, data_dir: Path, name: str, epochs: int, seed: int) -> Run:
        """Create a job on `sentiment` that makes the adapter ``name``."""
        with (DATA / "sentiment" / "train.jsonl").open("rb") as rows:
            upload = await http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": rows})
        body = {
            "model": BASE,
            "training_file": upload.raise_for_status().json()["id"],
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
            "adapter": name,
            "seed": seed,
        }
        job = (await http.post(JOBS, json=body)).raise_for_status().json()
        return cls(http, data_dir, job["id"])

    async def status(self) -> str:
        """Return the job's status."""
        job = (await self.http.get(f"{JOBS}/{self.job}")).raise_for_status().json()
        return str(job["status"])

    async def cancel(self) -> None:
        """Cancel the job; returns when its training process is gone."""
        (await self.http.post(f"{JOBS}/{self.job}/cancel")).raise_for_status()
        await until(self._is_free)

    async def _is_free(self) -> bool:
        with (self._directory / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    async def has_begun(self) -> bool:
        """Whether a step was trained.

        Raises:
            RuntimeError: the job has ended.
        """
        if (status := await self.status()) in ENDED:
            raise RuntimeError(f"job {self.job} is {status}")
        return bool(self.steps())

    def steps(self) -> list[Row]:
        """Return what the training process wrote of its steps."""
        return [event for event in self.events() if "train_loss" in event["data"]]

    def events(self) -> list[Row]:
        """Return what the training process wrote."""
        log = self._directory / "events.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Ask again and again; return the time at which it held."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(POLL_S)
    return time.time()


# -- publish -------------------------------------------------------------------------------------------------------


async def publish(http: httpx.AsyncClient, data_dir: Path, jobs: int, epochs: int) -> Row:
    """Train ``jobs`` adapters; seconds from the last step of each to what follows it."""
    found = [await _published(await Run.start(http, data_dir, f"bench-{n}", epochs, n), f"bench-{n}") for n in range(jobs)]
    latest = {name: round(max(row[name] for row in found), 3) for name in found[0]}
    median = {name: round(statistics.median(row[name] for row in found), 3) for name in found[0]}
    return {"jobs": found, "median": median, "worst": latest}


async def _published(run: Run, name: str) -> Row:
    """Follow ``run`` until its adapter ``name`` is right."""
    told = asyncio.create_task(_told_of_the_last_step(run))
    try:
        last = await _last_step(run)
        moments: Moments = {"checkpoint_saved": 0.0}
        async with asyncio.TaskGroup() as watching:
            listed = watching.create_task(until(lambda: _is_listed(run, last["data"]["step"])))
            right = watching.create_task(_first_right_token(run.http, name))
            succeeded = watching.create_task(until(lambda: _has_succeeded(run)))
        ...
    finally:
        told.cancel()
