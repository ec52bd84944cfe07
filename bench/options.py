"""The options that scenarios share, and the servers that are started with them."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import typer

from bench.comparison import show
from bench.record import Row, record
from bench.shape import NAMES, Shape
from bench.target import BenchTarget, Kind, ServerConfig, run_servers
from bench.workload import Lengths, Popularity, Workload

RESULTS: Final = Path("bench/results")
EAGER: Final = ("--enforce-eager", "--max-model-len", "2048")
KV_BYTES: Final = 2**30

Peer = Annotated[
    Literal["vllm"] | None,
    typer.Option(help="Also start this server with the same engine flags, and print the ratios ours ÷ theirs."),
]
PeerOrKeyless = Annotated[
    Literal["vllm", "keyless"] | None,
    typer.Option(
        help="Also start stock vLLM with the same engine flags; or patchbay without keys, and then ours has a key, "
        "limits, usage and the audit log. Prints the ratios ours ÷ theirs."
    ),
]
ShapeName = Annotated[str, typer.Option("--shape", help=f"Base model: {', '.join(NAMES)}, or a model's directory.")]
Rank = Annotated[int, typer.Option(min=1, help="Rank of the adapters.")]
Slots = Annotated[int, typer.Option(min=1, help="Adapters that can share a batch (vLLM's --max-loras).")]
Residents = Annotated[int, typer.Option(min=2, help="Adapters held in memory at once.")]
Clients = Annotated[int, typer.Option(min=1, help="Concurrent clients; each waits for its answer before it goes on.")]
Requests = Annotated[int, typer.Option(min=1, help="Requests per round.")]
Seconds = Annotated[float, typer.Option(help="Duration of each load, in seconds.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds of each load; the servers alternate.")]
Prompt = Annotated[str, typer.Option(help="Tokens of a prompt: 64, 32-128 (uniform) or 64~0.5 (lognormal).")]
AnswerTokens = Annotated[str, typer.Option("--answer", help="Tokens of an answer, in the same form.")]
Out = Annotated[Path, typer.Option(help="Directory of the results; one line is appended.")]
EngineFlag = Annotated[
    list[str] | None,
    typer.Option("--engine-flag", help="Further flag of vLLM, for both servers, as --name=value; may be repeated."),
]

Measure = Callable[[], Awaitable[Row]]


class RunningServers(NamedTuple):
    """The servers of a scenario.

    Attributes:
        shape: the base model.
        names: names of its adapters.
        targets: the servers.
        folder: a temporary directory for the scenario's files.
    """

    shape: Shape
    names: list[str]
    targets: list[BenchTarget]
    folder: Path


@dataclass(frozen=True)
class BenchOptions:
    """The options that scenarios share.

    Attributes:
        peer: the server beside ours; None: ours alone.
        shape_name: name or directory of the base model.
        rank: rank of its adapters.
        slots, residents: limits of both servers.
        flags: further engine flags.
    """

    peer: Kind | None
    shape_name: str
    rank: int = 8
    slots: int = 1
    residents: int = 64
    flags: Sequence[str] | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of server to measure."""
        return ("patchbay",) if self.peer is None else ("patchbay", self.peer)

    @property
    def facts(self) -> Row:
        """The options as fields of a line of results."""
        limits = {"rank": self.rank, "slots": self.slots, "residents": self.residents}
        return {"shape": self.shape_name, **limits, "flags": list(self.flags or ())}

    def server_config(self, shape: Shape, adapters: Mapping[str, Path]) -> ServerConfig:
        """Return the configuration of the servers."""
        flags = (*EAGER, "--kv-cache-memory-bytes", str(KV_BYTES), *shape.flags, *(self.flags or ()))
        return ServerConfig(shape.directory, self.slots, self.residents, self.rank, adapters, flags)

    @asynccontextmanager
    async def servers(self, adapters: int) -> AsyncIterator[RunningServers]:
        """Run the servers, each with the same random ``adapters`` (a number) in its registry."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            root = Path(folder)
            shape = Shape.of(self.shape_name, root)
            directories = {f"a{number:04}": root / "adapters" / f"a{number:04}" for number in range(adapters)}
            for seed, directory in enumerate(directories.values()):
                shape.write_adapter(directory, rank=self.rank, seed=seed)
            async with run_servers(self.server_config(shape, directories), self.kinds, root) as targets:
                yield RunningServers(shape, list(directories), targets, root)


def parse_workload(prompt: str, answer: str, popularity: str = "uniform") -> Workload:
    """Return the workload of these options, without models and vocabulary.

    Raises:
        typer.BadParameter: an option cannot be parsed.
    """
    try:
        lengths = Lengths.parse(prompt), Lengths.parse(answer)
        return Workload((), popularity=Popularity.parse(popularity), prompt=lengths[0], answer=lengths[1], vocabulary=0)
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong


def report_row(rows: list[Row], measured: Row) -> None:
    """Add a row to the scenario's rows, and print it."""
    rows.append(measured)
    print(show(measured), flush=True)


def run_scenario(scenario: str, out: Path, measure: Measure) -> None:
    """Run a scenario, and append its result to ``out``."""
    record(out, scenario, sys.argv[2:], run(measure))


def run(measure: Measure) -> Row:
    """Run a scenario and return its result; SIGTERM ends its servers too."""

    async def cancelled_by_signal() -> Row:
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await measure()

    return asyncio.run(cancelled_by_signal())
