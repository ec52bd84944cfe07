"""The options that scenarios share, and what is made of them: the shape, its adapters and the servers."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import typer

from bench.record import Row, record
from bench.shape import NAMES, Shape
from bench.target import BenchTarget, Kind, Stand, standing
from bench.versus import show
from bench.workload import Lengths, Popularity, Workload

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
    list[str] | None,
    typer.Option("--engine-flag", help="Further flag of vLLM, for both servers, as --name=value."),
]


Measure = Callable[[], Awaitable[Row]]


class Scene(NamedTuple):
    """What a scenario plays with.

    Attributes:
        shape: of the base.
        names: of its adapters.
        targets: the running servers.
        folder: for what else is needed; it is removed afterwards.
    """

    shape: Shape
    names: list[str]
    targets: list[BenchTarget]
    folder: Path


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

    @property
    def facts(self) -> Row:
        """What a line of results says of it."""
        limits = {"rank": self.rank, "slots": self.slots, "residents": self.residents}
        return {"shape": self.shape_name, **limits, "flags": list(self.flags)}

    def stand(self, shape: Shape, adapters: Mapping[str, Path]) -> Stand:
        """Return what the servers are started with."""
        flags = (*EAGER, "--kv-cache-memory-bytes", str(KV_BYTES), *shape.flags, *self.flags)
        return Stand(shape.directory, self.slots, self.residents, self.rank, adapters, flags)

    @asynccontextmanager
    async def servers(self, adapters: int) -> AsyncIterator[Scene]:
        """Run the servers, with so many random adapters in their registries."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            root = Path(folder)
            shape = Shape.of(self.shape_name, root)
            directories = {f"a{number:04}": root / "adapters" / f"a{number:04}" for number in range(adapters)}
            for seed, directory in enumerate(directories.values()):
                shape.write_adapter(directory, rank=self.rank, seed=seed)
            async with standing(self.stand(shape, directories), self.kinds, root) as targets:
                yield Scene(shape, list(directories), targets, root)


def words(prompt: str, answer: str, popularity: str = "uniform") -> Workload:
    """Return what is asked by these options; whom, and of which vocabulary, is not known yet.

    Raises:
        typer.BadParameter: one of them cannot be read.
    """
    try:
        lengths = Lengths.parse(prompt), Lengths.parse(answer)
        return Workload((), popularity=Popularity.parse(popularity), prompt=lengths[0], answer=lengths[1], vocabulary=0)
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong


def say(rows: list[Row], measured: Row) -> None:
    """Add a row to those of the scenario, and print it."""
    rows.append(measured)
    print(show(measured), flush=True)


def conduct(scenario: str, out: Path, measure: Measure) -> None:
    """Run a scenario to its end and keep what it measured."""
    record(out, scenario, sys.argv[2:], run(measure))


def run(measure: Measure) -> Row:
    """Run a scenario to its end; SIGTERM, too, ends its servers."""

    async def cancelled_by_signal() -> Row:
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await measure()

    return asyncio.run(cancelled_by_signal())
