"""``patchbay keys``: API keys, made and revoked directly in the database, so also before the first start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from server.access.api_key import ApiKey, Scope
from server.cli.output import AsJson, format_time, show_json, show_note, show_table
from server.cli.settings import settings_from

if TYPE_CHECKING:
    from server.access.key_ring import KeyRing

app = typer.Typer(no_args_is_help=True, help="API keys. A running server sees a change within seconds.")

DataDir = Annotated[Path | None, typer.Option(help="As given to `patchbay serve`; else PATCHBAY_DATA_DIR.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="As given to `patchbay serve`; else PATCHBAY_DATABASE_URL.")]

_Result = TypeVar("_Result")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    *,
    scope: Annotated[list[Scope], typer.Option(help="infer: ask models; admin: everything.")] = [Scope.INFER],  # noqa: B006 - typer copies it
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create a key and print it, once."""
    key, secret = _with_ring(lambda ring: ring.create(name, scope), data_dir, database_url)
    typer.echo(secret)
    show_note(f"key {key.id} ({', '.join(sorted(key.scopes))}): keep it now, it will not be shown again")


@app.command("list")
def list_keys(*, as_json: AsJson = False, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """List the keys, revoked ones too. Secrets are kept nowhere."""

    async def read(ring: KeyRing) -> list[ApiKey]:
        return ring.list()

    keys = [_key_json(key) for key in _with_ring(read, data_dir, database_url)]
    if as_json:
        show_json({"object": "list", "data": keys, "has_more": False})
        return
    rows = (
        [
            key["id"],
            key["name"],
            key["scopes"],
            f"…{key['last4']}",
            format_time(key["created_at"]),
            key["revoked_at"] and format_time(key["revoked_at"]),
        ]
        for key in keys
    )
    show_table(["ID", "NAME", "SCOPES", "SECRET", "CREATED", "REVOKED"], rows)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `patchbay keys list` shows it.")],
    *,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Revoke a key for good."""
    key = _with_ring(lambda ring: ring.revoke(key_id), data_dir, database_url)
    show_note(f"revoked key {key.id} ({key.name})")


def _with_ring(
    act: Callable[[KeyRing], Awaitable[_Result]], data_dir: Path | None, database_url: str | None
) -> _Result:
    """Open the ring that the settings name, ``act`` on it, and close it."""
    from server.cli.ring import act_on_ring

    settings = settings_from(data_dir=data_dir, database_url=database_url)
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return asyncio.run(act_on_ring(settings.database, act))


def _key_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "last4": key.last4,
        "created_at": int(key.created_at.timestamp()),
        "revoked_at": None if key.revoked_at is None else int(key.revoked_at.timestamp()),
    }
