"""``patchbay status``: what a running server does, in ten lines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import typer

from server.cli.client import ApiKey, Json, Url, client_settings, connect
from server.cli.output import AsJson, format_duration, show_fields, show_json

app = typer.Typer()

_SHOWN: Final = 5
"""Residents and jobs of a state that are named; the rest is counted."""


@app.command(rich_help_panel="Serve")
def status(*, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show what the server runs, what is loaded, what waits and what trains."""
    with connect(url, api_key) as server:
        answer = server.get("/v1/status")
    if as_json:
        show_json(answer)
    else:
        show_fields(_fields(answer, client_settings(url, api_key).base_url))


def _fields(status: Json, url: str) -> Json:
    jobs = {state: [job for job in status["jobs"] if job["status"] == state] for state in _states(status["jobs"])}
    slots = None if status["slots"] is None else f"{status['active_adapters']} of {status['slots']} in use"
    return {
        "server": f"patchbay {status['version']} at {url}, up {format_duration(time.time() - status['started_at'])}",
        "engine": status["engine"],
        "base model": status["model"],
        "adapters": status["adapters"],
        "residents": f"{len(status['residents'])} of {status['max_residents']}{_named(reversed(status['residents']))}",
        "slots": slots,
        "requests": f"{status['in_flight']} in flight; {status['waiting'] or 0} generations wait for a turn",
        **{f"jobs {state}": _counted(found) for state, found in jobs.items()},
        **({} if jobs else {"jobs": "none"}),
    }


def _states(jobs: Iterable[Json]) -> list[str]:
    return list(dict.fromkeys(job["status"] for job in jobs))


def _counted(jobs: list[Json]) -> str:
    named = [f"{job['id']} ({job['adapter']})" for job in jobs]
    return f"{len(jobs)}{_named(named)}"


def _named(names: Iterable[str]) -> str:
    """Return ``: a, b``, with an ellipsis where there are more; empty if there are none."""
    found = list(names)
    more = ", …" if len(found) > _SHOWN else ""
    return f": {', '.join(found[:_SHOWN])}{more}" if found else ""
