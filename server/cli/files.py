"""``patchbay files``: commands for the files of /v1/files, over HTTP."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from server.cli import transfer
from server.cli.client import ApiKey, Json, Url, connect, without_none
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, format_bytes, format_time, show_fields, show_json, show_listing, show_note
from trainer.files.file import Purpose

app = typer.Typer(no_args_is_help=True, help="Upload, list, download and delete training data and other files.")

FileId = Annotated[str, typer.Argument(metavar="ID", help="Id from `patchbay files list`.")]

_COLUMNS: Final = ["ID", "NAME", "PURPOSE", "SIZE", "STATUS", "CREATED", "EXPIRES"]


@app.command()
def push(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="File to upload.")
    ],
    *,
    purpose: Annotated[Purpose, typer.Option(help="Use of the file.")] = Purpose.FINE_TUNE,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Upload a file and print its id."""
    with connect(url, api_key) as server:
        file = transfer.push_file(server, path, purpose)
    typer.echo(file["id"])


@app.command("list")
def list_files(
    *,
    purpose: Annotated[Purpose | None, typer.Option(help="List files for this use only; without it, all.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List the files, newest first."""
    with connect(url, api_key) as server:
        listing = server.get("/v1/files", **without_none(purpose=purpose))
    show_listing(listing, _COLUMNS, _row, as_json=as_json)
    if listing["has_more"] and not as_json:
        show_note(f"these are the newest {len(listing['data'])} files; there are more")


@app.command()
def show(file_id: FileId, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show a file."""
    with connect(url, api_key) as server:
        file = server.get(_path(file_id))
    if as_json:
        show_json(file)
        return
    names = ("id", "name", "purpose", "size", "status", "created", "expires")
    show_fields({**dict(zip(names, _row(file), strict=True)), "details": file["status_details"]})


@app.command()
def pull(
    file_id: FileId,
    path: Annotated[
        Path | None, typer.Argument(help="File or directory to write to; without it, the file's name here.")
    ] = None,
    *,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Download a file's content."""
    with connect(url, api_key) as server:
        file = server.get(_path(file_id))
        to = _destination(path, file["filename"])
        transfer.pull_file(server, f"{_path(file_id)}/content", to, file["bytes"])
    typer.echo(f"{file['id']}: {to}")


@app.command()
def rm(
    file_id: FileId,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a file; refused while an unfinished job needs it."""
    if not yes:
        typer.confirm(f"Delete file '{file_id}'?", abort=True, err=True)
    with connect(url, api_key) as server:
        server.send("DELETE", _path(file_id))
    show_note(f"deleted file '{file_id}'")


def _path(file_id: str) -> str:
    return f"/v1/files/{quote(file_id, safe='')}"


def _destination(path: Path | None, name: str) -> Path:
    """Return the path to write the file ``name`` to; only an explicit ``path`` of a file is overwritten.

    Raises:
        CommandFailed: the path exists already, or cannot be written.
    """
    if path is not None and not path.is_dir():
        if not path.parent.is_dir():
            raise CommandFailed(ExitCode.USAGE, f"there is no directory {path.parent}: create it, or name another path")
        return path
    own = Path(name).name  # untrusted, and becomes a path
    if own in ("", ".."):
        raise CommandFailed(ExitCode.USAGE, f"{name!r} cannot be a file's name; name the file to write as PATH")
    to = (path or Path()) / own
    if to.exists():
        raise CommandFailed(ExitCode.USAGE, f"{to} exists already; to overwrite it, name it as PATH")
    return to


def _row(file: Json) -> list[object]:
    times = [file["created_at"], file["expires_at"]]
    facts = [file["id"], file["filename"], file["purpose"], format_bytes(file["bytes"]), file["status"]]
    return [*facts, *(time and format_time(time) for time in times)]
