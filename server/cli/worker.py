"""``patchbay worker``: runs fine-tuning jobs in a process of its own, for a server started with --no-worker."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from server.cli.client import ApiKey
from server.cli.keys import DatabaseUrl, DataDir
from server.cli.settings import settings_from

app = typer.Typer()

ServerUrl = Annotated[
    str | None, typer.Option("--url", help="The server that publishes; else PATCHBAY_URL, else http://127.0.0.1:8000.")
]


@app.command()
def worker(
    *,
    url: ServerUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    log_format: Annotated[Literal["text", "json"] | None, typer.Option(help="For people or for machines.")] = None,
) -> None:
    """Run fine-tuning jobs until told to stop: the one at hand is given back after a checkpoint.

    It needs the data directory and the database of the server, which publishes what comes out.
    """
    from server import worker_process
    from server.settings import ClientSettings

    settings = settings_from(data_dir=data_dir, database_url=database_url, log_format=log_format)
    given = {"url": url, "api_key": api_key}
    said = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(worker_process.work(settings, ClientSettings().model_copy(update=said)))
