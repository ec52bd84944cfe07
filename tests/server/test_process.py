"""The socket a process listens on, what it writes, and its stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from pathlib import Path

import httpx
import pytest

from server import process, worker_process
from server.engine.vllm.process_logs import ProcessLogs
from server.process import CannotListen, _listen, listening_socket
from server.settings import ClientSettings, Settings
from tests.server.opened import CHAT, Opened, Opening
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


async def test_an_idle_connection_stays_longer_than_clients_keep_it(opened: Opened) -> None:
    """OpenAI's client and httpx send requests on connections that were idle for up to five seconds."""
    kept_s = httpx.Limits().keepalive_expiry
    assert kept_s is not None
    with listening_socket(Settings(port=0)) as listener:
        serving = asyncio.create_task(_listen(opened.state, listener, time.monotonic()))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(TimeoutError):  # the end of the connection does not come
            await asyncio.wait_for(reader.read(), kept_s + 1)
        writer.close()
        signal.raise_signal(signal.SIGTERM)
        assert await serving == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_leaving_server_takes_requests_until_a_second_signal(opening: Opening) -> None:
    async with opening(lame_duck_s=3600.0, drain_s=3600.0) as opened:
        with listening_socket(Settings(port=0)) as listener:
            serving = asyncio.create_task(_listen(opened.state, listener, time.monotonic()))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as http:

                async def is_ready() -> bool:
                    return (await http.get("/ready")).status_code == 200

                async def is_leaving() -> bool:
                    return not await is_ready()

                await until(is_ready)
                signal.raise_signal(signal.SIGTERM)
                await until(is_leaving)
                body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
                assert (await http.post(CHAT, json=body)).status_code == 200
                signal.raise_signal(signal.SIGTERM)
                async with asyncio.timeout(60):
                    assert await serving == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.parametrize("program", ["serve", "worker"])
def test_what_a_server_and_a_worker_write_is_read_by_their_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async def write(*_: object) -> int:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "rows.jsonl").write_text("{}")
        return 0

    for module, name in ((process, "_serve"), (worker_process, "_work")):
        monkeypatch.setattr(module, name, write)
        monkeypatch.setattr(module, "configure_logs", lambda *_, **__: None)
    monkeypatch.setattr(process, "raise_descriptor_limit", lambda: None)
    before = os.umask(0o022)
    try:
        if program == "serve":
            process.serve(Settings(port=0), ProcessLogs(tmp_path), 0.0)
        else:
            worker_process.work(Settings(), ClientSettings())
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("runs", "runs/rows.jsonl")]
    assert modes == [0o700, 0o600]
