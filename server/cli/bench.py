"""``patchbay bench``: measurements, which are the business of ``bench`` and know nothing of the server."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(ctx: typer.Context) -> None:
    """Measure this server, and stock vLLM beside it: `patchbay bench --help`."""
    from bench.cli import app as scenarios

    scenarios(ctx.args, prog_name="patchbay bench")
