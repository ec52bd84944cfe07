"""``patchbay bench``: passes its arguments to the command line of the ``bench`` package."""

import typer

app = typer.Typer()


@app.command(
    rich_help_panel="Measure",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(ctx: typer.Context) -> None:
    """Measure a server, optionally beside stock vLLM."""
    from bench.cli import app as scenarios

    scenarios(ctx.args, prog_name="patchbay bench")
