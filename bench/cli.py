"""`patchbay bench`: a command for each scenario."""

from __future__ import annotations

from typing import Final

import typer

from bench.scenarios.many import many
from bench.scenarios.overhead import overhead

SCENARIOS: Final = (overhead, many)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Measure a server of its own."
)
for scenario in SCENARIOS:
    app.command()(scenario)
