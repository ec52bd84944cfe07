"""Time from the last training step to the first right token, and the cost of a running job to concurrent chats.

Starts `patchbay serve` with the embedded base and measures over HTTP.

publish: jobs on the data set `sentiment`, one after the other, in milliseconds. The clock starts when the last step
ends, as the training process notes it in the run directory, and stops at the first token of a right answer by the
adapter's name. After the last step the name, the checkpoints and the job are polled every 20 ms, so each time is late
by at most that, plus the time of an answer.

neighbours: a closed loop of 1, then 4 clients, each streaming answers of 64 tokens from the adapter `sql`: before a
job, beside it and after it, which shows drift. Ratios are beside ÷ the mean of before and after; the job's steps per
second show that it trained meanwhile, and what the clients cost it.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import httpx
import typer

from bench import options
from bench.comparison import timed_row
from bench.load import LoadClient, LoadResult
from bench.options import report_row
from bench.record import Row, summary
from bench.shape import ADAPTERS
from bench.target import run_patchbay
from bench.workload import LoadRequest

POLL_S = 0.02
PATIENCE_S = 900
CLIENTS = (1, 4)
TOKENS = 64
MOST_EPOCHS = 50
BASE = "embedded-base"
DATA = ADAPTERS.parent / "data"
FILES = "/v1/files"
JOBS = "/v1/fine_tuning/jobs"

T = TypeVar("T")

Jobs = Annotated[int, typer.Option(min=1, help="Number of jobs, one after the other.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of each job.")]


async def training(*, jobs: Jobs = 3, epochs: Epochs = 3, seconds: options.Seconds = 12) -> Row:
    """Time from the last training step to the first right token, and the cost of a running job to concurrent chats."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as root:
        data_dir = Path(root) / "data"
        async with (
            run_patchbay(data_dir) as url,
            httpx.AsyncClient(base_url=url, timeout=120) as http,
            LoadClient(url) as client,
        ):
            for found in await publish(http, client, data_dir, jobs=jobs, epochs=epochs):
                report_row(rows, found)
            beside = await neighbours(http, client, data_dir, seconds)
    print("neighbours, beside a job ÷ without:", json.dumps(beside["ratios"], indent=1))
    print("steps of the job a second:", json.dumps(beside["job_steps_per_s"]))
    return {"shape": "embedded", "rows": rows, "neighbours": beside}


def held_out(skill: str) -> list[tuple[str, str]]:
    """Return the held-out questions of an example adapter, with their right answers."""
    rows = [json.loads(line)["messages"] for line in (DATA / skill / "heldout.jsonl").read_text().splitlines()]
    return [(question["content"], answer["content"]) for question, answer in rows]


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Poll ``condition``; return the time at which it held."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - there is no event to wait for over HTTP
            await asyncio.sleep(POLL_S)
    return time.time()


