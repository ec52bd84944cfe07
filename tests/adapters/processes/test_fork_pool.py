"""A process that stands ready for work goes when there is none for long, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from adapters.base_model import BaseModel
from adapters.errors import WorkerProcessDied
from adapters.processes.fork_pool import ForkPool
from adapters.processes.limits import ResourceLimits

AMPLE = ResourceLimits(memory_bytes=1 << 30, cpu_s=60, wall_s=300.0)


async def test_it_ends_when_nothing_is_asked_for_long_and_starts_again(
    write_lora: Callable[..., Path], lora_base: BaseModel, tmp_path: Path
) -> None:
    modules = {module: list(shape) for module, shape in lora_base.modules.items()}
    setup = {"name": "tiny", "fingerprint": "f", "dtype": "BF16", "modules": modules}
    limits = {"max_rank": 16, "max_bytes": 1 << 20}
    seen = set()
    async with aclosing(ForkPool("adapters.checks.__main__", idle_s=0.01)) as pool:
        for number in range(2):
            question = {"directory": str(write_lora()), "out": str(tmp_path / f"out{number}"), "limits": limits}
            working = asyncio.create_task(pool.ask(setup, question, AMPLE))
            async with asyncio.timeout(60):
                while (process_id := pool.process_id) is None:
                    await asyncio.sleep(0.01)
                assert (await working)["report"]["rank"] == 4
                while Path(f"/proc/{process_id}").exists():
                    await asyncio.sleep(0.01)
            seen.add(process_id)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("adapters.checks.__main__", "errors for BaseModel"),
        ("adapters.processes.nothing", "No module named"),
    ],
)
async def test_one_that_cannot_start_says_why(program: str, reason: str) -> None:
    async with aclosing(ForkPool(program)) as pool:
        with pytest.raises(WorkerProcessDied, match="the process that works on adapters died") as died:
            await pool.ask({}, {}, AMPLE)
    assert reason in died.value.log
