"""``patchbay adapters``: commands for adapters, versions and aliases, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from adapters.errors import InvalidName
from adapters.names import (
    DEFAULT_ALIAS,
    FineTunedName,
    check_adapter_name,
    check_alias,
    check_project,
    is_adapter_name,
    parse_reference,
)
from adapters.publish_options import PublishOptions
from server.cli import transfer
from server.cli.client import ApiKey, Json, Url, connect, model_path, version_path
from server.cli.diff import diff
from server.cli.failure import CommandFailed, ExitCode
from server.cli.merge import AliasToMove, merge
from server.cli.output import (
    AsJson,
    format_bytes,
    format_time,
    show_fields,
    show_json,
    show_listing,
    show_note,
    show_publication,
    show_table,
)
from server.cli.rollout import Force
from server.cli.settings import settings_command

app = typer.Typer(no_args_is_help=True, help="Publish, inspect, promote, merge, export and delete adapters.")
app.command()(merge)
app.command()(diff)

Ref = Annotated[str, typer.Argument(metavar="REF", help="sql@7, sql@canary, sql (alias `stable`), or ft:…")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an adapter.")]
AdapterVersion = Annotated[str, typer.Argument(metavar="VERSION", help="Number of a version, or an alias.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")]
BaseDirectory = typer.Option(metavar="DIR", exists=True, file_okay=False, help="For --merged; else the embedded base.")
RequiredVerdict = typer.Option(metavar="better|no_worse|none", help="Verdict to demand from this move on.")
ExpectedVersion = typer.Option(metavar="VERSION|none", help="Move only an alias that points there; else from anywhere.")


@app.command("list")
def list_adapters(*, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List the adapters."""
    with connect(url, api_key) as server:
        listing = server.all_pages("/v1/adapters")
    show_listing(listing, ["NAME", "ALIASES", "LATEST", "VERSIONS", "CREATED"], _adapter_row, as_json=as_json)


