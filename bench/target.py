"""A server under measurement: `patchbay serve`, or stock vLLM with the same engine flags on another port."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import httpx

READY_S: Final = 900
POLL_S: Final = 0.1
END_S: Final = 60
OFFLINE: Final = "HF_HUB_OFFLINE=1"
STOCK_ENVIRONMENT: Final = ("VLLM_PLUGINS=", "VLLM_LOGGING_LEVEL=WARNING", "VLLM_NO_USAGE_STATS=1")
"""Without our plugins, which are installed beside it, and with as little logging as ours."""

Kind = Literal["patchbay", "vllm"]


@dataclass(frozen=True)
class Stand:
    """What both servers are started with.

    Attributes:
        base: directory of the base model.
        slots: adapters that can share a batch (vLLM's ``--max-loras``).
        residents: adapters held in memory at once (``--max-residents``, vLLM's ``--max-cpu-loras``).
        rank: highest of an adapter.
        adapters: directory of each, by name.
        flags: further ones of the engine.
    """

    base: Path
    slots: int
    residents: int
    rank: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @property
    def engine_flags(self) -> tuple[str, ...]:
        """What both pass to the engine."""
        limits = ("--max-loras", str(self.slots), "--max-lora-rank", str(max(8, self.rank)))
        return ("--served-model-name", "base", *limits, *self.flags)


@dataclass(frozen=True)
class Target:
    """A running server."""

    kind: Kind
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_s: float = 0.0

    async def until_ready(self, started: float) -> float:
        """Wait until it answers; return the seconds since ``started``, as ``time.perf_counter`` counts.

        Raises:
            RuntimeError: it ended instead; the end of its log is in the message.
        """
        route = {"patchbay": "/ready", "vllm": "/health"}[self.kind]
        async with asyncio.timeout(READY_S), httpx.AsyncClient(base_url=self.url) as http:
            while self.process.poll() is None:
                try:
                    if (await http.get(route)).status_code == httpx.codes.OK:
                        return time.perf_counter() - started
                except httpx.TransportError:
                    pass
                await asyncio.sleep(POLL_S)
        raise RuntimeError(f"{self.kind} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")


@asynccontextmanager
async def running(command: Sequence[str], kind: Kind, port: int, log: Path) -> AsyncIterator[Target]:
    """Run a server, ready or not yet, and end it."""
    with log.open("w") as output:
        process = subprocess.Popen(["env", OFFLINE, *command], stdout=output, stderr=output)
    try:
        yield Target(kind, f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def patchbay_command(stand: Stand, port: int, data_dir: Path, *ours: str) -> list[str]:
    """Return `patchbay serve` for ``stand``; ``ours`` are further flags of its own.

    Adapters are not compared with PEFT at the door: bench makes a thousand of them and knows what they are.
    """
    program = str(Path(sys.executable).with_name("patchbay"))
    state = ("--port", str(port), "--data-dir", str(data_dir), "--max-residents", str(max(2, stand.residents)))
    own = ("--no-worker", "--probe-reference", "off", *state, *ours)
    return [program, "serve", str(stand.base), *own, *stand.engine_flags]


def stock_command(stand: Stand, port: int) -> list[str]:
    """Return stock vLLM for ``stand``. Its console script does not work in the CPU build, so the module is run."""
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(stand.base)]
    place = ("--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log")
    lora = ("--enable-lora", "--max-cpu-loras", str(max(stand.slots, stand.residents)))
    modules = [f"{name}={directory}" for name, directory in stand.adapters.items()]
    named = ["--lora-modules", *modules] if modules else []
    return ["env", *STOCK_ENVIRONMENT, *server, *place, *lora, *stand.engine_flags, *named]


@asynccontextmanager
async def standing(stand: Stand, kinds: Sequence[Kind], root: Path, *ours: str) -> AsyncIterator[list[Target]]:
    """Run a server of each kind beside the others, with all adapters of ``stand`` in their registries."""
    async with AsyncExitStack() as stack:
        targets = []
        for kind in kinds:
            port = free_port()
            patchbay = kind == "patchbay"
            command = patchbay_command(stand, port, root / "data", *ours) if patchbay else stock_command(stand, port)
            targets.append(await stack.enter_async_context(running(command, kind, port, root / f"{kind}.log")))
        for target in targets:
            await target.until_ready(0)
            if target.kind == "patchbay":
                await publish(target.url, stand.adapters)
        yield targets


async def publish(url: str, adapters: Mapping[str, Path]) -> None:
    """Upload each directory as a version of the adapter that it is named for."""
    async with httpx.AsyncClient(base_url=url, timeout=READY_S) as http:
        for name, directory in adapters.items():
            files = {path.name: (path.name, path.read_bytes()) for path in directory.iterdir()}
            (await http.post(f"/v1/adapters/{name}/versions", files=files)).raise_for_status()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
