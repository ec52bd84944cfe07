"""The soak's account: every request ends with a reason, and every acknowledged write is there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.soak.account import Account, Key
from bench.soak.caller import AccountedClient
from bench.soak.server_lives import ServerLife, ServerLives
from bench.target import BenchTarget

VERSION: Key = ("version", "sql", "1")


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({VERSION: "abc"}, None),
        ({}, "version sql 1 was acknowledged and is missing"),
        ({VERSION: "xyz"}, "version sql 1 is xyz, and abc was acknowledged"),
    ],
)
def test_an_acknowledged_write_must_be_there_with_its_content(found: dict[Key, str], fault: str | None) -> None:
    account = Account()
    account.acknowledge(VERSION, "abc")
    assert account.faults(found) == ([] if fault is None else [fault])


def test_a_deleted_version_must_not_come_back() -> None:
    account = Account()
    account.acknowledge(VERSION, "abc")
    account.acknowledge_removal(VERSION)
    assert account.faults({}) == []
    assert account.faults({VERSION: "abc"}) == ["version sql 1 was deleted and is back"]


@pytest.mark.parametrize("found", [{}, {VERSION: "abc"}])
def test_after_a_cut_write_both_states_are_right(found: dict[Key, str]) -> None:
    account = Account()
    account.acknowledge(VERSION, "abc")
    account.doubt(VERSION)
    assert account.faults(found) == []


def test_a_request_without_an_end_does_not_balance() -> None:
    account = Account()
    account.begin("chat")
    assert account.faults({}) == ["chat: 1 requests were sent, and 0 ended"]
    account.end("chat", "answered")
    assert account.faults({}) == []


@dataclass
class StandInServer:
    """A server that is always ready, and was killed at ``killed_s``."""

    url: str
    killed_s: float = 0.0

    async def until_ready(self) -> None:
        return

    def was_killed_since(self, at_s: float) -> bool:
        return self.killed_s >= at_s


async def answer(request: web.Request) -> web.StreamResponse:
    match request.match_info["kind"]:
        case "right":
            return web.json_response({"id": "x"})
        case "refused":
            return web.json_response({"error": {"code": "adapter_refused", "message": "no"}}, status=400)
        case "bare":
            return web.Response(text="Internal Server Error", status=500)
        case "broken":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        case ending:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n')
            error = b'data: {"error": {"type": "engine", "code": "engine_died", "message": "x"}}\n\n'
            await response.write({"done": b"data: [DONE]\n\n", "error": error}.get(ending, b""))
            return response


@pytest.fixture
async def server() -> AsyncIterator[StandInServer]:
    app = web.Application()
    app.router.add_route("*", "/{kind}", answer)
    async with TestServer(app) as listening:
        yield StandInServer(str(listening.make_url("")).rstrip("/"))


@pytest.mark.parametrize(
    ("kind", "end"),
    [("right", "answered"), ("refused", "refused adapter_refused"), ("bare", "LOST"), ("broken", "LOST")],
)
async def test_each_request_is_counted_by_its_end(server: StandInServer, kind: str, end: str) -> None:
    account = Account()
    async with AccountedClient.open(server, account) as caller:
        body = await caller.send("chat", "POST", f"/{kind}", json={})
    assert (body is not None) == (end == "answered")
    assert account.ends == {"chat": {end: 1}}
    assert bool(account.faults({})) == (end == "LOST")


@pytest.mark.parametrize(
    ("kind", "text", "end"),
    [("done", "hi", "answered"), ("error", None, "refused engine_died"), ("cut-off", None, "LOST")],
)
async def test_a_stream_is_answered_only_with_its_end(
    server: StandInServer, kind: str, text: str | None, end: str
) -> None:
    account = Account()
    async with AccountedClient.open(server, account) as caller:
        assert await caller.stream("chat", f"/{kind}", {}) == text
    assert account.ends == {"chat": {end: 1}}


async def test_a_connection_that_breaks_while_the_server_is_killed_is_no_loss(server: StandInServer) -> None:
    account = Account()
    server.killed_s = float("inf")
    async with AccountedClient.open(server, account) as caller:
        await caller.send("chat", "POST", "/broken", json={})
        await caller.stream("chat", "/cut-off", {})
    assert account.ends == {"chat": {"cut by a kill": 2}}
    assert account.faults({}) == []


@dataclass(frozen=True)
class StartingServer(BenchTarget):
    """A server that is never ready unless it ``is_started``; its process sleeps."""

    is_started: bool = False

    async def until_ready(self) -> None:
        while not self.is_started:
            if self.process.poll() is not None:
                raise RuntimeError(f"patchbay ended with {self.process.returncode}")
            await asyncio.sleep(0.01)


class SleepingLives(ServerLives):
    """Lives of a server whose first one does not become ready."""

    async def _start(self) -> None:
        process = await asyncio.to_thread(subprocess.Popen, ["sleep", "60"])
        self._stack = AsyncExitStack()
        self._stack.callback(process.kill)
        target = StartingServer("patchbay", self.url, process, Path(), is_started=bool(self.lives))
        self.lives.append(ServerLife(target, 0.0))
        self._ready.set()


async def test_a_request_that_waits_while_the_server_is_killed_waits_for_the_next_life(tmp_path: Path) -> None:
    async with SleepingLives(tmp_path) as lives:
        waiting = asyncio.create_task(lives.until_ready())
        await asyncio.sleep(0)
        await lives.kill_server()
        await asyncio.wait_for(waiting, 10)
    assert len(lives.lives) == 2


async def test_a_server_that_ends_by_itself_ends_the_wait(tmp_path: Path) -> None:
    async with SleepingLives(tmp_path) as lives:
        lives.life.target.process.kill()
        with pytest.raises(RuntimeError, match="ended with -9"):
            await lives.until_ready()
