"""HTTP client of a running server: JSON in and out, refusals as ``CommandFailed``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import httpx
import typer

from adapters.errors import InvalidName
from adapters.names import FineTunedName, Reference, parse_reference
from server.cli.failure import CommandFailed, ExitCode

if TYPE_CHECKING:
    from server.settings import ClientSettings

Json = dict[str, Any]

Url = Annotated[str | None, typer.Option("--url", help="Server. Default: http://127.0.0.1:8000. PATCHBAY_URL")]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="API key; without it, none is sent. PATCHBAY_API_KEY")]

PAGE: Final = 200
"""Entries per page: the server's maximum."""

_TIMEOUT: Final = httpx.Timeout(None, connect=10)  # seconds; a publication or a cold start has no bound


class ApiClient:
    """Calls the server at ``http.base_url``. Every method raises CommandFailed when the server refuses."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **query: Any) -> Json:
        """Return the JSON at ``path``."""
        return self.send("GET", path, params=query)

    def post(self, path: str, body: Json | None = None) -> Json:
        """Post ``body`` as JSON and return the response's JSON."""
        return self.send("POST", path, json=body)

    def send(self, method: str, path: str, **request: Any) -> Json:
        """Send ``request`` (arguments of httpx) and return the response's JSON."""
        response = self._http.request(method, path, **request)
        _check(response)
        body: Json = response.json()
        return body

    @contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Open a response whose body is read as it arrives."""
        with self._http.stream(method, path, **request) as response:
            if response.is_error:
                response.read()
            _check(response)
            yield response

    def all_pages(self, path: str, *, page: int = PAGE) -> Json:
        """Return all pages of the listing at ``path`` as one, read ``page`` entries at a time."""
        part = first = self.get(path, limit=page)
        data = list(part["data"])
        while part["has_more"]:
            part = self.get(path, limit=page, after=part["last_id"])
            data += part["data"]
        return {**part, "data": data, "first_id": first["first_id"]}

    def resolve(self, reference: str) -> Reference:
        """Return ``reference`` with its version number; the server resolves every other name of a version."""
        parsed: Reference | FineTunedName | None = None
        with suppress(InvalidName):  # then an adapter may have been loaded under that name
            parsed = parse_reference(reference)
        if isinstance(parsed, Reference) and parsed.version is not None:
            return parsed
        root = self.get(model_path(reference))["root"]
        if root == reference:
            raise CommandFailed(ExitCode.USAGE, f"'{reference}' is the base model; name an adapter")
        return Reference.parse(root)


def client_settings(url: str | None, api_key: str | None) -> ClientSettings:
    """Return the address and key of the server; those that are None come from the environment."""
    from server.settings import ClientSettings

    return ClientSettings().model_copy(update=without_none(url=url, api_key=api_key))


def without_none(**fields: Any) -> Json:
    """Return the ``fields`` that are not None, such as the options that were given."""
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def connect(url: str | None, api_key: str | None) -> Iterator[ApiClient]:
    """Open a client; what is None comes from the environment.

    Raises:
        CommandFailed: in the block, when the server cannot be reached or the connection breaks.
    """
    settings = client_settings(url, api_key)
    base = settings.base_url
    headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT) as http:
            yield ApiClient(http)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        message = f"--url {base} is not the URL of a server ({error}); write http://HOST:PORT"
        raise CommandFailed(ExitCode.USAGE, message) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        question = f"is `patchbay serve` running at {base}?"
        raise CommandFailed(ExitCode.UNREACHABLE, f"cannot connect ({error}): {question}") from error
    except httpx.TransportError as error:
        message = f"the connection to {base} broke: {str(error) or type(error).__name__}"
        raise CommandFailed(ExitCode.UNREACHABLE, message) from error


def model_path(model: str) -> str:
    """Return the path of a model; a fine-tuned name can contain slashes."""
    return f"/v1/models/{quote(model, safe='')}"


def version_path(version: Reference) -> str:
    """Return the path of a version, which ``version`` names by its number."""
    return f"/v1/adapters/{version.adapter}/versions/{version.version}"


def refusal(error: Json, code: ExitCode = ExitCode.REFUSED) -> CommandFailed:
    """Return the failure for an ``error`` in OpenAI's form, with one line for each fault of an adapter."""
    if faults := error.get("faults"):
        lines = (f"{fault['where']}: found {fault['found']}; needed {fault['needed']}" for fault in faults)
        return CommandFailed(code, f"adapter refused, {len(faults)} fault{'s'[: len(faults) > 1]}", *lines)
    return CommandFailed(code, error["message"])


def read_events(lines: Iterable[str]) -> Iterator[Json]:
    """Yield the JSON of each server-sent event in ``lines``: after ``data:``, with ``[DONE]`` at the end.

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


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    code = ExitCode.NOT_FOUND if response.status_code == httpx.codes.NOT_FOUND else ExitCode.REFUSED
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError) as malformed:
        status = f"{response.status_code} {response.reason_phrase} from {response.url}"
        raise CommandFailed(code, f"{status}; is that a patchbay server?") from malformed
    raise refusal(error, code)
