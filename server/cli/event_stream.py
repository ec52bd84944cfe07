"""Server-sent events in OpenAI's form: JSON after ``data:``, and ``[DONE]`` at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import httpx

from server.cli.client import Json, refusal


def read_events(lines: Iterable[str]) -> Iterator[Json]:
    """Yield the JSON of each event.

    Raises:
        CommandFailed: an event is an error.
        httpx.RemoteProtocolError: the stream ended before ``[DONE]``.
    """
    for line in lines:
        kind, _, data = line.partition(":")
        if kind != "data":
            continue
        if data.strip() == "[DONE]":
            return
        event: Json = json.loads(data)
        if "error" in event:
            raise refusal(event["error"])
        yield event
    raise httpx.RemoteProtocolError("the event stream ended before [DONE]")
