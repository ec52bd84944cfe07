"""Whether our load generator and the one that vLLM ships measure the same, on either server.

`vllm bench serve` runs as a process of its own, in turns with ours, with as many clients and the same lengths.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.interval import Interval, mean, ratio
from bench.options import RESULTS, Bench, EngineFlag, Out, Peer, Repeats, Scene, ShapeName, conduct
from bench.record import Row
from bench.target import BenchTarget, Kind
from bench.versus import Act, alternating, asking
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

Clients = Annotated[int, typer.Option(min=1, help="That each wait for an answer before they ask again.")]
Requests = Annotated[int, typer.Option(min=1, help="Of each load.")]


def agree(
    *,
    peer: Peer = None,
    shape: ShapeName = "100m",
    clients: Clients = 8,
    requests: Requests = 48,
    repeats: Repeats = 2,
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """The same load by this generator and by `vllm bench serve`, on both servers."""
    bench = Bench(peer, shape, slots=ADAPTERS, flags=tuple(engine_flag or ()))
    conduct("agree", out, lambda: measure(bench, clients, requests, repeats))


async def measure(bench: Bench, clients: int, requests: int, repeats: int) -> Row:
    """Let both generators ask both servers."""
    async with bench.servers(ADAPTERS) as scene:
        words = Lengths(PROMPT, PROMPT), Lengths(ANSWER, ANSWER)
        workload = Workload(scene.names, prompt=words[0], answer=words[1], vocabulary=scene.shape.vocabulary)
        load, theirs = asking(workload, requests, clients=clients), neutral(scene, clients, requests)

        async def both(target: BenchTarget, repeat: int) -> tuple[float, float]:
            return (await load(target, repeat)).tokens_per_s, await theirs(target, repeat)

        found = await alternating(scene.targets, repeats, both, warm_up=load)
    rows = [_row(kind, pairs) for kind, pairs in found.items()]
    servers = _servers(found) if len(found) > 1 else {}
    for name, at in servers.items():
        print(f"patchbay ÷ vllm by {name}: {Interval(*at)}")
    return {**bench.facts, "clients": clients, "generators": rows, "patchbay ÷ vllm": servers}


def neutral(scene: Scene, clients: int, requests: int) -> Act[float]:
    """Return the load of `vllm bench serve`, which gives tokens a second."""

    async def act(target: BenchTarget, repeat: int) -> float:
        result = scene.folder / f"{target.kind}-{repeat}.json"
        command = _command(scene, target, result, clients, requests, repeat)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"vllm bench serve ended with {process.returncode}:\n{said.decode()[-3000:]}")
        measured = json.loads(result.read_text())
        if measured["completed"] != requests:
            raise RuntimeError(f"vllm bench serve had {measured['completed']} answers of {requests}")
        return float(measured["output_throughput"])

    return act


def _command(scene: Scene, target: BenchTarget, result: Path, clients: int, requests: int, seed: int) -> list[str]:
    options = {
        "--backend": "openai",
        "--base-url": target.url,
        "--endpoint": "/v1/completions",
        "--model": "base",
        "--tokenizer": str(scene.shape.directory),
        "--dataset-name": "random",
        "--random-input-len": str(PROMPT),
        "--random-output-len": str(ANSWER),
        "--num-prompts": str(requests),
        "--max-concurrency": str(clients),
        "--seed": str(seed),  # prompts that are in no cache
        "--result-dir": str(result.parent),
        "--result-filename": result.name,
    }
    words = [word for option in options.items() for word in option]
    switches = ("--ignore-eos", "--disable-tqdm", "--save-result", "--temperature=0")
    return [sys.executable, "-c", PROGRAM, *words, *switches, "--lora-modules", *scene.names]


def _row(kind: Kind, pairs: Sequence[tuple[float, float]]) -> Row:
    ours, theirs = ([[pair[which]] for pair in pairs] for which in (0, 1))
    compared = ratio(ours, theirs, mean)
    print(f"{kind}: our generator ÷ vllm bench serve, tokens/s: {compared}", flush=True)
    rates = {"tokens_per_s": [pair[0] for pair in pairs], "neutral_tokens_per_s": [pair[1] for pair in pairs]}
    return {"server": kind, **rates, "ratio": compared.row()}


def _servers(found: Mapping[Kind, Sequence[tuple[float, float]]]) -> Row:
    by = {"our generator": 0, "vllm bench serve": 1}
    return {
        name: ratio([[p[which]] for p in found["patchbay"]], [[p[which]] for p in found["vllm"]], mean).row()
        for name, which in by.items()
    }
