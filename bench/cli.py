"""`patchbay bench`: a command for each scenario, and `report`, which writes their results as tables and plots."""

from __future__ import annotations

from typing import Final

import typer

from bench.report import report
from bench.scenarios.agree import agree
from bench.scenarios.cold import cold
from bench.scenarios.fair import fair
from bench.scenarios.guard import guard
from bench.scenarios.many import many
from bench.scenarios.overhead import overhead
from bench.scenarios.publish import publish
from bench.scenarios.registry import registry
from bench.scenarios.start import start
from bench.scenarios.swap import swap
from bench.scenarios.training import training

SCENARIOS: Final = (overhead, many, cold, swap, fair, publish, training, start, registry, agree, guard)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start a patchbay server and measure it; with --peer vllm, stock vLLM on the same machine in alternation.",
)
for scenario in SCENARIOS:
    app.command()(scenario)
app.command()(report)
