"""``patchbay keys``: API keys, created and revoked directly in the database, so also before the first start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from adapters.names import DEFAULT_PROJECT
from server.access.api_key import ApiKey
from server.access.scope import Scope
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, format_time, show_listing, show_note
from server.cli.settings import settings_command, settings_of

if TYPE_CHECKING:
    from server.access.key_ring import KeyRing

app = typer.Typer(
    no_args_is_help=True, help="Create, list and revoke API keys; a running server applies changes within seconds."
)

_DatabaseCommand = settings_command("data_dir", "database_url")
_Result = TypeVar("_Result")
_TIMES = ("created_at", "expires_at", "last_used_at", "revoked_at")


@app.command(cls=_DatabaseCommand)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Person or program that will use the key.")],
    *,
    scope: Annotated[
        list[Scope],
        typer.Option(help="infer: send requests to models; admin: everything; others: one part. Repeatable."),
    ] = [Scope.INFER],  # noqa: B006 - typer copies it
    adapter: Annotated[
        list[str] | None, typer.Option(help="Name of an adapter that it may use, * for any text. Repeatable.")
    ] = None,
    project: Annotated[
        str, typer.Option(help="Whose adapters, files, jobs, batches and responses the key sees.")
    ] = DEFAULT_PROJECT,
    days: Annotated[float | None, typer.Option(min=0.01, max=3650, help="Days until the key ends.")] = None,
) -> None:
    """Create a key and print its secret, which is shown only once."""
    ends = None if days is None else datetime.now(UTC) + timedelta(days=days)
    key, secret = _with_key_ring(
        ctx, lambda ring: ring.create(name, scope, project=project, adapters=adapter or None, expires_at=ends)
    )
    typer.echo(secret)
    show_note(f"key {key.id} ({', '.join(sorted(key.scopes))}): store the secret now, it will not be shown again")


@app.command("list", cls=_DatabaseCommand)
def list_keys(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """List the keys, including revoked ones. Secrets are not stored anywhere."""

    async def read(ring: KeyRing) -> list[ApiKey]:
        return ring.list()

    keys = [_key_json(key) for key in _with_key_ring(ctx, read)]
    columns = ["ID", "NAME", "PROJECT", "SCOPES", "SECRET", "CREATED", "ENDS", "LAST USE", "REVOKED"]
    show_listing({"object": "list", "data": keys, "has_more": False}, columns, _key_row, as_json=as_json)


@app.command(cls=_DatabaseCommand)
def revoke(
    ctx: typer.Context, key_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `patchbay keys list`.")]
) -> None:
    """Revoke a key. This cannot be undone."""
    key = _with_key_ring(ctx, lambda ring: ring.revoke(key_id))
    show_note(f"revoked key {key.id} ({key.name})")


@app.command(cls=_DatabaseCommand)
def rotate(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `patchbay keys list`.")],
    *,
    grace_s: Annotated[
        float, typer.Option(min=0, max=30 * 24 * 3600, help="Seconds for which the old key stays valid.")
    ] = 0,
) -> None:
    """Replace a key by a new one with the same rights, and print the new secret."""
    key, secret = _with_key_ring(ctx, lambda ring: ring.rotate(key_id, grace_s=grace_s))
    typer.echo(secret)
    show_note(f"key {key.id} replaces {key_id}: store the secret now, it will not be shown again")


def _with_key_ring(ctx: typer.Context, act: Callable[[KeyRing], Awaitable[_Result]]) -> _Result:
    """Open the key ring in the database that the settings name, ``act`` on it, and close it.

    The audit log of that database gets a row for each command that writes.

    Raises:
        CommandFailed: the database cannot be used.
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from adapters.errors import DatabaseUnusable, StorageUnavailable
    from adapters.storage.database import Database
    from server.access.key_ring import KeyRing
    from server.accounts.audit_log import AuditLog

    async def run() -> _Result:
        async with Database.open(settings.database) as database:
            result = await act(await KeyRing.open(database))
            if ctx.info_name != "list":
                changed: Any = result[0] if isinstance(result, tuple) else result
                await (await AuditLog.open(database)).add_command(f"patchbay keys {ctx.info_name}", changed.id)
            return result

    settings = settings_of(ctx)
    try:
        if settings.database_url is None:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run())
    except (DatabaseUnusable, StorageUnavailable, SQLAlchemyError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise CommandFailed(ExitCode.UNREACHABLE, f"cannot use the database: {reason}") from error


def _key_json(key: ApiKey) -> dict[str, Any]:
    times = {name: getattr(key, name) for name in _TIMES}
    values = {
        "id": key.id,
        "name": key.name,
        "project": key.project,
        "scopes": sorted(key.scopes),
        "last4": key.last4,
        "adapters": key.adapters,
    }
    return values | {name: time and int(time.timestamp()) for name, time in times.items()}


def _key_row(key: dict[str, Any]) -> list[object]:
    times = [key[name] for name in _TIMES]
    shown = (time and format_time(time) for time in times)
    return [key["id"], key["name"], key["project"], key["scopes"], f"…{key['last4']}", *shown]
