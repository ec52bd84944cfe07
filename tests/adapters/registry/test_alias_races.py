from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from adapters.registry.registry import Registry
from tests.postgres import on_both_databases

ROOT = Path(__file__).resolve().parents[3]
MOVER = Path(__file__).with_name("alias_mover.py")
NUM_PROCESSES, NUM_MOVES, NUM_VERSIONS = 4, 100, 5

Operation = dict[str, Any]
Register = tuple[int, int]  # version, generation


def apply(state: Register, operation: Operation) -> Register | None:
    """What one compare-and-set does to the alias; None where it could not have answered as it did."""
    version, generation = state
    matches = operation["generation"] == generation
    if matches and operation["target"] != version:
        state = (operation["target"], generation + 1)
    return state if (operation["won"], tuple(operation["seen"])) == (matches, state) else None


def is_linearizable(operations: list[Operation], start: Register) -> bool:
    """Wing and Gong's search: is there one order, true to real time, in which each answer is right?"""
    pending = sorted(operations, key=lambda operation: operation["began"])
    todo = [(frozenset(range(len(pending))), start)]
    seen = set()
    while todo:
        left, state = todo.pop()
        if not left:
            return True
        if (left, state) in seen:
            continue
        seen.add((left, state))
        horizon = min(pending[i]["ended"] for i in left)
        todo += [
            (left - {i}, after)
            for i in sorted(left, reverse=True)
            if pending[i]["began"] <= horizon and (after := apply(state, pending[i])) is not None
        ]
    return False


def test_the_check_itself_finds_a_lost_move():
    def move(target: int, generation: int, seen: list[int], began: int, *, won: bool) -> Operation:
        return {
            "target": target,
            "generation": generation,
            "won": won,
            "seen": seen,
            "began": began,
            "ended": began + 10,
        }

    concurrent = [move(2, 1, [2, 2], 0, won=True), move(3, 1, [2, 2], 5, won=False)]
    assert is_linearizable(concurrent, (1, 1))
    both_won = [move(2, 1, [2, 2], 0, won=True), move(3, 1, [3, 2], 5, won=True)]
    assert not is_linearizable(both_won, (1, 1))
    stale = [move(2, 1, [2, 2], 0, won=True), move(3, 1, [1, 1], 20, won=False)]
    assert not is_linearizable(stale, (1, 1))


@on_both_databases
async def test_no_acknowledged_move_of_four_processes_is_lost(
    registry: Registry, database_url: str, add: Callable[..., Awaitable[Any]]
):
    for _ in range(NUM_VERSIONS):
        await add("sql")
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(MOVER),
            *map(str, (database_url, seed, NUM_MOVES, NUM_VERSIONS)),
            env={"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        for seed in range(NUM_PROCESSES)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * NUM_PROCESSES

    operations = [json.loads(line) for output, _ in outputs for line in output.splitlines()]
    assert len(operations) == NUM_PROCESSES * NUM_MOVES
    assert {operation["won"] for operation in operations} == {True, False}
    assert is_linearizable(operations, (1, 1))

    history = {move.generation: move.to_version for move in await registry.moves("sql")}
    assert list(history) == list(range(1, len(history) + 1))
    assert all(history[generation] == version for version, generation in (o["seen"] for o in operations if o["won"]))
    await registry.refresh()
    assert registry.catalog.alias("sql", "stable").generation == max(history)


@on_both_databases
async def test_processes_that_start_at_once_share_one_migration(database_url: str):
    code = (
        "import asyncio, sys\n"
        "from adapters.registry.registry import Registry\n"
        "async def main():\n"
        "    async with Registry.open(sys.argv[1]) as registry:\n"
        "        print(len(registry.catalog))\n"
        "asyncio.run(main())\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, database_url, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [output.strip() for output, _ in outputs] == [b"0"] * 4
