"""How the registry's size shows: listing pages, event-loop blocks, resolution, with 10 and with many adapters.

    python -m bench.registry [--adapters 10000] [--seconds 10] [--out bench/results]

Fills a registry, starts `patchbay serve` on it with the embedded base, and asks over HTTP. A second client asks /health
without pause; its slowest answer bounds from above how long anything held up the event loop. Resolution is measured
where callers feel it: a chat of one token by reference, on an adapter that is resident.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
from sqlalchemy import insert, update

from adapters import schema
from adapters.registry import Registry
from bench.run import Row, record, serving, summary

BATCH = 1000
PAGE = 100


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


async def measure(url: str, seconds: float, example: Path) -> Row:
    """Ask the server at ``url`` for ``seconds`` each: pages, the whole model list, resolution; blocks all the while."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        files = {path.name: (path.name, path.read_bytes()) for path in example.iterdir()}
        (await client.post("/v1/adapters/asked/versions", files=files)).raise_for_status()

        async def page(number: int) -> None:
            after = f"bench-{(number * 7919) % 100_000:06}"
            (await client.get("/v1/adapters", params={"limit": PAGE, "after": after})).raise_for_status()

        async def models(_: int) -> None:
            (await client.get("/v1/models")).raise_for_status()

        async def chat(_: int) -> None:
            body = {"model": "asked", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()

        quiet = await _probed(url, seconds, lambda _: asyncio.sleep(0.01))
        return {
            "quiet": quiet,
            "list_page_100": await _probed(url, seconds, page),
            "models_whole": await _probed(url, seconds, models),
            "chat_one_token": await _probed(url, seconds, chat),
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
    return {"act_ms": summary(times), "health_ms": summary(probes)}


async def _probe(url: str, done: asyncio.Event) -> list[float]:
    times = []
    async with httpx.AsyncClient(base_url=url) as client:
        await client.get("/health")  # connecting is no part of what is measured
        while not done.is_set():
            started = time.perf_counter()
            (await client.get("/health")).raise_for_status()
            times.append((time.perf_counter() - started) * 1000)
    return times


async def run(count: int, seconds: float, example: Path) -> Row:
    """Measure a fresh server that holds ``count`` adapters."""
    with tempfile.TemporaryDirectory() as root:
        data_dir = Path(root) / "data"
        await fill(data_dir, count)
        async with serving(data_dir) as url:
            return await measure(url, seconds, example)


def main() -> None:
    """Measure 10 adapters and many, side by side in one run, and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m bench.registry", description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--example", type=Path, default=Path("embedded/adapters/sql"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    measured: Row = {}
    for count in (10, options.adapters):
        measured[str(count)] = asyncio.run(run(count, options.seconds, options.example))
        print(count, json.dumps(measured[str(count)], indent=1))
    record(options.out, "registry", sys.argv[1:], measured)


if __name__ == "__main__":
    main()
