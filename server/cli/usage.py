"""``patchbay usage`` and ``patchbay limits``: what keys and projects have used, and what they may use."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import typer

from server.cli.client import ApiKey, Url, connect, without_none
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, show_listing, show_note

app = typer.Typer()
limits = typer.Typer(no_args_is_help=True, help="List, set and remove the limits of API keys and projects.")

_COLUMNS: Final = [
    "DAY", "KEY", "PROJECT", "ADAPTER", "REQUESTS", "PROMPT", "COMPLETION", "CACHED", "TRAINED", "TRAINED S",
]  # fmt: skip

Kind = Annotated[Literal["key", "project"], typer.Argument(help="What is limited.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the key or subject, or name of the project.")]
Day = typer.Option(metavar="YYYY-MM-DD", help="Day in UTC.")


@app.command("usage", rich_help_panel="Serve")
def usage(
    *,
    start: Annotated[str | None, Day] = None,
    end: Annotated[str | None, Day] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's id.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter; (base) for the base model.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show requests and tokens per day, key, project and adapter; without days, the last 30."""
    query = without_none(start=start, end=end, key_id=key, project=project, adapter=adapter)
    with connect(url, api_key) as server:
        if as_csv:
            with server.stream("GET", "/v1/usage", params={**query, "format": "csv"}) as response:
                typer.echo(response.read().decode(), nl=False)
            return
        listing = server.get("/v1/usage", **query)
    show_listing(listing, _COLUMNS, _row, as_json=as_json)
    if listing["has_more"]:
        show_note("rows were left out: name fewer days")


@limits.command("list")
def list_limits(*, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List the keys and projects that have limits of their own; all others have the server's defaults."""
    with connect(url, api_key) as server:
        show_listing(server.get("/v1/limits"), ["KIND", "ID", "LIMITS"], _account_row, as_json=as_json)


@limits.command("set")
def set_limits(
    kind: Kind,
    account: Id,
    pairs: Annotated[
        list[str], typer.Argument(metavar="NAME=NUMBER…", help="Such as tokens_per_minute=60000; none: no limit.")
    ],
    *,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Set the limits of a key or project, in place of those it has. What is not named has the server's default."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not (value == "none" or value.isdecimal()):
            raise CommandFailed(ExitCode.USAGE, f"{pair!r} is not NAME=NUMBER, such as requests_per_minute=60")
        fields[name] = None if value == "none" else int(value)
    with connect(url, api_key) as server:
        show_json(server.send("PUT", _path(kind, account), json=fields)["limits"])


@limits.command()
def remove(kind: Kind, account: Id, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Remove the limits of a key or project: the server's defaults hold."""
    with connect(url, api_key) as server:
        server.send("DELETE", _path(kind, account))
    show_note(f"removed the limits of {kind} {account}")


def _path(kind: str, account: str) -> str:
    return f"/v1/limits/{kind}/{quote(account, safe='')}"


def _account_row(account: dict[str, Any]) -> list[object]:
    limits = " ".join(f"{name}={value}" for name, value in account["limits"].items() if value is not None)
    return [account["kind"], account["id"], limits or "none"]


def _row(row: dict[str, Any]) -> list[object]:
    names = ("day", "key_id", "project", "adapter", "requests", "prompt_tokens", "completion_tokens", "cached_tokens")
    return [*(row[name] for name in names), row["training_tokens"], round(row["training_seconds"])]
