"""How soon new weights answer: an upload, from the first byte sent to the first token that is right.

Stock vLLM has no upload: it is told of a directory that it can read (``/v1/load_lora_adapter``), looks at nothing and
stores nothing. Ours receives the bytes, checks, probes and stores them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from bench.load import LoadClient
from bench.options import RESULTS, Bench, EngineFlag, Out, Peer, conduct, say
from bench.record import Row
from bench.scenarios.swap import QUESTION, TELLING, variant
from bench.target import PATIENCE_S, BenchTarget, upload
from bench.versus import alternating, timed_row
from bench.workload import Ask

RIGHT: Final = "SELECT author"[:TELLING]
TOKENS: Final = 8

Uploads = Annotated[int, typer.Option(min=1, help="One after the other.")]


def publish(*, peer: Peer = None, count: Uploads = 10, engine_flag: EngineFlag = None, out: Out = RESULTS) -> None:
    """An adapter uploaded: how long until it is accepted, and until its first token."""
    bench = Bench(peer, "embedded", flags=tuple(engine_flag or ()))
    conduct("publish", out, lambda: measure(bench, count))


async def measure(bench: Bench, count: int) -> Row:
    """Upload one adapter after the other."""
    rows: list[Row] = []
    async with bench.servers(0) as (_, _, targets, folder):

        async def act(target: BenchTarget, number: int) -> tuple[float, float]:
            directory = variant(folder / target.kind / f"n{number}", "sql", strength=1 + number % 1000 / 10_000)
            return await _published(target, f"n{number}", directory)

        found = await alternating(targets, count, act)
    for which, case in enumerate(("sent → accepted", "sent → first right token")):
        say(rows, timed_row(case, {kind: [[pair[which]] for pair in pairs] for kind, pairs in found.items()}))
    return {**bench.facts, "rows": rows}


async def _published(target: BenchTarget, name: str, directory: Path) -> tuple[float, float]:
    """Return milliseconds until the server has taken the adapter, and until it answers rightly."""
    started = time.perf_counter()
    if target.kind == "patchbay":
        await upload(target.url, {name: directory}, force_base="true")  # which is served by another name here
    else:
        async with httpx.AsyncClient(base_url=target.url, timeout=PATIENCE_S) as http:
            told = {"lora_name": name, "lora_path": str(directory)}
            (await http.post("/v1/load_lora_adapter", json=told)).raise_for_status()
    accepted = time.perf_counter()
    async with LoadClient(target.url) as client:
        answer = await client.ask(Ask(0.0, name, QUESTION, TOKENS), started)
    if answer.failure is not None or not answer.text.startswith(RIGHT):
        raise RuntimeError(f"{target.kind} answered {answer.text!r}: {answer.failure}")
    return (accepted - started) * 1000, answer.came_s[0] * 1000
