"""The options that scenarios share, and what is made of them: the shape, its adapters and the servers."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from bench.run import Row, record
from bench.shape import NAMES, Shape
from bench.target import Kind, Stand, Target, standing

RESULTS: Final = Path("bench/results")
EAGER: Final = ("--enforce-eager", "--max-model-len", "2048")
KV_BYTES: Final = 2**30

Peer = Annotated[
    Literal["vllm"] | None, typer.Option(help="Also start this server with the same engine flags, and print ratios.")
]
ShapeName = Annotated[str, typer.Option("--shape", help=f"What is served: {', '.join(NAMES)}, or a model's directory.")]
Rank = Annotated[int, typer.Option(min=1, help="Of the adapters.")]
Slots = Annotated[int, typer.Option(min=1, help="Adapters that can share a batch.")]
Residents = Annotated[int, typer.Option(min=2, help="Adapters held in memory at once.")]
Repeats = Annotated[int, typer.Option(min=1, help="Of each load; the servers take turns.")]
Prompt = Annotated[str, typer.Option(help="Tokens of a prompt: 64, 32-128 (uniform) or 64~0.5 (lognormal).")]
AnswerTokens = Annotated[str, typer.Option("--answer", help="Tokens of an answer, likewise.")]
Out = Annotated[Path, typer.Option(help="Where the line of results is appended.")]
EngineFlag = Annotated[
    list[str] | None, typer.Option("--engine-flag", help="Further flag of vLLM for both servers, as --name=value.")
]


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        peer: the server beside ours; None: ours alone.
        shape_name: of the base.
        rank: of its adapters.
        slots, residents: limits that both servers get.
        flags: further ones.
    """

    peer: Kind | None
    shape_name: str
    rank: int = 8
    slots: int = 1
    residents: int = 64
    flags: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The servers."""
        return ("patchbay",) if self.peer is None else ("patchbay", self.peer)

    @asynccontextmanager
    async def servers(self, adapters: int, *ours: str) -> AsyncIterator[tuple[Shape, list[str], list[Target]]]:
        """Run the servers; gives the shape, the names of its ``adapters`` and the servers."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            root = Path(folder)
            shape = Shape.of(self.shape_name, root)
            directories = {f"a{number:04}": root / "adapters" / f"a{number:04}" for number in range(adapters)}
            for seed, directory in enumerate(directories.values()):
                shape.write_adapter(directory, rank=self.rank, seed=seed)
            flags = (*EAGER, "--kv-cache-memory-bytes", str(KV_BYTES), *self.flags)
            stand = Stand(shape.directory, self.slots, self.residents, self.rank, directories, flags)
            async with standing(stand, self.kinds, root, *ours) as targets:
                yield shape, list(directories), targets


def conduct(scenario: str, out: Path, measure: Callable[[], Awaitable[Row]]) -> None:
    """Run a scenario to its end and keep what it measured."""

    async def run() -> Row:
        task = asyncio.current_task()
        if task is not None:  # so that SIGTERM, too, ends the servers
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await measure()

    record(out, scenario, sys.argv[2:], asyncio.run(run()))
