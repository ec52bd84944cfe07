"""Real parts only: `patchbay serve` as a process, vLLM's engine, the official OpenAI client.

One server is shared by the whole session; tests that kill or restart one start their own with ``start_server``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob
from safetensors.torch import load_file, save_file

import embedded

START_S = 240
HELD_OUT = 40
ENDED = {"succeeded", "failed", "cancelled"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write what test_kinds.py finds to docs/adapters.md")


@dataclass
class Server:
    """A running `patchbay serve`."""

    process: subprocess.Popen
    url: str
    data_dir: Path
    log: Path
    arguments: tuple[str, ...] = field(default=())
    log_begin: int = 0
    """Bytes of the log that earlier servers on this data directory wrote."""

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, within_s: float = START_S) -> float:
        started = time.monotonic()
        while not self.is_ready():
            assert self.process.poll() is None, f"server ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() - started < within_s, f"server is not ready:\n{self.tail()}"
            time.sleep(0.1)
        return time.monotonic() - started

    def console(self) -> list[str]:
        """Return the lines that this server wrote to its console."""
        return self.log.read_bytes()[self.log_begin :].decode(errors="replace").splitlines()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", timeout=120, max_retries=0)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _start(data_dir: Path, *arguments: str, port: int | None = None) -> Server:
    port = _free_port() if port is None else port
    log = data_dir.parent / f"{data_dir.name}.log"
    command = [
        str(Path(sys.executable).with_name("patchbay")),
        "serve",
        "--port",
        str(port),
        "--data-dir",
        str(data_dir),
    ]
    log_begin = log.stat().st_size if log.exists() else 0
    with log.open("a") as out:
        process = subprocess.Popen(
            [*command, *arguments], stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    return Server(process, f"http://127.0.0.1:{port}", data_dir, log, arguments, log_begin)


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[..., Server]]:
    """Start a server on a data directory; it is ended with the session at the latest."""
    started: list[Server] = []

    def start(data_dir: Path, *arguments: str, port: int | None = None) -> Server:
        server = _start(data_dir, *arguments, port=port)
        started.append(server)
        return server

    yield start
    for server in started:
        server.process.terminate()
    for server in started:
        server.process.wait(60)


@pytest.fixture(scope="session")
def server(start_server, tmp_path_factory) -> Server:
    """The session's server: embedded base, example adapters, local sources below the session's directory."""
    root = tmp_path_factory.getbasetemp()
    server = start_server(tmp_path_factory.mktemp("shared") / "data", "--source-dir", str(root), "--python-graders")
    server.wait_ready()
    return server


@pytest.fixture
async def client(server) -> AsyncIterator[AsyncOpenAI]:
    async with server.client() as client:
        yield client


@pytest.fixture
async def http(server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        yield http


@pytest.fixture
def ended(client: AsyncOpenAI) -> Callable[[str], Awaitable[FineTuningJob]]:
    """Waits until a job has ended well, and returns it."""

    async def wait(job_id: str) -> FineTuningJob:
        async with asyncio.timeout(600):
            while (job := await client.fine_tuning.jobs.retrieve(job_id)).status not in ENDED:
                await asyncio.sleep(0.2)
        assert job.status == "succeeded", job.error
        return job

    return wait


@pytest.fixture
def upload(client: AsyncOpenAI) -> Callable[[bytes | Sequence[Any]], Awaitable[str]]:
    """Upload bytes, or rows, as a training file; return its id."""

    async def upload(content: bytes | Sequence[Any]) -> str:
        raw = content if isinstance(content, bytes) else "".join(json.dumps(row) + "\n" for row in content).encode()
        return (await client.files.create(file=("train.jsonl", raw), purpose="fine-tune")).id

    return upload


@pytest.fixture(scope="session")
def held_out() -> Callable[[str], list[tuple[str, str]]]:
    """Held-out (question, answer) pairs of a skill that no adapter has seen in training."""

    def read(skill: str) -> list[tuple[str, str]]:
        lines = (embedded.DATA / skill / "heldout.jsonl").read_text().splitlines()[:HELD_OUT]
        rows = [json.loads(line)["messages"] for line in lines]
        return [(row[0]["content"], row[1]["content"]) for row in rows]

    return read


@pytest.fixture(scope="session")
def variant(tmp_path_factory) -> Callable[..., Path]:
    """Write a copy of an example adapter whose effect is scaled: other weights, another digest, other answers."""

    def write(skill: str, scale: float) -> Path:
        directory = tmp_path_factory.mktemp(f"{skill}-variant")
        source = embedded.ADAPTERS / skill
        tensors = load_file(source / "adapter_model.safetensors")
        scaled = {name: (t * scale).to(t.dtype) if "lora_B" in name else t for name, t in tensors.items()}
        save_file({name: t.contiguous() for name, t in scaled.items()}, directory / "adapter_model.safetensors")
        (directory / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
        return directory

    return write


@pytest.fixture
def push(http) -> Callable:
    """Upload a directory as a new version of an adapter."""

    async def upload(name: str, directory: Path, **query: str) -> httpx.Response:
        paths = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
        files = {name: (name, path.read_bytes()) for name, path in paths.items()}
        return await http.post(f"/v1/adapters/{name}/versions", files=files, params=query)

    return upload


@pytest.fixture(scope="session", autouse=True)
def _one_thread_for_the_tests() -> None:
    torch.set_num_threads(1)
