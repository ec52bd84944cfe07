"""Tokens per second as measured by this load generator and by `vllm bench serve`, on either server.

`vllm bench serve` runs in its own process, alternating with ours, with the same number of clients and the same lengths.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import options
from bench.comparison import Round, alternate, load_of
from bench.interval import Interval, mean, ratio
from bench.options import BenchOptions, RunningServers
from bench.record import Row
from bench.target import BenchTarget, Kind
from bench.workload import Lengths, Workload

ADAPTERS: Final = 4
PROMPT: Final = 32
ANSWER: Final = 16
PROGRAM: Final = (
    "from vllm.benchmarks.serve import add_cli_args, main; "
    "from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
"""`vllm bench serve` without vLLM's console script, which does not work in its CPU build."""


async def agree(
    *,
    peer: options.Peer = None,
    shape: options.ShapeName = "100m",
    clients: options.Clients = 8,
    requests: options.Requests = 48,
    repeats: options.Repeats = 2,
    engine_flag: options.EngineFlag = None,
) -> Row:
    """The same load by this load generator and by `vllm bench serve`, on both servers."""
    bench = BenchOptions(peer, shape, slots=ADAPTERS, flags=engine_flag)
    async with bench.servers(ADAPTERS) as servers:
        prompt, answer = Lengths(PROMPT, PROMPT), Lengths(ANSWER, ANSWER)
        workload = Workload(servers.names, prompt=prompt, answer=answer, vocabulary=servers.shape.vocabulary)
        load, theirs = load_of(workload, requests, clients=clients), vllm_bench_serve(servers, clients, requests)

        async def both(target: BenchTarget, repeat: int) -> tuple[float, float]:
            return (await load(target, repeat)).tokens_per_s, await theirs(target, repeat)

        found = await alternate(servers.targets, repeats, both, warm_up=load)
    rows = [_row(kind, pairs) for kind, pairs in found.items()]
    ratios = _ratios(found) if len(found) > 1 else {}
    for name, at in ratios.items():
        print(f"patchbay ÷ vllm by {name}: {Interval(*at)}")
    return {**bench.facts, "clients": clients, "generators": rows, "patchbay ÷ vllm": ratios}


def vllm_bench_serve(servers: RunningServers, clients: int, requests: int) -> Round[float]:
    """Return a round of `vllm bench serve`, whose result is tokens per second."""

    async def run(target: BenchTarget, repeat: int) -> float:
        result = servers.folder / f"{target.kind}-{repeat}.json"
        command = _command(servers, target, result, clients, requests, repeat)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"vllm bench serve ended with {process.returncode}:\n{output.decode()[-3000:]}")
        measured = json.loads(result.read_text())
        if measured["completed"] != requests:
            raise RuntimeError(f"vllm bench serve had {measured['completed']} answers of {requests}")
        return float(measured["output_throughput"])

    return run


def _command(
    servers: RunningServers, target: BenchTarget, result: Path, clients: int, requests: int, seed: int
) -> list[str]:
    flags = {
        "--backend": "openai",
        "--base-url": target.url,
        "--endpoint": "/v1/completions",
        "--model": "base",
        "--tokenizer": str(servers.shape.directory),
        "--dataset-name": "random",
        "--random-input-len": str(PROMPT),
        "--random-output-len": str(ANSWER),
        "--num-prompts": str(requests),
        "--max-concurrency": str(clients),
        "--seed": str(seed),  # prompts that are in no cache
        "--result-dir": str(result.parent),
        "--result-filename": result.name,
    }
    words = [word for flag in flags.items() for word in flag]
    switches = ("--ignore-eos", "--disable-tqdm", "--save-result", "--temperature=0")
    return [sys.executable, "-c", PROGRAM, *words, *switches, "--lora-modules", *servers.names]


def _row(kind: Kind, pairs: Sequence[tuple[float, float]]) -> Row:
    ours, theirs = ([[pair[which]] for pair in pairs] for which in (0, 1))
    compared = ratio(ours, theirs, mean)
    print(f"{kind}: our generator ÷ vllm bench serve, tokens/s: {compared}", flush=True)
    rates = {"tokens_per_s": [pair[0] for pair in pairs], "neutral_tokens_per_s": [pair[1] for pair in pairs]}
    return {"server": kind, **rates, "ratio": compared.row()}


def _ratios(found: Mapping[Kind, Sequence[tuple[float, float]]]) -> Row:
    by = {"our generator": 0, "vllm bench serve": 1}
    return {
        name: ratio([[p[which]] for p in found["patchbay"]], [[p[which]] for p in found["vllm"]], mean).row()
        for name, which in by.items()
    }
