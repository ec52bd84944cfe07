"""A server through its crashes: the engine killed under load, the process killed, the process asked to stop.

One data directory and three starts, in the order of the tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

import embedded
from server.engine.vllm.cpu.thread_binding import predict_variables
from tests.acceptance.conftest import START_S

STREAMS = 8
NOISE = ("alembic", "WARNING", "Warning", "leaked", "Traceback", "Triton", "(EngineCore")
"""Parts of lines that libraries and the interpreter write, and that help nobody at a console."""


def noise(console):
    return [line for line in console if any(part in line for part in NOISE)]


@pytest.fixture(scope="module")
def servers(start_server, tmp_path_factory):
    """Returns the running server, or starts it again on its data directory."""
    data_dir = tmp_path_factory.mktemp("crashes") / "data"
    started = []

    def newest(*, restart: bool = False):
        if restart or not started:
            started.append(start_server(data_dir, "--drain-s", "60"))
            started[-1].wait_ready()
        return started[-1]

    return newest


def engine_core_of(pid: int) -> int:
    """Return the pid of vLLM's engine core below ``pid``."""
    return next(below for below, title in processes_below(pid) if "EngineCore" in title)


def processes_below(pid: int) -> list[tuple[int, str]]:
    """Return pid and title of every process that ``pid`` started, or that one of them started."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()[1:]]
    children = [(int(row[0]), row[2]) for row in rows if int(row[1]) == pid]
    return children + [below for child, _ in children for below in processes_below(child)]


def sleeps(pid: int) -> int:
    """Return how often the process gave its CPU up to wait for something."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


