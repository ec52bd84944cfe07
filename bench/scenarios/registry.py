"""How the registry's size shows: listing pages, event-loop blocks, resolution, with 10 and with many adapters.

Fills a registry, starts `patchbay serve` on it with the embedded base, and asks over HTTP. A second client asks /health
without pause; its slowest answer bounds from above how long anything held up the event loop. Resolution is measured
where callers feel it: a chat of one token by reference, on an adapter that is resident.
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
from bench.options import RESULTS, Out, conduct, say
from bench.record import Row, summary
from bench.shape import ADAPTERS
from bench.target import serving, upload

BATCH: Final = 1000
PAGE: Final = 100

Adapters = Annotated[list[int], typer.Option(min=1, help="How many are registered, a server for each number.")]
Seconds = Annotated[float, typer.Option(help="That each question is asked for.")]


async def fill(data_dir: Path, count: int) -> None:
    """Register ``count`` adapters of one version each, rows only: nobody will load them."""
    data_dir.mkdir(parents=True)
    now = datetime.now(UTC)
    async with Registry.open(f"sqlite+aiosqlite:///{data_dir / 'registry.db'}") as registry:
        for start in range(0, count, BATCH):
            ids = range(start + 1, min(start + BATCH, count) + 1)
            async with registry.database.write() as connection:
                await connection.execute(update(schema.clock).values(revision=start + 1))
                await connection.execute(insert(schema.adapters), [_adapter(n, start + 1, now) for n in ids])
                await connection.execute(insert(schema.versions), [_version(n, now) for n in ids])
                await connection.execute(insert(schema.aliases), [_alias(n, now) for n in ids])


def _adapter(number: int, revision: int, now: datetime) -> Row:
    return {"id": number, "name": f"bench-{number:06}", "created_at": now, "next_version": 2, "revision": revision}


def _version(number: int, now: datetime) -> Row:
    return {
        "adapter_id": number,
        "number": 1,
        "digest": f"{number:064x}",
        "base_fingerprint": "none",
        "rank": 8,
        "size_bytes": 0,
        "source": "bench",
        "report": {},
        "created_at": now,
    }


def _alias(number: int, now: datetime) -> Row:
    return {"adapter_id": number, "name": "stable", "version": 1, "generation": 1, "updated_at": now}


async def asked(url: str, seconds: float) -> Row:
    """Ask the server at ``url`` for ``seconds`` each: pages, the whole model list, resolution; blocks all the while."""
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
            "nothing asked": await _probed(url, seconds, lambda _: asyncio.sleep(0.01)),
            "page of 100": await _probed(url, seconds, page),
            "whole model list": await _probed(url, seconds, models),
            "chat of one token": await _probed(url, seconds, chat),
        }


async def _probed(url: str, seconds: float, act: Callable[[int], Awaitable[None]]) -> Row:
    """Repeat ``act`` for ``seconds`` beside a prober; milliseconds of both."""
    done = asyncio.Event()
    prober = asyncio.create_task(_probe(url, done))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        await act(len(times))
        times.append((time.perf_counter() - started) * 1000)
    done.set()
    probes = await prober
    return {"ms": summary(times), "health_ms": summary(probes)}


async def _probe(url: str, done: asyncio.Event) -> list[float]:
    times = []
    async with httpx.AsyncClient(base_url=url) as client:
        await client.get("/health")  # connecting is no part of what is measured
        while not done.is_set():
            started = time.perf_counter()
            (await client.get("/health")).raise_for_status()
            times.append((time.perf_counter() - started) * 1000)
    return times


def registry(
    *,
    adapters: Adapters = [10, 10_000],  # noqa: B006 - typer copies it
    seconds: Seconds = 6,
    out: Out = RESULTS,
) -> None:
    """A registry of 10 adapters and of many: pages, the whole model list, resolution, and blocks of the event loop."""
    conduct("registry", out, lambda: measure(adapters, seconds))


async def measure(counts: list[int], seconds: float) -> Row:
    """Fill a registry, start a server on it and ask, for each size."""
    rows: list[Row] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder) / "data"
            await fill(data_dir, count)
            async with serving(data_dir, "--no-worker") as url:
                for case, found in (await asked(url, seconds)).items():
                    say(rows, {"case": f"{case}, {count} adapters", "adapters": count, "patchbay": found})
    return {"shape": "embedded", "rows": rows}
