"""Time from new weights to the first right token: an upload, from its first byte to acceptance and to an answer.

patchbay receives the bytes, checks, probes and stores them. Stock vLLM has no upload: it gets the path of a directory
that it can read (``/v1/load_lora_adapter``), checks nothing and stores nothing. In milliseconds, both servers in turns.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from bench import options
from bench.comparison import alternate, timed_row
from bench.load import LoadClient
from bench.options import BenchOptions, report_row
from bench.record import Row
from bench.scenarios.swap import QUESTION, TELLING, variant
from bench.target import PATIENCE_S, BenchTarget, upload
from bench.workload import LoadRequest

RIGHT: Final = "SELECT author"[:TELLING]
TOKENS: Final = 8

Uploads = Annotated[int, typer.Option(min=1, help="Uploads to each server, one after the other.")]


async def publish(*, peer: options.Peer = None, count: Uploads = 10, engine_flag: options.EngineFlag = None) -> Row:
    """Upload of an adapter: time to acceptance, and to its first token."""
    bench = BenchOptions(peer, "embedded", flags=engine_flag)
    rows: list[Row] = []
    async with bench.servers(0) as (_, _, targets, folder):

        async def run(target: BenchTarget, number: int) -> tuple[float, float]:
            directory = variant(folder / target.kind / f"n{number}", "sql", strength=1 + number % 1000 / 10_000)
            return await _published(target, f"n{number}", directory)

        times = await alternate(targets, count, run)
    for which, case in enumerate(("sent → accepted", "sent → first right token")):
        report_row(rows, timed_row(case, {kind: [[pair[which]] for pair in pairs] for kind, pairs in times.items()}))
    return {**bench.facts, "rows": rows}


async def _published(target: BenchTarget, name: str, directory: Path) -> tuple[float, float]:
    """Return milliseconds until the server accepted the adapter, and until the first token of a right answer."""
    started = time.perf_counter()
    if target.kind == "patchbay":
        await upload(target.url, {name: directory}, force_base="true")  # the base is served by another name here
    else:
        async with httpx.AsyncClient(base_url=target.url, timeout=PATIENCE_S) as http:
            body = {"lora_name": name, "lora_path": str(directory)}
            (await http.post("/v1/load_lora_adapter", json=body)).raise_for_status()
    accepted = time.perf_counter()
    async with LoadClient(target.url) as client:
        answer = await client.send(LoadRequest(0.0, name, QUESTION, TOKENS), started)
    if answer.failure is not None or not answer.text.startswith(RIGHT):
        raise RuntimeError(f"{target.kind} answered {answer.text!r}: {answer.failure}")
    return (accepted - started) * 1000, answer.arrived_s[0] * 1000
