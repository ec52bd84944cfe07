"""The socket a process listens on, and its stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import httpx
import pytest

from server.process import CannotListen, _listen, listening_socket
from server.settings import Settings
from tests.server.opened import Opened
from tests.until import until


async def test_answers_leave_at_once() -> None:
    """asyncio switches Nagle's algorithm off for sockets that are named as TCP; with it a small answer takes 40 ms."""
    delays: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        delays.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listening_socket(Settings(port=0)) as listener:
        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await delays
            writer.close()


def test_a_taken_port_is_said_with_the_way_out() -> None:
    with (
        listening_socket(Settings(port=0)) as taken,
        pytest.raises(CannotListen, match="choose another with --port"),
    ):
        listening_socket(Settings(port=taken.getsockname()[1]))


async def test_a_stop_ends_the_streams_of_jobs_events_in_order(opened: Opened) -> None:
    rows = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 10
    file = {"purpose": (None, "fine-tune"), "file": ("a.jsonl", rows)}
    training_file = (await opened.client.post("/v1/files", files=file)).json()["id"]
    body = {"model": "base", "training_file": training_file}
    job = (await opened.client.post("/v1/fine_tuning/jobs", json=body)).json()["id"]

    async def is_waiting() -> bool:
        return (await opened.state.records.jobs.get(job)).state == "queued"

    await until(is_waiting)
    with listening_socket(Settings(port=0)) as listener:
        serving = asyncio.create_task(_listen(opened.state, listener, time.monotonic()))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/fine_tuning/jobs/{job}/events"
        lines: list[str] = []
        async with httpx.AsyncClient() as http, http.stream("GET", url, params={"stream": "true"}) as response:
            async for line in response.aiter_lines():  # a connection that is cut would raise
                if line and not lines:
                    signal.raise_signal(signal.SIGTERM)
                lines += [line] if line else []
        assert lines[-1].startswith(": the server is stopping")
        assert await serving == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
