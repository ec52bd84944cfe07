"""An alias that moves under load: failed requests, stale answers, and milliseconds to the new version's first token.

Versions alternate between the example adapters ``sql`` and ``json``, whose answers to one question begin differently:
the text shows which one answered, not only the model's name in the response. Each version is new to the engine.
"""

import asyncio
import itertools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from bench import options
from bench.comparison import timed_row
from bench.load import LoadClient, StreamedAnswer
from bench.options import report_row
from bench.record import Row
from bench.shape import ADAPTERS
from bench.target import run_patchbay, upload
from bench.workload import LoadRequest

NAME: Final = "moved"
WEIGHTS: Final = "adapter_model.safetensors"
SKILLS: Final = ("sql", "json")
QUESTION: Final = "<|im_start|>user\nList the author of books with a year above 17.<|im_end|>\n<|im_start|>assistant\n"
TELLING: Final = 5
"""Number of first characters in which the answers of the two adapters differ."""

Moves = Annotated[int, typer.Option(min=1, help="Moves of the alias, each to a version without earlier requests.")]
Pause = Annotated[float, typer.Option(help="Seconds between moves.")]
Tokens = Annotated[int, typer.Option(min=8, help="Tokens of each answer.")]


@dataclass(frozen=True)
class Move:
    """The alias points to ``version`` from a moment between these two; in seconds from the start of the load."""

    version: int
    sent_s: float
    acknowledged_s: float


async def swap(
    *,
    moves: Moves = 20,
    clients: options.Clients = 8,
    pause: Pause = 0.5,
    tokens: Tokens = 24,
    slots: options.Slots = 2,
) -> Row:
    """An alias moved under load: failed requests, stale answers, time to the first token of the new version."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        async with run_patchbay(root / "data", "--no-worker", "--max-loras", str(slots)) as url:
            for version in range(1, moves + 2):
                directory = variant(root / f"v{version}", SKILLS[version % 2], strength=1 + version / 100)
                await upload(url, {NAME: directory}, alias=f"bench-{version}")
            await _move(url, 1)
            async with LoadClient(url) as client:
                telling = {n: (await client.send(_request(f"{NAME}@{n}", tokens))).text[:TELLING] for n in (1, 2)}
                done, answers = await _moving(client, url, moves, _request(NAME, tokens), clients, pause)
    first_ms = [[(first(answers, move) - move.sent_s) * 1000 for move in done]]
    verdicts = Counter(verdict(answer, done, telling) for answer in answers)
    between = [[answer.first_ms for answer in answers if answer.failure is None]]
    report_row(rows, timed_row("move sent → first token of the new version", {"patchbay": first_ms}))
    report_row(rows, timed_row("first token, all requests", {"patchbay": between}))
    print(f"{moves} moves, {len(answers)} answers: {dict(verdicts)}")
    facts = {"shape": "embedded", "slots": slots, "clients": clients, "moves": moves}
    return {**facts, "answers": dict(verdicts), "rows": rows}


def variant(directory: Path, skill: str, *, strength: float) -> Path:
    """Write an example adapter with another scale: other bytes, and its answers begin as before."""
    directory.mkdir(parents=True)
    config = json.loads((ADAPTERS / skill / "adapter_config.json").read_text())
    config["lora_alpha"] *= strength
    (directory / "adapter_config.json").write_text(json.dumps(config))
    shutil.copyfile(ADAPTERS / skill / WEIGHTS, directory / WEIGHTS)
    return directory


async def _moving(
    client: LoadClient, url: str, moves: int, request: LoadRequest, clients: int, pause: float
) -> tuple[list[Move], list[StreamedAnswer]]:
    """Send ``request`` without pause while the alias moves; return the moves and all answers."""
    over = asyncio.Event()
    started = time.perf_counter()
    answers = asyncio.create_task(client.closed_loop(itertools.repeat(request), clients, over.is_set))
    done, followers = [], []
    for version in range(2, moves + 2):
        await asyncio.sleep(pause)
        sent = time.perf_counter()
        await _move(url, version)
        acknowledged = time.perf_counter()
        done.append(Move(version, sent - started, acknowledged - started))
        followers.append(asyncio.create_task(client.send(request, started)))
    followed = await asyncio.gather(*followers)
    over.set()
    return done, [*(await answers).answers, *followed]


async def _move(url: str, version: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        (await http.put(f"/v1/adapters/{NAME}/aliases/stable", json={"version": version})).raise_for_status()


def _request(model: str, tokens: int) -> LoadRequest:
    return LoadRequest(0.0, model, QUESTION, tokens)


def first(answers: Sequence[StreamedAnswer], move: Move) -> float:
    """Return the time at which the first token by the version of ``move`` arrived at any client."""
    return min(answer.arrived_s[0] for answer in answers if answer.arrived_s and answered_by(answer) == move.version)


def answered_by(answer: StreamedAnswer) -> int:
    """Return the version that the response names."""
    return int(answer.model.partition("@")[2])


def verdict(answer: StreamedAnswer, moves: Sequence[Move], telling: dict[int, str]) -> str:
    """Return "right", "stale" (by a version replaced before the request), "failed", or "not of the version it says".

    ``telling`` holds the beginning of the answers of odd versions (key 1) and of even ones (key 2).
    """
    if answer.failure is not None:
        return "failed"
    version = answered_by(answer)
    if not answer.text.startswith(telling[2 - version % 2]):
        return "not of the version it says"
    return "right" if version in set(_allowed(answer, moves)) else "stale"


def _allowed(answer: StreamedAnswer, moves: Sequence[Move]) -> Iterator[int]:
    """Yield the versions to which the alias pointed between the sending of the request and its first token."""
    ends = [*(move.acknowledged_s for move in moves[1:]), float("inf")]
    yield from (moves[0].version - 1,) if answer.sent_s <= moves[0].acknowledged_s else ()
    for move, end_s in zip(moves, ends, strict=True):
        if move.sent_s <= answer.arrived_s[0] and answer.sent_s <= end_s:
            yield move.version
