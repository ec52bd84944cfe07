"""The ``patchbay`` command line. Its exit codes: ``server.cli.failure``; those of ``serve``: ``server.process``."""

from importlib import metadata
from typing import Annotated

import typer

from server.cli import (
    adapters,
    audit,
    bench,
    chat,
    check,
    evals,
    feedback,
    files,
    jobs,
    keys,
    plan,
    rollout,
    serve,
    status,
    train,
    usage,
    worker,
)
from server.cli.failure import EXIT_CODES, FailureGroup

__all__ = ["app", "main"]

app = typer.Typer(
    cls=FailureGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve one base model with hundreds of LoRA adapters through vLLM, and train adapters beside it.",
    epilog=EXIT_CODES,
)
app.add_typer(serve.app)
app.add_typer(status.app)
app.add_typer(plan.app)
app.add_typer(keys.app, name="keys", rich_help_panel="Serve")
app.add_typer(usage.app)
app.add_typer(usage.limits, name="limits", rich_help_panel="Serve")
app.add_typer(audit.app, name="audit", rich_help_panel="Serve")
app.add_typer(adapters.app, name="adapters", rich_help_panel="Adapters")
app.add_typer(rollout.app, name="rollout", rich_help_panel="Adapters")
app.add_typer(chat.app)
app.add_typer(files.app, name="files", rich_help_panel="Train")
app.add_typer(feedback.app, name="feedback", rich_help_panel="Train")
app.add_typer(check.app)
app.add_typer(train.app)
app.add_typer(jobs.app, name="jobs", rich_help_panel="Train")
app.add_typer(worker.app)
app.add_typer(evals.app)
app.add_typer(bench.app)


def _show_version(*, is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"patchbay {metadata.version('patchbay')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that the arguments of this process name, and exit."""
    app()