@app.command()
def show(ref: Ref, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show an adapter with its versions (sql), or a version with its report (sql@7, sql@canary, ft:…)."""
    with connect(url, api_key) as server:
        if not is_adapter_name(ref):
            version = server.get(version_path(server.resolve(ref)))
            if as_json:
                show_json(version)
            else:
                show_fields(_version_fields(version))
            return
        path = f"/v1/adapters/{ref}"
        adapter = server.get(path)
        if as_json:
            show_json(adapter)
            return
        versions = server.all_pages(f"{path}/versions")["data"]
    created = format_time(adapter["created_at"])
    called = {} if adapter["lora_name"] is None else {"loaded as": adapter["lora_name"]}
    fields = {"name": adapter["name"], **called, "aliases": _aliases(adapter["aliases"]), "created": created}
    shared = {"shared with": ", ".join(adapter["shared_with"])} if adapter["shared_with"] else {}
    show_fields({**fields, "project": adapter["project"], **shared})
    typer.echo()
    show_table(["VERSION", "RANK", "SIZE", "DIGEST", "ALIASES", "RESIDENCY", "CREATED"], map(_version_row, versions))


@app.command()
def share(
    name: Name,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Project whose keys may use and read it.")],
    *,
    end: Annotated[bool, typer.Option("--end", help="End the share.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Let another project use and read an adapter with all its versions, not change it; needs an admin key.

    With --end, a key of either project with adapters:write ends the share.
    """
    path = f"/v1/adapters/{check_adapter_name(name)}/shares/{check_project(project)}"
    with connect(url, api_key) as server:
        adapter = server.send("DELETE" if end else "PUT", path)
    show_note(f"{name} is shared with: {', '.join(adapter['shared_with']) or 'no project'}")


@app.command()
def push(
    source: Annotated[
        str, typer.Argument(metavar="DIR_OR_HF_ID", help="PEFT directory, org/repo or org/repo@revision.")
    ],
    *,
    name: Annotated[str | None, typer.Option(help="Adapter; without it, the directory's or repository's name.")] = None,
    alias: AliasToMove = None,
    allow_inert: Annotated[bool, typer.Option("--allow-inert", help="Accept an adapter without any effect.")] = False,
    compress_to: Annotated[
        int | None, typer.Option(min=1, metavar="RANK", help="Rank to reduce to, with a reported error; else lossless.")
    ] = None,
    force_base: Annotated[
        bool, typer.Option("--force-base", help="Accept an adapter that names another base model, if its shapes fit.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Publish a directory or a hub repository as the adapter's next version, which serves requests at once."""
    adapter = check_adapter_name(name or transfer.adapter_name(source))
    if alias is not None:
        check_alias(alias)
    options = PublishOptions(alias=alias, allow_inert=allow_inert, compress_to=compress_to, force_base=force_base)
    with connect(url, api_key) as server:
        version = transfer.push(server, adapter, source, options)
    show_publication(version)


@app.command()
def pull(
    ref: Ref,
    directory: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Created if it does not exist.")],
    *,
    original: Annotated[bool, typer.Option("--original", help="Files as they were before compilation.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Download a version's files in PEFT's format."""
    with connect(url, api_key) as server:
        version = server.resolve(ref)
        transfer.pull(server, version_path(version), directory, "original" if original else "served")
    typer.echo(f"{version}: {directory}")


@app.command(cls=settings_command("hub_endpoint"))
def export(
    ctx: typer.Context,
    ref: Ref,
    target: Annotated[
        str, typer.Argument(metavar="DIR_OR_HF", help="New directory, or hf://org/repo, also with @branch.")
    ],
    *,
    merged: Annotated[bool, typer.Option("--merged", help="Export the base model with the adapter merged in.")] = False,
    base: Annotated[Path | None, BaseDirectory] = None,
    public: Annotated[bool, typer.Option("--public", help="Create or accept a public repository.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write a version with a model card to a directory, or to a hub repository in one commit (token: HF_TOKEN)."""
    import embedded
    from server.cli.export import export_version
    from server.cli.export_target import export_target

    if base is not None and not merged:
        raise CommandFailed(ExitCode.USAGE, "--base is the model to merge into: add --merged, or leave --base out")
    destination = export_target(ctx, target, public=public)
    merge_into = (base or embedded.BASE) if merged else None
    with connect(url, api_key) as server:
        version = server.resolve(ref)
        location = export_version(server, version_path(version), destination, merge_into=merge_into)
    typer.echo(f"{version}: {location}")


@app.command()
def alias(
    name: Name,
    move: Annotated[str, typer.Argument(metavar="ALIAS=VERSION", help="Such as canary=7, or canary=stable.")],
    *,
    expected: Annotated[str | None, ExpectedVersion] = None,
    require: Annotated[str | None, RequiredVerdict] = None,
    force: Force = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Point an alias to a version."""
    moved, equals, version = move.partition("=")
    if not (moved and equals and version):
        raise CommandFailed(ExitCode.USAGE, f"'{move}' names no move; write ALIAS=VERSION, such as canary=7")
    with connect(url, api_key) as server:
        body: Json = {"version": server.resolve(f"{name}@{version}").version, **({"force": True} if force else {})}
        if require is not None:
            body["require"] = None if require == "none" else require
        if expected is not None:
            body["expected"] = None if expected == "none" else server.resolve(f"{name}@{expected}").version
        path = f"/v1/adapters/{name}/aliases/{check_alias(moved)}"
        _show_alias(server.send("PUT", path, json=body))


@app.command()
def promote(
    name: Name, version: AdapterVersion, *, force: Force = False, url: Url = None, api_key: ApiKey = None
) -> None:
    """Point `stable` to a version."""
    with connect(url, api_key) as server:
        number = server.resolve(f"{name}@{version}").version
        _show_alias(server.post(f"/v1/adapters/{name}/promote", {"version": number, "force": force}))


@app.command()
def rollback(
    name: Name,
    *,
    alias: Annotated[str, typer.Option(help="Alias to move back.")] = DEFAULT_ALIAS,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Point an alias back to the version before its last move."""
    with connect(url, api_key) as server:
        _show_alias(server.post(f"/v1/adapters/{check_adapter_name(name)}/rollback", {"alias": alias}))


def _add_residency_command(action: str, summary: str) -> None:
    @app.command(action, help=summary)
    def command(ref: Ref, *, url: Url = None, api_key: ApiKey = None) -> None:
        with connect(url, api_key) as server:
            version = server.post(f"{version_path(server.resolve(ref))}/{action}")
        pinned = ", pinned" if version["is_pinned"] else ""
        typer.echo(f"{version['id']}: {version['residency'] or 'not resident'}{pinned}")


_add_residency_command("pin", "Keep a version resident, including across restarts.")
_add_residency_command("unpin", "Allow a version to be evicted again.")
_add_residency_command("load", "Make a version resident before its first request.")
_add_residency_command("unload", "Unload a version once no request uses it.")
_add_residency_command("unquarantine", "Let requests try a version again that harmed the engine.")


@app.command()
def rm(
    target: Annotated[
        str, typer.Argument(metavar="REF_OR_NAME", help="sql (whole), sql@7, ft:…, or alias sql@canary.")
    ],
    *,
    yes: Yes = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete an adapter with all its versions, one version, or an alias (its version stays).

    Deleting a version by its fine-tuned name also deletes the aliases that point to it.
    """
    path, description = _deletion(target)
    if not yes:
        typer.confirm(f"Delete {description}?", abort=True, err=True)
    with connect(url, api_key) as server:
        server.send("DELETE", path)
    show_note(f"deleted {description}")


def _deletion(target: str) -> tuple[str, str]:
    """Return the path to delete, and its description."""
    try:
        reference = parse_reference(target)
    except InvalidName:
        return model_path(target), f"the adapter that was loaded as '{target}', with all its versions"
    if isinstance(reference, FineTunedName):
        return model_path(target), f"version '{reference}' with the aliases that point to it"
    if "@" not in target:
        return f"/v1/adapters/{target}", f"adapter '{target}' with all its versions"
    if reference.version is not None:
        return version_path(reference), f"version '{reference}'"
    adapter, alias = reference.adapter, reference.alias
    return f"/v1/adapters/{adapter}/aliases/{alias}", f"alias '{alias}' of '{adapter}'"


def _show_alias(moved: Json) -> None:
    typer.echo(f"{moved['adapter']}@{moved['alias']} is version {moved['version']} (generation {moved['generation']})")


def _version_fields(version: Json) -> Json:
    fields: Json = {"size": format_bytes(version["size_bytes"]), "created": format_time(version["created_at"])}
    replaced = {"object", "size_bytes", "created_at", "report"}
    kept = {name: value for name, value in version.items() if name not in replaced}
    return {**kept, **fields, **_flat(version["report"], "report")}


def _flat(nested: Json, path: str) -> Json:
    """Return the leaves of ``nested`` by path, such as ``report: probe: effect: mean``."""
    leaves: Json = {}
    for name, value in nested.items():
        leaves |= _flat(value, f"{path}: {name}") if isinstance(value, dict) else {f"{path}: {name}": value}
    return leaves


def _adapter_row(adapter: Json) -> list[object]:
    counts = [adapter["latest_version"], adapter["version_count"]]
    return [adapter["name"], _aliases(adapter["aliases"]), *counts, format_time(adapter["created_at"])]


def _version_row(version: Json) -> list[object]:
    facts = [version["rank"], format_bytes(version["size_bytes"]), version["digest"][:12]]
    residency = version["residency"]
    if version.get("renderer_matches") is False:
        residency = f"{residency or '-'}, trained with another renderer"
    return [version["id"], *facts, version["aliases"], residency, format_time(version["created_at"])]


def _aliases(aliases: Mapping[str, int]) -> list[str]:
    return [f"{name}={version}" for name, version in aliases.items()]
