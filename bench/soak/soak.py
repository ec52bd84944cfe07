"""Half an hour of everything at once, with a process killed every two minutes; it ends with an account.

Chats, uploads, alias moves, deletions, jobs and batches run beside each other. The engine is killed three times, then
the server's process, and so on. The account balances if every request was answered, refused with a reason or cut by a
kill of ours, if every acknowledged write is there at the end, and if memory and descriptors of each life of the server
are flat.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.options import RESULTS, Out, run_scenario
from bench.record import Row
from bench.soak.account import Account, shortened
from bench.soak.caller import AccountedClient
from bench.soak.server_lives import ServerLives
from bench.soak.traffic import Traffic, batch_user, chats, found_on, publisher, right_answers, trainer

CHATS: Final = 3
SAMPLE_S: Final = 2
KILLED: Final = ("engine", "engine", "engine", "server")
END_S: Final = 900
"""Seconds after the last request until jobs and batches must have ended."""

Minutes = Annotated[float, typer.Option(min=0.5, help="Minutes of load.")]
KillEvery = Annotated[float, typer.Option(min=10, help="Seconds between two kills.")]


def soak(*, minutes: Minutes = 30, kill_every_s: KillEvery = 120, out: Out = RESULTS) -> None:
    """Everything at once with kills; exit with 1 if a request or an acknowledged write is lost, or memory grows."""
    faults: list[str] = []

    async def measured() -> Row:
        row, found = await measure(minutes * 60, kill_every_s)
        faults.extend(found)
        return row

    run_scenario("soak", out, measured)
    print("\n".join(["the account does not balance:", *shortened(faults)] if faults else ["the account balances"]))
    raise typer.Exit(1 if faults else 0)


async def measure(seconds: float, kill_every_s: float) -> tuple[Row, list[str]]:
    """Run the load and the kills; return the row of results, and why the account does not balance."""
    account = Account()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = Path(folder)
        async with ServerLives(root / "data") as lives, AccountedClient.open(lives, account) as caller:
            asked = await right_answers(caller)
            traffic: list[Traffic] = [*[partial(chats, asked=asked)] * CHATS, partial(publisher, folder=root), trainer]
            await _load(lives, caller, [*traffic, batch_user], time.monotonic() + seconds, kill_every_s)
            found = await found_on(caller)
            lives.life.sample()
    faults = account.faults(found)
    faults += [f"life {number}: {grown}" for number, life in enumerate(lives.lives, 1) if (grown := life.growth())]
    print("\n".join(account.lines()))
    killed = Counter(what for what, _ in lives.kills if what != "start")
    print(f"killed: {dict(killed)}; {len(lives.lives)} lives")
    return {
        "minutes": round(seconds / 60, 1),
        "kills": dict(killed),
        "requests": {kind: dict(ends) for kind, ends in account.ends.items()},
        "writes": {"present": len(account.present), "deleted": len(account.absent)},
        "lives": [
            {"rss_mib": [s.rss_kib >> 10 for s in pair], "descriptors": [s.descriptors for s in pair]}
            for life in lives.lives
            if (pair := [*life.settled[:1], *life.settled[-1:]])
        ],
        "faults": shortened(faults),
    }, faults


async def _load(
    lives: ServerLives, caller: AccountedClient, traffic: Sequence[Traffic], end_s: float, kill_every_s: float
) -> None:
    """Send the traffic until ``end_s`` while processes are killed; wait until all of it has ended."""

    def is_over() -> bool:
        return time.monotonic() >= end_s

    sampling = asyncio.create_task(_sample(lives))
    killing = asyncio.create_task(_kill(lives, end_s, kill_every_s))
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + end_s - time.monotonic() + END_S):
            await asyncio.gather(*(each(caller, is_over) for each in traffic), killing)
    finally:
        killing.cancel()
        sampling.cancel()


async def _kill(lives: ServerLives, end_s: float, every_s: float) -> None:
    for what in itertools.cycle(KILLED):
        await asyncio.sleep(every_s)
        if time.monotonic() + every_s / 2 > end_s:  # the rest of the time shows that it recovers
            return
        await lives.until_ready()
        await (lives.kill_engine() if what == "engine" else lives.kill_server())


async def _sample(lives: ServerLives) -> None:
    while True:
        lives.life.sample()
        await asyncio.sleep(SAMPLE_S)
