"""An alias that moves while clients ask by it: does a request fail, is a stale version served, how soon the new one?

Versions are by turns the example adapters ``sql`` and ``json``, whose answers to one question begin differently, so who
answered is seen in the text and not only in what the server says of itself. Each version is new to the engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from bench.load import LoadClient, StreamedAnswer
from bench.options import RESULTS, Out, Slots, conduct, say
from bench.record import Row
from bench.shape import ADAPTERS
from bench.target import serving, upload
from bench.versus import timed_row
from bench.workload import Ask

NAME: Final = "moved"
SKILLS: Final = ("sql", "json")
QUESTION: Final = "<|im_start|>user\nList the author of books with a year above 17.<|im_end|>\n<|im_start|>assistant\n"
TELLING: Final = 5
"""Characters in which the answers of the two differ."""

Moves = Annotated[int, typer.Option(min=1, help="Of the alias, each to a version that was never asked before.")]
Clients = Annotated[int, typer.Option(min=1, help="That ask all the while.")]
Pause = Annotated[float, typer.Option(help="Seconds between moves.")]
Tokens = Annotated[int, typer.Option(min=8, help="Of each answer.")]


@dataclass(frozen=True)
class Move:
    """The alias pointed to ``version`` from some moment between these two; seconds from the start of the load."""

    version: int
    sent_s: float
    acknowledged_s: float


@dataclass(frozen=True)
class Asking:
    """So many clients ask for answers of so many tokens, and the alias moves every so many seconds."""

    clients: int
    tokens: int
    pause: float


def swap(
    *,
    moves: Moves = 20,
    clients: Clients = 8,
    pause: Pause = 0.5,
    tokens: Tokens = 24,
    slots: Slots = 2,
    out: Out = RESULTS,
) -> None:
    """An alias moved under load: failed requests, stale answers, time to the first token of the new version."""
    conduct("swap", out, lambda: measure(slots, moves, Asking(clients, tokens, pause)))


async def measure(slots: int, moves: int, asking: Asking) -> Row:
    """Move the alias under load, and judge every answer."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        async with serving(root / "data", "--no-worker", "--max-loras", str(slots)) as url:
            for version in range(1, moves + 2):
                directory = variant(root / f"v{version}", SKILLS[version % 2], strength=1 + version / 100)
                await upload(url, {NAME: directory}, alias=f"bench-{version}")
            await _move(url, 1)
            async with LoadClient(url) as client:
                telling = {n: (await client.ask(_ask(f"{NAME}@{n}", asking.tokens))).text[:TELLING] for n in (1, 2)}
                done, answers = await _moving(client, url, range(2, moves + 2), asking)
    first_ms = [[(first(answers, move) - move.sent_s) * 1000 for move in done]]
    verdicts = Counter(verdict(answer, done, telling) for answer in answers)
    between = [[answer.first_ms for answer in answers if answer.failure is None]]
    say(rows, timed_row("move sent → first token of the new version", {"patchbay": first_ms}))
    say(rows, timed_row("first token, all requests", {"patchbay": between}))
    print(f"{moves} moves, {len(answers)} answers: {dict(verdicts)}")
    return {
        "shape": "embedded",
        "slots": slots,
        "clients": asking.clients,
        "moves": moves,
        "answers": dict(verdicts),
        "rows": rows,
    }


def variant(directory: Path, skill: str, *, strength: float) -> Path:
    """Write an example adapter whose effect is stronger or weaker: other bytes, and its answers begin as they did."""
    directory.mkdir(parents=True)
    config = json.loads((ADAPTERS / skill / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": config["lora_alpha"] * strength})
    )
    weights = "adapter_model.safetensors"
    (directory / weights).write_bytes((ADAPTERS / skill / weights).read_bytes())
    return directory


async def _moving(
    client: LoadClient, url: str, versions: Sequence[int], asking: Asking
) -> tuple[list[Move], list[StreamedAnswer]]:
    """Ask by the name without pause, and move its alias; returns the moves and all answers."""
    over = asyncio.Event()
    started = time.perf_counter()
    asks = itertools.takewhile(lambda _: not over.is_set(), itertools.repeat(_ask(NAME, asking.tokens)))
    load = asyncio.create_task(client.closed_loop(asks, asking.clients))
    done, followers = [], []
    for version in versions:
        await asyncio.sleep(asking.pause)
        sent = time.perf_counter()
        await _move(url, version)
        acknowledged = time.perf_counter()
        done.append(Move(version, sent - started, acknowledged - started))
        followers.append(asyncio.create_task(client.ask(_ask(NAME, asking.tokens), started)))
    followed = await asyncio.gather(*followers)
    over.set()
    return done, [*(await load).answers, *followed]


async def _move(url: str, version: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        (await http.put(f"/v1/adapters/{NAME}/aliases/stable", json={"version": version})).raise_for_status()


def _ask(model: str, tokens: int) -> Ask:
    return Ask(0.0, model, QUESTION, tokens)


def first(answers: Sequence[StreamedAnswer], move: Move) -> float:
    """Return when the first token by the version of ``move`` came to anybody."""
    return min(answer.came_s[0] for answer in answers if answer.came_s and answered_by(answer) == move.version)


def answered_by(answer: StreamedAnswer) -> int:
    """Return the version that the server says it was."""
    return int(answer.model.partition("@")[2])


def verdict(answer: StreamedAnswer, moves: Sequence[Move], telling: dict[int, str]) -> str:
    """Say whether ``answer`` failed, is of a version that was replaced before it was asked, or is as it should be.

    ``telling`` has how answers of odd and of even versions begin, by 1 and 2.
    """
    if answer.failure is not None:
        return "failed"
    version = answered_by(answer)
    if not answer.text.startswith(telling[2 - version % 2]):
        return "not of the version it says"
    return "right" if version in set(_allowed(answer, moves)) else "stale"


def _allowed(answer: StreamedAnswer, moves: Sequence[Move]) -> Iterator[int]:
    """Yield the versions that the alias pointed to at some moment of the request, up to its first token."""
    ends = [*(move.acknowledged_s for move in moves[1:]), float("inf")]
    yield from (moves[0].version - 1,) if answer.sent_s <= moves[0].acknowledged_s else ()
    for move, end_s in zip(moves, ends, strict=True):
        if move.sent_s <= answer.came_s[0] and answer.sent_s <= end_s:
            yield move.version