async def stream(server, model="sql", length=400):
    """Return every event of a long stream as text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me about the harbour."}],
        "max_tokens": length,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    async with (
        httpx.AsyncClient(timeout=120) as http,
        http.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status_code == 200
        return [line async for line in response.aiter_lines() if line]


async def until_streaming(server, count):
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        while True:
            page = (await http.get("/metrics")).text
            in_flight = [
                line for line in page.splitlines() if line.startswith('patchbay_requests_in_flight{adapter="sql"')
            ]
            if in_flight and float(in_flight[0].rsplit(" ", 1)[1]) >= count:
                return
            await asyncio.sleep(0.02)


async def test_control_routes_answer_while_the_engine_starts(start_server, servers, tmp_path_factory):
    server = start_server(tmp_path_factory.mktemp("starting") / "data")
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        for _ in range(200):
            try:
                await http.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/v1/adapters")).json()["data"] == []
        refused = await http.post("/v1/chat/completions", json={"model": "sql", "messages": []})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert noise(server.console()) == []
    assert server.console()[-1].endswith("stopped")


async def test_an_engine_that_dies_too_often_ends_the_process_with_70(start_server, tmp_path_factory):
    """The base model is a directory here, so that its KV cache is sized from the memory that is free."""
    base = (str(embedded.BASE), "--enforce-eager")
    server = start_server(tmp_path_factory.mktemp("deadly") / "data", *base, "--max-engine-deaths", "1")
    await asyncio.to_thread(server.wait_ready)
    os.kill(engine_core_of(server.process.pid), signal.SIGKILL)
    assert await asyncio.to_thread(server.process.wait, 60) == 70
    assert any("memory free=" in line and "kv_cache=" in line for line in server.console())
    assert noise(server.console()) == []


def test_an_engine_that_can_never_start_ends_the_process_with_2_and_says_why(start_server, tmp_path_factory):
    server = start_server(tmp_path_factory.mktemp("refused") / "data", "--no-such-flag", "3")
    assert server.process.wait(120) == 2
    starting, refused = server.console()
    assert "starting" in starting
    assert "engine cannot start: vLLM's flags: unrecognized arguments: --no-such-flag" in refused


def test_an_engine_that_does_not_fit_ends_the_process_at_once_with_cause_and_flag(start_server, tmp_path_factory):
    server = start_server(tmp_path_factory.mktemp("large") / "data", "--kv-cache-memory-bytes", "900G")
    assert server.process.wait(START_S) == 2
    assert noise(server.console()) == []
    assert len(server.console()) <= 6
    assert "engine cannot start: Available memory on node" in server.console()[-1]
    assert "--kv-cache-memory-bytes" in server.console()[-1]


async def test_an_engine_that_hangs_is_replaced(start_server, tmp_path_factory):
    """Its core is stopped, as a deadlock or a broken driver would stop it: alive, and without an answer."""
    server = start_server(tmp_path_factory.mktemp("hanging") / "data", "--engine-stall-s", "10")
    await asyncio.to_thread(server.wait_ready)
    os.kill(core := engine_core_of(server.process.pid), signal.SIGSTOP)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        while (await http.get("/ready")).status_code == 200:
            await asyncio.sleep(0.2)
        await asyncio.to_thread(server.wait_ready)
        body = {"model": "sql", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert not is_running(core)
    assert any("engine hangs and is killed" in line for line in server.console())


async def test_a_killed_engine_ends_its_streams_with_an_error_and_comes_back_by_itself(servers, capsys):
    server = servers()
    streams = [asyncio.create_task(stream(server)) for _ in range(STREAMS)]
    await until_streaming(server, STREAMS)
    os.kill(engine_core_of(server.process.pid), signal.SIGKILL)
    died = time.monotonic()
    while server.is_ready():
        await asyncio.sleep(0.02)
    noticed_s = time.monotonic() - died
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        assert (await http.get("/v1/adapters/sql")).status_code == 200
        assert (await http.get("/health")).status_code == 200
    for events in await asyncio.gather(*streams):
        assert any('"error"' in event for event in events[-2:]), events[-2:]
    await asyncio.to_thread(server.wait_ready)
    with capsys.disabled():
        print(
            f"\nengine death noticed after {noticed_s:.2f} s, rebuilt and ready after {time.monotonic() - died:.1f} s"
        )
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        residents = {view["id"] for view in (await http.get("/v1/residents")).json()["data"]}
    assert "sql@1" in residents
    assert (await stream(server, length=4))[-1] == "data: [DONE]"


def test_an_engine_is_forked_from_what_is_imported_already_and_its_worker_is_bound_as_vllm_binds_it(servers):
    below = processes_below(servers().process.pid)
    (forkserver,) = (pid for pid, title in below if "forkserver" in title)
    (worker,) = (pid for pid, title in below if "Worker" in title)
    assert {pid for pid, _ in processes_below(forkserver)} >= {worker, engine_core_of(forkserver)}
    bound = predict_variables(os.environ)
    assert os.sched_getaffinity(worker) == {int(bound["GOMP_CPU_AFFINITY"].split()[0])}
    assert os.sched_getaffinity(engine_core_of(forkserver)) == os.sched_getaffinity(0)


async def test_the_core_sleeps_while_its_worker_computes(servers):
    server = servers()
    core = engine_core_of(server.process.pid)
    before, tokens = sleeps(core), 100
    await stream(server, length=tokens)
    assert sleeps(core) - before > tokens


async def test_a_killed_process_comes_back_with_adapters_aliases_pins_and_residents(servers, variant):
    server = servers()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        directory = variant("sql", 0.5)
        files = {path.name: (path.name, path.read_bytes()) for path in directory.iterdir()}
        assert (await http.post("/v1/adapters/kept/versions", files=files)).status_code == 201
        assert (await http.post("/v1/adapters/kept/versions", files=files)).status_code == 201
        assert (await http.put("/v1/adapters/kept/aliases/canary", json={"version": 2})).status_code == 200
        assert (await http.post("/v1/adapters/kept/versions/2/pin")).status_code == 200
    orphans = processes_below(server.process.pid)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(60)
    while any(is_running(pid) for pid, _ in orphans):  # an orphan would keep the accelerator's memory
        await asyncio.sleep(0.05)
    server = servers(restart=True)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        assert (await http.get("/v1/adapters/kept")).json()["aliases"] == {"stable": 1, "canary": 2}
        version = (await http.get("/v1/adapters/kept/versions/2")).json()
        assert version["is_pinned"]
        assert version["residency"] == "resident"
        answer = await http.post(
            "/v1/chat/completions",
            json={"model": "kept@canary", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        )
        assert answer.json()["model"] == "kept@2"


async def test_a_stop_lets_streams_finish_refuses_new_ones_and_ends_with_zero(servers):
    server = servers()
    running = [asyncio.create_task(stream(server, length=200)) for _ in range(4)]
    await until_streaming(server, 4)
    server.process.send_signal(signal.SIGTERM)
    while server.is_ready():
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        refused = await http.post("/v1/chat/completions", json={"model": "sql", "messages": []})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
    for events in await asyncio.gather(*running):
        assert events[-1] == "data: [DONE]"
        assert not any('"error"' in event for event in events)
    assert await asyncio.to_thread(server.process.wait, 60) == 0


def test_the_console_of_start_and_stop_is_short(servers):
    """The server of the tests above has answered requests and was stopped."""
    console = servers().console()
    requests = [line for line in console if " request method=" in line]
    assert any("path=/v1/chat/completions" in line for line in requests)  # our lines go on after the engine's start
    assert not any("path=/ready" in line or "path=/metrics" in line for line in requests)
    rest = [line for line in console if line not in requests]
    assert noise(rest) == []
    assert len(rest) <= 15, "\n".join(rest)
    block = next(number for number, line in enumerate(rest) if " ready in " in line)
    assert [line.split()[0] for line in rest[block + 1 : block + 5]] == ["url", "base", "adapters", "try"]
    assert servers().url in rest[block + 1]
    assert rest[-1].endswith("stopped")
