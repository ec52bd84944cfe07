"""`patchbay bench`: a command for each scenario, and `report`, which writes their results as tables and plots."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import typer

from bench.options import RESULTS, Out, run_scenario
from bench.record import Row
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
from bench.soak.soak import soak

SCENARIOS: Final = (overhead, many, cold, swap, fair, publish, training, start, registry, agree)


def command(scenario: Callable[..., Awaitable[Row]]) -> Callable[..., None]:
    """Return the command that runs ``scenario`` with its options, and appends the result to ``--out``."""

    @functools.wraps(scenario)
    def run_and_record(*, out: Path, **options: Any) -> None:
        run_scenario(scenario.__name__, out, lambda: scenario(**options))

    signature = inspect.signature(scenario, eval_str=True)
    last = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=RESULTS, annotation=Out)
    run_and_record.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), last])
    return run_and_record


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Start a patchbay server and measure it; with --peer vllm, stock vLLM on the same machine in alternation.",
)
for scenario in SCENARIOS:
    app.command()(command(scenario))
app.command()(guard)
app.command()(soak)
app.command()(report)
