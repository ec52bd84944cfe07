"""Effect of the registry's size, in milliseconds: pages, the model list, resolution, and blocks of the event loop.

Fills a registry with 10 and with many adapters, starts `patchbay serve` on it with the embedded base, and sends
requests over HTTP. A second client requests /health without pause; its slowest answer is an upper bound of the time for
which the event loop was blocked. Resolution is measured as a chat of one token by reference, on a resident adapter.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from sqlalchemy import insert, update

from adapters.registry import schema
from adapters.registry.registry import Registry
from bench import options
from bench.options import report_row
from bench.record import Row, summary
from bench.shape import ADAPTERS
from bench.target import run_patchbay, upload

BATCH: Final = 1000
PAGE: Final = 100

Adapters = Annotated[list[int], typer.Option(min=1, help="Number of registered adapters; a server for each number.")]


async def registry(*, adapters: Adapters = [10, 10_000], seconds: options.Seconds = 6) -> Row:  # noqa: B006 - typer copies it
    """A registry of 10 adapters and of many: pages, the model list, resolution, and blocks of the event loop."""
    rows: list[Row] = []
    for count in adapters:
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder) / "data"
            await fill(data_dir, count)
            async with run_patchbay(data_dir, "--no-worker") as url:
                for case, found in (await measure_server(url, seconds)).items():
                    report_row(rows, {"case": f"{case}, {count} adapters", "adapters": count, "patchbay": found})
    return {"shape": "embedded", "rows": rows}


async def fill(data_dir: Path, count: int) -> None:
    """Register ``count`` adapters of one version each, rows without blobs: they are never loaded."""
    data_dir.mkdir(parents=True)
    now = datetime.now(UTC)
    version = {"number": 1, "base_fingerprint": "none", "rank": 8, "size_bytes": 0, "source": "bench", "report": {}}
    async with Registry.open(f"sqlite+aiosqlite:///{data_dir / 'registry.db'}") as registry:
        for start in range(0, count, BATCH):
            ids = range(start + 1, min(start + BATCH, count) + 1)
            async with registry.database.write() as connection:
                await connection.execute(update(schema.clock).values(revision=start + 1))
                await connection.execute(
                    insert(schema.adapters).values(created_at=now, next_version=2, revision=start + 1),
                    [{"id": number, "name": f"bench-{number:06}"} for number in ids],
                )
                await connection.execute(
                    insert(schema.versions).values(**version, created_at=now),
                    [{"adapter_id": number, "digest": f"{number:064x}"} for number in ids],
                )
                await connection.execute(
                    insert(schema.aliases).values(name="stable", version=1, generation=1, updated_at=now),
                    [{"adapter_id": number} for number in ids],
                )


async def measure_server(url: str, seconds: float) -> Row:
    """Return milliseconds of each kind of request, sent for ``seconds``, and of /health meanwhile, by case."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await upload(url, {"asked": ADAPTERS / "sql"})

        async def page(number: int) -> None:
            after = f"bench-{(number * 7919) % 100_000:06}"
            (await client.get("/v1/adapters", params={"limit": PAGE, "after": after})).raise_for_status()

        async def models(_: int) -> None:
            (await client.get("/v1/models")).raise_for_status()

        async def chat(_: int) -> None:
            body = {"model": "asked", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()

        return {
            "nothing asked": await _beside_health(url, seconds, lambda _: asyncio.sleep(0.01)),
            "page of 100": await _beside_health(url, seconds, page),
            "whole model list": await _beside_health(url, seconds, models),
            "chat of one token": await _beside_health(url, seconds, chat),
        }


async def _beside_health(url: str, seconds: float, send: Callable[[int], Awaitable[None]]) -> Row:
    """Return milliseconds of ``send``, repeated for ``seconds``, and of /health in the same time."""
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=url) as client:
        await client.get("/health")  # the connection's set-up is not measured

        async def health(_: int) -> None:
            (await client.get("/health")).raise_for_status()

        probe = asyncio.create_task(_repeat(health, done.is_set))
        end = time.perf_counter() + seconds
        times = await _repeat(send, lambda: time.perf_counter() >= end)
        done.set()
        return {"ms": summary(times), "health_ms": summary(await probe)}


async def _repeat(send: Callable[[int], Awaitable[None]], is_over: Callable[[], bool]) -> list[float]:
    times: list[float] = []
    while not is_over():
        started = time.perf_counter()
        await send(len(times))
        times.append((time.perf_counter() - started) * 1000)
    return times
