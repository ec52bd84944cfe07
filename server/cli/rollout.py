"""``patchbay rollout``: sends a share of an alias's requests to another version, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS, check_adapter_name, check_alias
from server.cli.client import ApiKey, Json, Url, connect, without_none
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, format_time, show_fields, show_json, show_note, show_table

app = typer.Typer(no_args_is_help=True, help="Send a share of an alias's requests to another version, with guards.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an adapter.")]
Alias = Annotated[str, typer.Option("--alias", help="Alias whose requests are shared.")]
Generation = Annotated[int | None, typer.Option(help="Only if the rollout has this generation still.")]
Force = Annotated[bool, typer.Option("--force", help="Also without the verdict that the alias demands; recorded.")]
_SHORT_GUARDS = {"error_rate": "max_increase", "latency": "max_ratio", "time_to_first_token": "max_ratio"}
_LIMITS = {**_SHORT_GUARDS, "score": "max_decrease"}


@app.command("set")
def set_rollout(
    name: Name,
    candidate: Annotated[str, typer.Argument(metavar="VERSION", help="Number of a version, or another alias.")],
    *,
    alias: Alias = DEFAULT_ALIAS,
    weight: Annotated[float | None, typer.Option(min=0, max=100, help="Percent of the requests.")] = None,
    sticky: Annotated[str, typer.Option(help="What keeps a caller on one side: key, user, header or none.")] = "none",
    header: Annotated[str | None, typer.Option(help="Name of the header, for --sticky header.")] = None,
    shadow: Annotated[float, typer.Option(min=0, max=100, help="Percent to send to the version as well.")] = 0,
    guard: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=LIMIT|JSON", help="Such as error_rate=0.05, latency=1.5, time_to_first_token=1.5."),
    ] = None,
    min_requests: Annotated[int | None, typer.Option(min=1, help="Of each side, before a KIND=LIMIT decides.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="1,10,50,100", help="Weights to take one after another.")] = None,
    step_requests: Annotated[int | None, typer.Option(min=1, help="Good answers before the next step.")] = None,
    force: Force = False,
    generation: Generation = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Begin a rollout of a version, or change the active one."""
    body: Json = {"sticky": sticky, "shadow": shadow, "force": force}
    body["guards"] = [_guard(text, min_requests) for text in guard or []]
    body["steps"] = [_number(step, "--steps") for step in steps.split(",")] if steps else []
    body |= without_none(weight=weight, header=header, step_requests=step_requests, generation=generation)
    with connect(url, api_key) as server:
        body["candidate"] = server.resolve(f"{name}@{candidate}").version
        _show(server.send("PUT", _path(name, alias), json=body), as_json=as_json)


@app.command()
def show(
    name: Name, *, alias: Alias = DEFAULT_ALIAS, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None
) -> None:
    """Show the rollout of an alias with its counts, the last one if none is active."""
    with connect(url, api_key) as server:
        _show(server.get(_path(name, alias)), as_json=as_json)


@app.command()
def promote(
    name: Name,
    *,
    alias: Alias = DEFAULT_ALIAS,
    force: Force = False,
    generation: Generation = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Point the alias to the candidate; open streams finish where they began."""
    ended = _ended("promote", name, alias, {"force": force, **without_none(generation=generation)}, url, api_key)
    show_note(f"{name}@{alias} is version {ended['candidate']}")


@app.command()
def rollback(
    name: Name, *, alias: Alias = DEFAULT_ALIAS, generation: Generation = None, url: Url = None, api_key: ApiKey = None
) -> None:
    """Send all requests to the current version again."""
    ended = _ended("rollback", name, alias, without_none(generation=generation), url, api_key)
    show_note(f"{name}@{alias} stays version {ended['version']}")


@app.command()
def rm(name: Name, *, alias: Alias = DEFAULT_ALIAS, url: Url = None, api_key: ApiKey = None) -> None:
    """End the rollout without a judgement; the current version answers all requests."""
    with connect(url, api_key) as server:
        ended = server.send("DELETE", _path(name, alias))
    show_note(f"ended {ended['id']} of {name}@{alias}")


def _ended(verb: str, name: str, alias: str, body: Json, url: str | None, api_key: str | None) -> Json:
    """End the rollout by ``verb`` and return it."""
    with connect(url, api_key) as server:
        return server.post(f"{_path(name, alias)}/{verb}", body)


def _path(name: str, alias: str) -> str:
    return f"/v1/adapters/{check_adapter_name(name)}/aliases/{check_alias(alias)}/rollout"


def _guard(text: str, min_requests: int | None) -> Any:
    """Return the guard that ``text`` means: JSON as the API takes it, or a kind and its limit."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError as malformed:
            raise CommandFailed(ExitCode.USAGE, f"--guard {text[:80]} is not JSON: {malformed}") from malformed
    kind, _, limit = text.partition("=")
    if kind not in _SHORT_GUARDS:
        kinds = ", ".join(f"{each}=LIMIT" for each in _SHORT_GUARDS)
        raise CommandFailed(ExitCode.USAGE, f"--guard {text[:80]} is none of {kinds}, nor JSON")
    return {"type": kind, _SHORT_GUARDS[kind]: _number(limit, "--guard"), **without_none(min_requests=min_requests)}


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as malformed:
        raise CommandFailed(ExitCode.USAGE, f"{option}: '{text[:80]}' is no number") from malformed


def _show(rollout: Json, *, as_json: bool) -> None:
    if as_json:
        show_json(rollout)
        return
    fields = {"state": rollout["state"], "current": rollout["version"], "candidate": rollout["candidate"]}
    fields |= {"weight": f"{rollout['weight']:g} %", "sticky": rollout["header"] or rollout["sticky"]}
    if rollout["steps"]:
        fields["steps"] = ", ".join(f"{step:g}" for step in rollout["steps"])
    if rollout["shadow"]:
        fields["shadow"] = f"{rollout['shadow']:g} %"
    if rollout["guards"]:
        fields["guards"] = ", ".join(
            f"{guard['type']}={guard[_LIMITS[guard['type']]]:g}" for guard in rollout["guards"]
        )
    if rollout["reason"]:
        fields["reason"] = rollout["reason"]["message"]
    show_fields({"id": rollout["id"], **fields, "changed": format_time(rollout["updated_at"])})
    typer.echo()
    show_table(["SIDE", "REQUESTS", "ERRORS", "FIRST TOKEN", "WHOLE", "TOKENS", "SCORES", "AGREES"], _rows(rollout))


def _rows(rollout: Json) -> Iterator[list[object]]:
    for side, counts in rollout["sides"].items():
        times = [_seconds(counts["time_to_first_token"]), _seconds(counts["latency"])]
        scores = [f"{name}={score:.3g}" for name, score in counts["scores"].items() if score is not None]
        yield [
            side,
            counts["requests"],
            counts["errors"],
            *times,
            "-" if counts["tokens"] is None else f"{counts['tokens']:.1f}",
            scores,
            "-" if counts["agreement"] is None else f"{counts['agreement']:.3f}",
        ]


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f} s"
