"""The ``patchbay`` command line.

Exit codes (``serve`` ends with the server's own, see ``server.process``):

    0    done
    1    the server or a check refused, or the job that was watched failed, for the reason printed
    2    the command was called wrongly
    3    the server cannot be reached
    4    what was named does not exist
    130  Ctrl-C while a job was watched, which goes on
"""

from __future__ import annotations

import typer

from server.cli import adapters, bench, chat, check, files, jobs, keys, plan, serve, train, worker
from server.cli.failure import EXIT_CODES, FailureGroup

__all__ = ["app", "main"]

app = typer.Typer(
    cls=FailureGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One base model, hundreds of LoRA adapters, one server.",
    epilog=EXIT_CODES,
)
app.add_typer(serve.app)
app.add_typer(plan.app)
app.add_typer(adapters.app, name="adapters")
app.add_typer(chat.app)
app.add_typer(check.app)
app.add_typer(train.app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(files.app, name="files")
app.add_typer(keys.app, name="keys")
app.add_typer(worker.app)
app.add_typer(bench.app)


def main() -> None:
    """Run the command that the arguments of this process name, and exit."""
    app()
