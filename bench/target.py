"""A server under measurement: `patchbay serve`, or stock vLLM with the same engine flags on another port."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

import httpx

PATIENCE_S: Final = 900
POLL_S: Final = 0.1
END_S: Final = 60
PATCHBAY: Final = str(Path(sys.executable).with_name("patchbay"))
OFFLINE: Final = "HF_HUB_OFFLINE=1"
UPDATING: Final = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
STOCK_ENVIRONMENT: Final = ("VLLM_PLUGINS=", "VLLM_LOGGING_LEVEL=WARNING", "VLLM_NO_USAGE_STATS=1", UPDATING)
"""Without patchbay's plugins, which are installed too, and with as little logging as patchbay's."""

Kind = Literal["patchbay", "vllm", "keyless"]
"""Ours, stock vLLM, or ours without API keys; beside the last, ours has a key, limits, usage and the audit log."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
HIGH_LIMITS: Final = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "concurrent_requests": 10**6}
"""Limits that are counted and never reached."""


@dataclass(frozen=True)
class ServerConfig:
    """The configuration of both servers.

    Attributes:
        base: directory of the base model.
        slots: adapters that can share a batch (vLLM's ``--max-loras``).
        residents: adapters held in memory at once (``--max-residents``, vLLM's ``--max-cpu-loras``).
        rank: highest rank of an adapter.
        adapters: directories of the adapters, by name.
        flags: further engine flags.
    """

    base: Path
    slots: int
    residents: int
    rank: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def engine_flags(self) -> tuple[str, ...]:
        """The flags that both pass to the engine."""
        highest = 1 << max(3, (self.rank - 1).bit_length())  # the next limit that vLLM accepts
        limits = ("--max-loras", str(self.slots), "--max-lora-rank", str(highest))
        return ("--served-model-name", "base", *limits, *self.flags)


@dataclass(frozen=True)
class BenchTarget:
    """A running server."""

    kind: Kind
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    api_key: str | None = None
    """Sent with each request; None: none is."""

    async def until_ready(self) -> None:
        """Wait until the server is ready.

        Raises:
            RuntimeError: the server ended; the message holds the end of its log.
        """
        route = "/health" if self.kind == "vllm" else "/ready"
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(base_url=self.url) as http:
            while self.process.poll() is None:
                try:
                    if (await http.get(route)).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(POLL_S)
        raise RuntimeError(f"{self.kind} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")


@asynccontextmanager
async def run_server(command: Sequence[str], kind: Kind, port: int, log: Path) -> AsyncIterator[BenchTarget]:
    """Start a server, without waiting until it is ready, and end it with all its processes."""
    with log.open("a") as output:
        process = subprocess.Popen(["env", OFFLINE, *command], stdout=output, stderr=output, start_new_session=True)
    try:
        yield BenchTarget(kind, f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        with suppress(ProcessLookupError):  # stock vLLM leaves its engine process behind if terminated while it starts
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def launch(kind: Kind, config: ServerConfig, port: int, root: Path) -> AbstractAsyncContextManager[BenchTarget]:
    """Start a server of ``kind``; its log, and patchbay's data directory, are below ``root``."""
    data_dir = root / ("data" if kind == "patchbay" else kind)
    command = stock_command(config, port) if kind == "vllm" else patchbay_command(config, port, data_dir)
    return run_server(command, kind, port, root / f"{kind}.log")


def patchbay_command(config: ServerConfig, port: int, data_dir: Path) -> list[str]:
    """Return the command of `patchbay serve`, without comparison with PEFT: up to a thousand adapters are uploaded."""
    state = ("--port", str(port), "--data-dir", str(data_dir), "--max-residents", str(config.residents))
    own = ("--no-worker", "--probe-reference", "off", *state)
    return [PATCHBAY, "serve", str(config.base), *own, *config.engine_flags]


def stock_command(config: ServerConfig, port: int) -> list[str]:
    """Return the command of stock vLLM: the module, as its console script does not work in the CPU build."""
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(config.base)]
    place = ("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log")
    lora = ("--enable-lora", "--max-cpu-loras", str(max(config.slots, config.residents)))
    modules = [f"{name}={directory}" for name, directory in config.adapters.items()]
    named = ["--lora-modules", *modules] if modules else []
    return ["env", *STOCK_ENVIRONMENT, *server, *place, *lora, *config.engine_flags, *named]


@asynccontextmanager
async def run_servers(config: ServerConfig, kinds: Sequence[Kind], root: Path) -> AsyncIterator[list[BenchTarget]]:
    """Run a server of each kind, all at once, and register the adapters of ``config`` with each."""
    async with AsyncExitStack() as stack:
        started = [launch(kind, config, free_port(), root) for kind in kinds]
        targets = [await stack.enter_async_context(server) for server in started]
        for target in targets:
            await target.until_ready()
            if target.kind != "vllm":
                await upload(target.url, config.adapters)
        yield [await with_accounts(target) if "keyless" in kinds else target for target in targets]


@asynccontextmanager
async def run_patchbay(data_dir: Path, *arguments: str) -> AsyncIterator[str]:
    """Run `patchbay serve` with the embedded base and its examples; yields its URL once it is ready."""
    port = free_port()
    command = [PATCHBAY, "serve", "--port", str(port), "--data-dir", str(data_dir), *arguments]
    async with run_server(command, "patchbay", port, data_dir.with_suffix(".log")) as target:
        await target.until_ready()
        yield target.url


async def with_accounts(target: BenchTarget) -> BenchTarget:
    """Return ``target`` with an API key, whose requests and tokens are limited, where its kind is "patchbay"."""
    if target.kind != "patchbay":
        return target
    async with httpx.AsyncClient(base_url=target.url, timeout=PATIENCE_S) as http:
        made = (await http.post("/v1/keys", json={"name": "bench", "scopes": ["admin"]})).raise_for_status().json()
        http.headers["Authorization"] = f"Bearer {made['value']}"
        for account in (f"key/{made['id']}", "project/default"):
            (await http.put(f"/v1/limits/{account}", json=HIGH_LIMITS)).raise_for_status()
    return replace(target, api_key=made["value"])


async def upload(url: str, adapters: Mapping[str, Path], **query: str) -> None:
    """Upload each directory as a version of the adapter of its name.

    Raises:
        RuntimeError: an upload was refused; the message holds the reason.
    """
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        for name, directory in adapters.items():
            files = {path.name: (path.name, path.read_bytes()) for path in directory.iterdir()}
            answer = await http.post(f"/v1/adapters/{name}/versions", files=files, params=query)
            if answer.is_error:
                raise RuntimeError(f"{name} was not accepted: {answer.text}")


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
