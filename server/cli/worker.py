"""``patchbay worker``: runs fine-tuning jobs in a process of its own, for a server started with --no-worker."""

import typer

from server.cli.client import ApiKey, Url, client_settings
from server.cli.settings import settings_command, settings_of

app = typer.Typer()


@app.command(cls=settings_command("data_dir", "database_url", "log_format", "log_level"), rich_help_panel="Train")
def worker(ctx: typer.Context, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Run fine-tuning jobs beside a server started with --no-worker.

    Needs the server's data directory and database, and on a server with keys a key with the scope admin: the worker
    runs the jobs of all projects, and the server publishes the results. SIGTERM and Ctrl-C return the running job to
    the queue after a checkpoint.
    """
    from server import worker_process

    raise typer.Exit(worker_process.work(settings_of(ctx), client_settings(url, api_key)))
