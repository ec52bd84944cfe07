"""``patchbay adapters``: listed, shown, published, downloaded, exported, moved, loaded, deleted, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS, FineTunedName, Reference, check_adapter_name, check_alias, parse_reference
from server.cli import transfer
from server.cli.client import ApiKey, Json, Url, connect, model_path
from server.cli.diff import diff
from server.cli.failure import CommandFailed, ExitCode
from server.cli.merge import merge
from server.cli.output import AsJson, format_bytes, format_time, show_fields, show_json, show_note, show_table
from server.cli.publication import show_publication

app = typer.Typer(no_args_is_help=True, help="Adapters, their versions and aliases.")
app.command()(merge)
app.command()(diff)

Ref = Annotated[
    str,
    typer.Argument(metavar="REF", help="sql@7, sql@canary, sql (what `stable` points to), or a fine-tuned name, ft:…"),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An adapter.")]
VersionOf = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or an alias of the adapter.")]


@app.command("list")
def list_adapters(*, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List the adapters."""
    with connect(url, api_key) as server:
        listing = server.all_pages("/v1/adapters")
    if as_json:
        show_json(listing)
        return
    show_table(["NAME", "ALIASES", "LATEST", "VERSIONS", "CREATED"], map(_adapter_row, listing["data"]))


@app.command()
def show(ref: Ref, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show an adapter with its versions (sql), or a version with its report (sql@7, sql@canary, ft:…)."""
    with connect(url, api_key) as server:
        if "@" in ref or isinstance(parse_reference(ref), FineTunedName):
            _show_version(server.get(_path(server.resolve(ref))), as_json=as_json)
            return
        path = f"/v1/adapters/{check_adapter_name(ref)}"
        adapter = server.get(path)
        if as_json:
            show_json(adapter)
            return
        versions = server.all_pages(f"{path}/versions")["data"]
    created = format_time(adapter["created_at"])
    show_fields({"name": adapter["name"], "aliases": _aliases(adapter["aliases"]), "created": created})
    typer.echo()
    show_table(["VERSION", "RANK", "SIZE", "DIGEST", "ALIASES", "RESIDENCY", "CREATED"], map(_version_row, versions))


@app.command()
def push(
    source: Annotated[str, typer.Argument(metavar="DIR_OR_HF_ID", help="A directory, or org/repo, org/repo@revision.")],
    *,
    name: Annotated[str | None, typer.Option(help="The adapter; else named as the directory or repository.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to point to the new version at once.")] = None,
    allow_inert: Annotated[
        bool, typer.Option("--allow-inert", help="Also if it answers exactly as the base model does.")
    ] = False,
    compress_to: Annotated[
        int | None, typer.Option(min=1, help="Cut it at this rank, whatever is lost; the report says how much.")
    ] = None,
    force_base: Annotated[
        bool, typer.Option("--force-base", help="Also if it says that it was made for another base model; it must fit.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Publish a new version. It can be called at once."""
    adapter = check_adapter_name(name or transfer.name_of(source))
    wishes: Json = {} if alias is None else {"alias": check_alias(alias)}
    if allow_inert:
        wishes["allow_inert"] = True
    if compress_to is not None:
        wishes["compress_to"] = compress_to
    if force_base:
        wishes["force_base"] = True
    with connect(url, api_key) as server:
        version = transfer.push(server, adapter, source, wishes)
    show_publication(version)


@app.command()
def pull(
    ref: Ref,
    directory: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Made if it is not there.")],
    *,
    original: Annotated[
        bool, typer.Option("--original", help="As it was uploaded, where it had to be compiled to be served.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Download a version's files, as PEFT writes and reads them."""
    with connect(url, api_key) as server:
        version = server.resolve(ref)
        transfer.pull(server, _path(version), directory, "original" if original else "served")
    typer.echo(f"{version}: {directory}")


@app.command()
def export(
    ref: Ref,
    target: Annotated[
        str, typer.Argument(metavar="DIR_OR_HF", help="A new directory, or hf://org/repo, hf://org/repo@branch.")
    ],
    *,
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole model with the adapter merged into its weights.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="To merge into; else the embedded base."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody may read the repository.")] = False,
    hub_endpoint: Annotated[
        str | None, typer.Option(help="The hub; else PATCHBAY_HUB_ENDPOINT, else the public one.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write a version for others, with a model card: to a directory, or to a hub as one commit (HF_TOKEN)."""
    import embedded
    from server.cli.export import export_version, target_of

    if base is not None and not merged:
        raise CommandFailed(ExitCode.USAGE, "--base is the model to merge into; say --merged too")
    to = target_of(target, public=public, hub_endpoint=hub_endpoint)
    merge_into = (base or embedded.BASE) if merged else None
    with connect(url, api_key) as server:
        version = server.resolve(ref)
        place = export_version(server, _path(version), to, merge_into=merge_into)
    typer.echo(f"{version}: {place}")


@app.command()
def alias(
    name: Name,
    move: Annotated[str, typer.Argument(metavar="ALIAS=VERSION", help="canary=7, or canary=stable.")],
    *,
    expected: Annotated[
        str | None, typer.Option(metavar="VERSION|none", help="Refuse unless the alias points there now.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Point an alias to a version."""
    moved, equals, to = move.partition("=")
    if not (moved and equals and to):
        raise CommandFailed(ExitCode.USAGE, f"'{move}' is no move; write ALIAS=VERSION, such as canary=7")
    with connect(url, api_key) as server:
        body: Json = {"version": server.resolve(f"{name}@{to}").version}
        if expected is not None:
            body["expected"] = None if expected == "none" else server.resolve(f"{name}@{expected}").version
        path = f"/v1/adapters/{name}/aliases/{check_alias(moved)}"
        _show_alias(server.send("PUT", path, json=body))


@app.command()
def promote(name: Name, version: VersionOf, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Point `stable` to a version."""
    with connect(url, api_key) as server:
        number = server.resolve(f"{name}@{version}").version
        _show_alias(server.post(f"/v1/adapters/{name}/promote", {"version": number}))


@app.command()
def rollback(
    name: Name,
    *,
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = DEFAULT_ALIAS,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Point an alias back to where it pointed before its last move."""
    with connect(url, api_key) as server:
        _show_alias(server.post(f"/v1/adapters/{check_adapter_name(name)}/rollback", {"alias": alias}))


@app.command()
def pin(ref: Ref, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Keep a version resident, also across restarts."""
    _tell_engine("pin", ref, url, api_key)


@app.command()
def unpin(ref: Ref, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Let a version be evicted again."""
    _tell_engine("unpin", ref, url, api_key)


@app.command()
def load(ref: Ref, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Make a version resident ahead of its first request."""
    _tell_engine("load", ref, url, api_key)


@app.command()
def unload(ref: Ref, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Unload a version as soon as no request holds it."""
    _tell_engine("unload", ref, url, api_key)


@app.command()
def rm(
    target: Annotated[str, typer.Argument(metavar="REF_OR_NAME", help="sql (all), sql@7, ft:…, or alias sql@canary.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete an adapter with all its versions, one version, or an alias (its version stays).

    A version that is named by its fine-tuned name goes with the aliases that point to it.
    """
    path, what = _deletion(target)
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    with connect(url, api_key) as server:
        server.send("DELETE", path)
    show_note(f"deleted {what}")


def _deletion(target: str) -> tuple[str, str]:
    """Return the path to delete and what it is, in words."""
    named = parse_reference(target)
    if isinstance(named, FineTunedName):
        return model_path(target), f"version '{named}' with the aliases that point to it"
    if "@" not in target:
        return f"/v1/adapters/{target}", f"adapter '{target}' with all its versions"
    if named.version is not None:
        return _path(named), f"version '{named}'"
    return f"/v1/adapters/{named.adapter}/aliases/{named.alias}", f"alias '{named.alias}' of '{named.adapter}'"


def _tell_engine(verb: str, ref: str, url: str | None, api_key: str | None) -> None:
    with connect(url, api_key) as server:
        version = server.post(f"{_path(server.resolve(ref))}/{verb}")
    pinned = ", pinned" if version["is_pinned"] else ""
    typer.echo(f"{version['id']}: {version['residency'] or 'not resident'}{pinned}")


def _path(version: Reference) -> str:
    return f"/v1/adapters/{version.adapter}/versions/{version.version}"


def _show_alias(moved: Json) -> None:
    typer.echo(f"{moved['adapter']}@{moved['alias']} is version {moved['version']} (generation {moved['generation']})")


def _show_version(version: Json, *, as_json: bool) -> None:
    if as_json:
        show_json(version)
        return
    fields: dict[str, Any] = {
        **version,
        "size": format_bytes(version["size_bytes"]),
        "created": format_time(version["created_at"]),
    }
    report = _flat(fields.pop("report"), "report")
    for replaced in ("object", "size_bytes", "created_at"):
        del fields[replaced]
    show_fields({**fields, **report})


def _flat(nested: Json, path: str) -> Json:
    """Return the leaves of ``nested`` by their paths, such as ``report: probe: effect: mean``."""
    leaves: Json = {}
    for name, value in nested.items():
        here = f"{path}: {name}"
        leaves |= _flat(value, here) if isinstance(value, dict) else {here: value}
    return leaves


def _adapter_row(adapter: Json) -> list[object]:
    counts = [adapter["latest_version"], adapter["version_count"]]
    return [adapter["name"], _aliases(adapter["aliases"]), *counts, format_time(adapter["created_at"])]


def _version_row(version: Json) -> list[object]:
    bytes_of = [version["rank"], format_bytes(version["size_bytes"]), version["digest"][:12]]
    return [version["id"], *bytes_of, version["aliases"], version["residency"], format_time(version["created_at"])]


def _aliases(aliases: Mapping[str, int]) -> list[str]:
    return [f"{name}={version}" for name, version in aliases.items()]
