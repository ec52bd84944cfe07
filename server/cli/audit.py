"""``patchbay audit``: who changed what on a server, and whether the record of it is whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from server.cli.client import ApiKey, Url, connect
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, format_time, show_json, show_listing, show_note

app = typer.Typer(no_args_is_help=True, help="List and verify the audit log: every write, with its caller.")

_COLUMNS = ["NO", "TIME", "KEY", "PROJECT", "ADDRESS", "ACTION", "PARAMETERS", "STATUS", "RESULT"]


@app.command("list")
def list_rows(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Rows to list, the newest.")] = 50,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List the writes of the control plane, newest first."""
    with connect(url, api_key) as server:
        show_listing(server.get("/v1/audit", limit=limit), _COLUMNS, _row, as_json=as_json)


@app.command()
def verify(*, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Check that no row was changed or removed since it was written. Fails with the number of the first one."""
    with connect(url, api_key) as server:
        verdict = server.get("/v1/audit/verification")
    if as_json:
        show_json(verdict)
    elif verdict["broken"] is None:
        typer.echo(f"{verdict['rows']} rows, whole; newest hash {verdict['hash']}")
        show_note("keep the hash elsewhere: a later log without it has lost its newest rows")
    if verdict["broken"] is not None:
        raise CommandFailed(
            ExitCode.REFUSED,
            f"row {verdict['broken']} was changed or removed; the {verdict['rows']} rows before it are whole",
        )


def _row(row: dict[str, Any]) -> list[object]:
    parameters = " ".join(f"{name}={value}" for name, value in row["parameters"].items())
    caller = [row["key_id"], row["project"], row["address"]]
    return [row["number"], format_time(row["at"]), *caller, row["action"], parameters, row["status"], row["result"]]
