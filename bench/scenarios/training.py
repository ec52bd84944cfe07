"""How soon a trained adapter answers, and what a running job costs those who chat beside it.

Starts `patchbay serve` with the embedded base and asks over HTTP.

publish: jobs on the data set `sentiment`, one after the other. The clock starts when a job's last step is over, as its
training process notes it in the run directory, and stops at the first token of a streamed answer that is right, by the
adapter's name. From the last step on the name is asked for every 20 ms, and so are the checkpoints and the job: what is
said of them is that late at most, plus an answer's time.

neighbours: 1 client, then 4, each stream one answer of 64 tokens after the other from the adapter `sql`: before a job,
beside one, and after it, which shows what drifted meanwhile. Ratios are beside ÷ the mean of before and after;
the job's steps show that it trained meanwhile, and what the clients cost it.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import typer

from bench.options import RESULTS, Out, conduct, say
from bench.record import Row, summary
from bench.shape import ADAPTERS
from bench.target import serving
from bench.versus import timed_row

POLL_S = 0.02
PATIENCE_S = 900
CLIENTS = (1, 4)
TOKENS = 64
MOST_EPOCHS = 50
BASE = "embedded-base"
DATA = ADAPTERS.parent / "data"
FILES = "/v1/files"
JOBS = "/v1/fine_tuning/jobs"
CHAT = "/v1/chat/completions"

T = TypeVar("T")

Jobs = Annotated[int, typer.Option(min=1, help="How many are trained, one after the other.")]
Epochs = Annotated[int, typer.Option(min=1, help="Of each of them.")]
Seconds = Annotated[float, typer.Option(help="Of each load.")]


def training(*, jobs: Jobs = 3, epochs: Epochs = 3, seconds: Seconds = 12, out: Out = RESULTS) -> None:
    """Last training step to first right token, and what a running job costs those who chat beside it."""
    conduct("training", out, lambda: measure(jobs, epochs, seconds))


async def tokens(http: httpx.AsyncClient, model: str, question: str, most: int, **extra: Any) -> AsyncIterator[str]:
    """Stream an answer; nothing comes while nobody has the name ``model``."""
    asked = [{"role": "user", "content": question}]
    body = {"model": model, "messages": asked, "max_tokens": most, "temperature": 0, "stream": True, **extra}
    async with http.stream("POST", CHAT, json=body) as response:
        if response.status_code == httpx.codes.NOT_FOUND:
            return
        response.raise_for_status()
        async for line in response.aiter_lines():
            for choice in _sent(line).get("choices", []):
                if text := choice["delta"].get("content"):
                    yield text


def _sent(line: str) -> Row:
    """Return what a line of a server-sent event holds; nothing, if none."""
    sent: Row = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
    if "error" in sent:
        raise RuntimeError(f"the server broke off: {sent['error']}")
    return sent


def held_out(skill: str) -> list[tuple[str, str]]:
    """Return questions that no adapter was trained on, and their right answers."""
    rows = [json.loads(line)["messages"] for line in (DATA / skill / "heldout.jsonl").read_text().splitlines()]
    return [(asked["content"], right["content"]) for asked, right in rows]


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Ask again and again; return the time at which it held."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - over HTTP nothing announces it
            await asyncio.sleep(POLL_S)
    return time.time()


class TrainingRun:
    """A job, and the directory in which its training process writes."""

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
        """Whether this is the job's status.

        Raises:
            RuntimeError: it ended in another one.
        """
        job = (await self._http.get(self._route)).raise_for_status().json()
        if job["finished_at"] is not None and job["status"] != wanted:
            raise RuntimeError(f"the job is {job['status']}: {job['error']}")
        return bool(job["status"] == wanted)

    async def has_checkpoint(self, step: int) -> bool:
        """Whether the checkpoint after ``step`` is listed."""
        listed = (await self._http.get(f"{self._route}/checkpoints")).raise_for_status().json()["data"]
        return step in [checkpoint["step_number"] for checkpoint in listed]

    async def told_of_last_step(self) -> float:
        """Follow the job's events; return the time at which that of the last step came.

        Raises:
            RuntimeError: the job ended without.
        """
        params = {"stream": "true"}
        async with self._http.stream("GET", f"{self._route}/events", params=params, timeout=PATIENCE_S) as response:
            async for line in response.aiter_lines():
                if _is_last_step(_sent(line)):
                    return time.time()
        raise RuntimeError("the job ended before its last step")

    async def is_over(self) -> bool:
        """Whether the last step is done, by what the training process writes."""
        return any(map(_is_last_step, self.events()))

    async def has_begun(self) -> bool:
        """Whether the first step is done."""
        return self.steps() > 0

    def steps(self) -> int:
        """Return how many steps are done."""
        return sum("train_loss" in event["data"] for event in self.events())

    def events(self) -> list[Row]:
        """Return what the training process wrote so far; its times have fractions, those over HTTP have none."""
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
        """Cancel the job; returns when its training process is gone."""
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


async def publish(http: httpx.AsyncClient, data_dir: Path, *, jobs: int, epochs: int) -> list[Row]:
    """Train ``jobs`` adapters, one after the other; a row for each thing that follows the last step, from there on."""
    found = []
    for number in range(1, jobs + 1):
        run = await TrainingRun.start(http, data_dir, f"bench-{number}", epochs=epochs, seed=number)
        found.append(await _published(http, run, f"bench-{number}"))
    return [timed_row(case, {"patchbay": [[times[case]] for times in found]}) for case in found[0]]


async def _published(http: httpx.AsyncClient, run: TrainingRun, name: str) -> dict[str, float]:
    async with asyncio.TaskGroup() as watching:
        told = watching.create_task(run.told_of_last_step())
        await until(run.is_over)
        last = next(filter(_is_last_step, run.events()))
        step, since = last["data"]["step"], last["created_at"]
        listed = watching.create_task(until(lambda: run.has_checkpoint(step)))
        tokens_came = watching.create_task(_first_tokens(http, name))
        succeeded = watching.create_task(until(lambda: run.is_("succeeded")))
    first, right = tokens_came.result()
    saved = next(event for event in run.events() if "checkpoint" in event["data"] and event["data"]["step"] == step)
    moments = {
        "last step → checkpoint saved": saved["created_at"],
        "last step → event over HTTP": told.result(),
        "last step → checkpoint listed": listed.result(),
        "last step → first answer": first,
        "last step → first right token": right,
        "last step → succeeded": succeeded.result(),
    }
    return {name: (at - since) * 1000 for name, at in moments.items()}


async def _first_tokens(http: httpx.AsyncClient, name: str) -> tuple[float, float]:
    """Return when the first token by ``name`` came, and when the first one of an answer that is right."""
    question, right = held_out("sentiment")[0]
    first: float | None = None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text, came = "", 0.0
            async for token in tokens(http, name, question, 8):
                text, came = text + token, came or time.time()
            if text:
                first = first or came
            if first is not None and text.strip() == right:
                return first, came
            await asyncio.sleep(POLL_S)


@dataclass
class TrainingLoad:
    """What clients saw who asked one question after the other."""

    first_ms: list[float] = field(default_factory=list)
    between_ms: list[float] = field(default_factory=list)

    async def ask(self, http: httpx.AsyncClient, question: str) -> None:
        """Have an answer streamed, to its full length."""
        before, seen = time.perf_counter(), self.first_ms
        async for _ in tokens(http, "sql", question, TOKENS, ignore_eos=True, skip_special_tokens=False):
            now = time.perf_counter()
            seen.append((now - before) * 1000)
            before, seen = now, self.between_ms

    def row(self, took_s: float) -> Row:
        """Return it in numbers."""
        return {
            "first_token_ms": summary(self.first_ms),
            "between_tokens_ms": summary(self.between_ms),
            "tokens_per_s": round((len(self.first_ms) + len(self.between_ms)) / took_s, 1),
        }


async def neighbours(http: httpx.AsyncClient, data_dir: Path, seconds: float) -> Row:
    """Chat before, beside and after a job."""
    before = await _loads(http, seconds)
    run = await TrainingRun.start(http, data_dir, "bench-beside", epochs=MOST_EPOCHS, seed=1)
    await until(run.has_begun)
    alone_per_s, _ = await _pace(run, asyncio.sleep(seconds))
    beside_per_s, beside = await _pace(run, _loads(http, seconds))
    if not await run.is_("running"):
        raise RuntimeError("the job was not running all the while")
    await run.cancel()
    after = await _loads(http, seconds)
    ratios = {clients: _ratios(before[clients], beside[clients], after[clients]) for clients in beside}
    steps = {"alone": alone_per_s, "beside": beside_per_s}
    return {"ratios": ratios, "job_steps_per_s": steps, "before": before, "beside": beside, "after": after}


async def _pace(run: TrainingRun, meanwhile: Awaitable[T]) -> tuple[float, T]:
    """Return how many steps a second the job makes while something else is done, and what comes of that."""
    steps, began = run.steps(), time.perf_counter()
    came = await meanwhile
    return round((run.steps() - steps) / (time.perf_counter() - began), 2), came


async def _loads(http: httpx.AsyncClient, seconds: float) -> Row:
    return {f"{clients} clients": await _load(http, clients, seconds) for clients in CLIENTS}


async def _load(http: httpx.AsyncClient, clients: int, seconds: float) -> Row:
    load, questions = TrainingLoad(), itertools.cycle(question for question, _ in held_out("sql"))
    await TrainingLoad().ask(http, next(questions))  # connecting is no part of what is measured
    began = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - began < seconds:
            await load.ask(http, next(questions))

    await asyncio.gather(*(client() for _ in range(clients)))
    return load.row(time.perf_counter() - began)


def _ratios(before: Row, beside: Row, after: Row) -> Row:
    def ratio(*keys: str) -> float:
        alone = statistics.mean([_at(before, keys), _at(after, keys)])
        return round(_at(beside, keys) / alone, 2)

    latencies = itertools.product(("first_token_ms", "between_tokens_ms"), ("p50", "p99"))
    return {
        **{f"{name}_{quantile}": ratio(name, quantile) for name, quantile in latencies},
        "tokens_per_s": ratio("tokens_per_s"),
    }


def _at(row: Any, keys: tuple[str, ...]) -> float:
    for key in keys:
        row = row[key]
    return float(row)


async def measure(jobs: int, epochs: int, seconds: float) -> Row:
    """Measure a fresh server."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as root:
        data_dir = Path(root) / "data"
        async with serving(data_dir) as url, httpx.AsyncClient(base_url=url, timeout=120) as http:
            for found in await publish(http, data_dir, jobs=jobs, epochs=epochs):
                say(rows, found)
            beside = await neighbours(http, data_dir, seconds)
    print("neighbours, beside a job ÷ without:", json.dumps(beside["ratios"], indent=1))
    print("steps of the job a second:", json.dumps(beside["job_steps_per_s"]))
    return {"shape": "embedded", "rows": rows, "neighbours": beside}