class TrainingRun:
    """A job, and the run directory of its training process."""

    def __init__(self, http: httpx.AsyncClient, data_dir: Path, job: str) -> None:
        self._http = http
        self._route = f"{JOBS}/{job}"
        self._directory = data_dir / "training" / "runs" / job
        self._events: list[Row] = []
        self._position = 0

    @classmethod
    async def start(cls, http: httpx.AsyncClient, data_dir: Path, name: str, *, epochs: int, seed: int) -> TrainingRun:
        """Create a job on `sentiment` that makes the adapter ``name``."""
        rows = (DATA / "sentiment" / "train.jsonl").read_bytes()
        upload = await http.post(FILES, data={"purpose": "fine-tune"}, files={"file": ("train.jsonl", rows)})
        body = {
            "model": BASE,
            "training_file": upload.raise_for_status().json()["id"],
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
            "adapter": name,
            "seed": seed,
        }
        return cls(http, data_dir, (await http.post(JOBS, json=body)).raise_for_status().json()["id"])

    async def is_(self, wanted: str) -> bool:
        """Whether the job's status is ``wanted``.

        Raises:
            RuntimeError: the job ended with another status.
        """
        job = (await self._http.get(self._route)).raise_for_status().json()
        if job["finished_at"] is not None and job["status"] != wanted:
            raise RuntimeError(f"the job is {job['status']}: {job['error']}")
        return bool(job["status"] == wanted)

    async def has_checkpoint(self, step: int) -> bool:
        """Whether the checkpoint after ``step`` is listed."""
        listed = (await self._http.get(f"{self._route}/checkpoints")).raise_for_status().json()["data"]
        return step in [checkpoint["step_number"] for checkpoint in listed]

    async def last_step_event(self) -> float:
        """Follow the job's events over HTTP; return the time at which the event of the last step arrived.

        Raises:
            RuntimeError: the job ended without that event.
        """
        params = {"stream": "true"}
        async with self._http.stream("GET", f"{self._route}/events", params=params, timeout=PATIENCE_S) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {") and _is_last_step(json.loads(line.removeprefix("data: "))):
                    return time.time()
        raise RuntimeError("the job ended before its last step")

    async def is_over(self) -> bool:
        """Whether the last step is done, by the events in the run directory."""
        return any(map(_is_last_step, self.events()))

    async def has_started(self) -> bool:
        """Whether the first step is done."""
        return self.steps() > 0

    def steps(self) -> int:
        """Return the number of steps done."""
        return sum("train_loss" in event["data"] for event in self.events())

    def events(self) -> list[Row]:
        """Return the events in the run directory; their times have fractions of a second, those over HTTP have none."""
        log = self._directory / "events.jsonl"
        if log.exists():
            with log.open("rb") as file:
                file.seek(self._position)
                raw = file.read()
            whole = raw[: raw.rfind(b"\n") + 1]
            self._position += len(whole)
            self._events += map(json.loads, whole.splitlines())
        return self._events

    async def cancel(self) -> None:
        """Cancel the job, and wait until its training process has ended."""
        (await self._http.post(f"{self._route}/cancel")).raise_for_status()
        await until(self._is_left)

    async def _is_left(self) -> bool:
        with (self._directory / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


def _is_last_step(event: Row) -> bool:
    data = event.get("data") or {}
    return "train_loss" in data and data["step"] == data["total_steps"]


async def publish(http: httpx.AsyncClient, client: LoadClient, data_dir: Path, *, jobs: int, epochs: int) -> list[Row]:
    """Train ``jobs`` adapters, one after the other; return a row for each event after the last step."""
    found = []
    for number in range(1, jobs + 1):
        run = await TrainingRun.start(http, data_dir, f"bench-{number}", epochs=epochs, seed=number)
        found.append(await _published(client, run, f"bench-{number}"))
    return [timed_row(case, {"patchbay": [[times[case]] for times in found]}) for case in found[0]]


async def _published(client: LoadClient, run: TrainingRun, name: str) -> dict[str, float]:
    async with asyncio.TaskGroup() as watching:
        event = watching.create_task(run.last_step_event())
        await until(run.is_over)
        last = next(filter(_is_last_step, run.events()))
        step, since = last["data"]["step"], last["created_at"]
        listed = watching.create_task(until(lambda: run.has_checkpoint(step)))
        tokens = watching.create_task(_first_tokens(client, name))
        succeeded = watching.create_task(until(lambda: run.is_("succeeded")))
    first, right = tokens.result()
    saved = next(event for event in run.events() if "checkpoint" in event["data"] and event["data"]["step"] == step)
    moments = {
        "last step → checkpoint saved": saved["created_at"],
        "last step → event over HTTP": event.result(),
        "last step → checkpoint listed": listed.result(),
        "last step → first answer": first,
        "last step → first right token": right,
        "last step → succeeded": succeeded.result(),
    }
    return {name: (at - since) * 1000 for name, at in moments.items()}


async def _first_tokens(client: LoadClient, name: str) -> tuple[float, float]:
    """Return the times of the first token by ``name``, and of the first token of a right answer.

    Raises:
        RuntimeError: the server refused the request, other than because ``name`` does not exist yet.
    """
    question, right = held_out("sentiment")[0]
    request = LoadRequest(0.0, name, question, 8, chat=True, exact=False)
    epoch = time.perf_counter() - time.time()  # so that times of arrival are those of time.time()
    first: float | None = None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await client.send(request, epoch)
            if answer.failure is not None and not answer.failure.startswith("BrokenOff: 404"):
                raise RuntimeError(answer.failure)
            if answer.arrived_s:
                first = first or answer.arrived_s[0]
            if first is not None and answer.text.strip() == right:
                return first, answer.arrived_s[0]
            await asyncio.sleep(POLL_S)


async def neighbours(http: httpx.AsyncClient, client: LoadClient, data_dir: Path, seconds: float) -> Row:
    """Measure chats before, beside and after a job."""
    before = await _loads(client, seconds)
    run = await TrainingRun.start(http, data_dir, "bench-beside", epochs=MOST_EPOCHS, seed=1)
    await until(run.has_started)
    alone_per_s, _ = await _pace(run, asyncio.sleep(seconds))
    beside_per_s, beside = await _pace(run, _loads(client, seconds))
    if not await run.is_("running"):
        raise RuntimeError("the job ended before the measurement")
    await run.cancel()
    after = await _loads(client, seconds)
    ratios = {clients: _ratios(before[clients], beside[clients], after[clients]) for clients in beside}
    steps = {"alone": alone_per_s, "beside": beside_per_s}
    return {"ratios": ratios, "job_steps_per_s": steps, "before": before, "beside": beside, "after": after}


async def _pace(run: TrainingRun, meanwhile: Awaitable[T]) -> tuple[float, T]:
    """Return the job's steps per second while ``meanwhile`` runs, and the result of ``meanwhile``."""
    steps, started = run.steps(), time.perf_counter()
    result = await meanwhile
    return round((run.steps() - steps) / (time.perf_counter() - started), 2), result


async def _loads(client: LoadClient, seconds: float) -> Row:
    return {f"{clients} clients": await _load(client, clients, seconds) for clients in CLIENTS}


async def _load(client: LoadClient, clients: int, seconds: float) -> Row:
    questions = itertools.cycle(question for question, _ in held_out("sql"))
    requests = (LoadRequest(0.0, "sql", question, TOKENS, chat=True) for question in questions)
    await client.send(next(requests))  # the connection's set-up is not measured
    end = time.perf_counter() + seconds
    return _load_row(await client.closed_loop(requests, clients, lambda: time.perf_counter() >= end))


def _load_row(load: LoadResult) -> Row:
    if failures := [answer.failure for answer in load.answers if answer.failure]:
        raise RuntimeError(f"{len(failures)} requests failed: {failures[0]}")
    return {
        "first_token_ms": summary(load.first_ms),
        "between_tokens_ms": summary(load.between_ms),
        "tokens_per_s": round((len(load.first_ms) + len(load.between_ms)) / load.took_s, 1),
    }


def _ratios(before: Row, beside: Row, after: Row) -> Row:
    first, beside_job, last = map(_flat, (before, beside, after))
    return {name: round(value / statistics.mean([first[name], last[name]]), 2) for name, value in beside_job.items()}


def _flat(row: Row) -> dict[str, float]:
    latencies = itertools.product(("first_token_ms", "between_tokens_ms"), ("p50", "p99"))
    return {**{f"{name}_{of}": row[name][of] for name, of in latencies}, "tokens_per_s": row["tokens_per_s"]}
