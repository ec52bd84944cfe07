"""The command line in this process, and a server with the fake engine in another thread."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from adapters.checks.inspector import Inspector
from server.access.scope import Scope
from server.cli import app
from server.engine.fake import FakeBuilder
from server.settings import PREFIX
from server.state import AppState
from tests.server.opened import Listening, MakeAdapter, Opened, Opening
from trainer.jobs.queue import Claim, Queue

ADAPTERS = ("json", "sentiment", "sql")


@dataclass(frozen=True)
class Running:
    """A server at ``url`` that has ``ADAPTERS``, each with one version. ``portal`` runs coroutines in its thread."""

    url: str
    state: AppState
    builder: FakeBuilder
    portal: BlockingPortal

    def create_key(self, scope: Scope) -> str:
        _, secret = self.portal.call(self.state.keys.create, "test", [scope])
        return secret


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """A thread with an event loop, in which all servers run, one after the other."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def inspector(portal: BlockingPortal) -> Iterator[Inspector]:
    """Inspects the uploads of all servers, in their event loop, to which its child process belongs."""
    with portal.wrap_async_context_manager(aclosing(Inspector())) as shared:
        yield shared


@pytest.fixture
def server(opening: Opening, listening: Listening, portal: BlockingPortal) -> Iterator[Running]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[tuple[str, Opened]]:
        async with opening() as opened, listening(opened.app) as url:
            for seed, name in enumerate(ADAPTERS):
                await opened.publish(name, seed)
            yield url, opened

    with (
        capture_logs(),  # they would mix with the output of commands
        portal.wrap_async_context_manager(serving()) as (url, opened),
    ):
        yield Running(url, opened.state, opened.builder, portal)


Patchbay = Callable[..., Result]


@pytest.fixture
def patchbay() -> Patchbay:
    """Runs a command line in an environment whose only ``PATCHBAY_`` variables are those in ``env``."""

    def run(*args: str, env: dict[str, str] | None = None, input: str | None = None) -> Result:  # noqa: A002 - click's
        unset = {name: None for name in os.environ if name.startswith(PREFIX)}
        return CliRunner().invoke(app, args, env={**unset, **(env or {})}, input=input)

    return run


@pytest.fixture
def call(server: Running, patchbay: Patchbay) -> Patchbay:
    """Runs a command line against ``server``."""
    return lambda *args, **more: patchbay(*args, env={"PATCHBAY_URL": server.url}, **more)


@pytest.fixture
def adapter(tmp_path: Path, make_adapter: MakeAdapter) -> Path:
    """A directory with a valid adapter that is not published yet."""
    return make_adapter(seed=len(ADAPTERS)).write(tmp_path / "tickets")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file that can be trained on."""
    turns = [(f"{n} + 1?", str(n + 1)) for n in range(12)]
    messages = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in turns
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    return path


@pytest.fixture
def file_id(call: Patchbay, rows: Path) -> str:
    """The id of ``rows`` on the server."""
    return call("files", "push", str(rows)).stdout.strip()


Work = Callable[[Queue, Claim], Awaitable[Any]]


@pytest.fixture
def worker(server: Running) -> Callable[[Work], None]:
    """Claims the next queued job in the server's thread and passes it to a function of the test."""

    async def working(work: Work) -> None:
        queue = server.state.records.queue
        async with asyncio.timeout(20):
            while (claim := await queue.take("worker", 60)) is None:
                await asyncio.sleep(0.01)
        await work(queue, claim)

    def start(work: Work) -> None:
        server.portal.start_task_soon(working, work)

    return start
