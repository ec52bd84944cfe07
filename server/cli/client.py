"""A running server as the command line sees it: JSON in and out, refusals as ``CommandFailed``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx
import typer

from adapters.names import Reference, parse_reference
from server.cli.failure import CommandFailed, ExitCode

Json = dict[str, Any]

Url = Annotated[str | None, typer.Option("--url", help="The server; else PATCHBAY_URL, else http://127.0.0.1:8000.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="A key for it; else PATCHBAY_API_KEY.")]

PAGE: Final = 200
"""Entries a page: the most that the server gives."""

_TIMEOUT: Final = httpx.Timeout(None, connect=10)  # seconds; a publication or a cold start takes what it takes


class ApiClient:
    """Calls the server at ``http.base_url``. Every call raises CommandFailed when the server refuses."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **query: Any) -> Json:
        """Return the JSON at ``path``."""
        return self.send("GET", path, params=query)

    def post(self, path: str, body: Json | None = None) -> Json:
        """Post ``body`` as JSON."""
        return self.send("POST", path, json=body)

    def send(self, method: str, path: str, **request: Any) -> Json:
        """Send what httpx takes as ``request`` and return the JSON of the response."""
        response = self._http.request(method, path, **request)
        _check(response)
        answer: Json = response.json()
        return answer

    @contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Open a response whose body is read as it arrives."""
        with self._http.stream(method, path, **request) as response:
            if response.is_error:
                response.read()
            _check(response)
            yield response

    def all_pages(self, path: str, *, page: int = PAGE) -> Json:
        """Return the listing at ``path`` as if it were one page; asks for ``page`` entries at a time."""
        part = first = self.get(path, limit=page)
        data = list(part["data"])
        while part["has_more"]:
            part = self.get(path, limit=page, after=part["last_id"])
            data += part["data"]
        return {**part, "data": data, "first_id": first["first_id"]}

    def resolve(self, reference: str) -> Reference:
        """Return ``reference`` with its version number; the server says what an alias or a fine-tuned name means.

        Raises:
            InvalidName: it is no reference.
        """
        asked = parse_reference(reference)
        if isinstance(asked, Reference) and asked.version is not None:
            return asked
        root = self.get(model_path(reference))["root"]
        if root == reference:
            raise CommandFailed(ExitCode.USAGE, f"'{reference}' is the base model; name an adapter")
        return Reference.parse(root)


@contextmanager
def connect(url: str | None, api_key: str | None) -> Iterator[ApiClient]:
    """Open a client; what is not given comes from the environment.

    Raises:
        CommandFailed: in the block, when the server cannot be reached or the connection breaks.
    """
    from server.settings import ClientSettings

    given = {"url": url, "api_key": api_key}
    settings = ClientSettings().model_copy(update={name: said for name, said in given.items() if said is not None})
    base = settings.base_url
    headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT) as http:
            yield ApiClient(http)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as wrong:
        raise CommandFailed(ExitCode.USAGE, f"{base} is no URL of a server: {wrong}") from wrong
    except (httpx.ConnectError, httpx.ConnectTimeout) as away:
        question = f"is `patchbay serve` running at {base}?"
        raise CommandFailed(ExitCode.UNREACHABLE, f"cannot connect ({away}): {question}") from away
    except httpx.TransportError as broken:
        what = str(broken) or type(broken).__name__
        raise CommandFailed(ExitCode.UNREACHABLE, f"the connection to {base} broke off: {what}") from broken


def model_path(model: str) -> str:
    """Return the path of a model; a fine-tuned name may have slashes and worse in it."""
    return f"/v1/models/{quote(model, safe='')}"


def refusal(error: Json, code: ExitCode = ExitCode.REFUSED) -> CommandFailed:
    """Return the failure for an ``error`` of OpenAI's shape."""
    if faults := error.get("faults"):
        lines = (f"{fault['where']}: found {fault['found']}; needed {fault['needed']}" for fault in faults)
        return CommandFailed(code, f"adapter refused, {len(faults)} fault{'s'[: len(faults) > 1]}", *lines)
    return CommandFailed(code, error["message"])


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    code = ExitCode.NOT_FOUND if response.status_code == httpx.codes.NOT_FOUND else ExitCode.REFUSED
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError) as foreign:
        at = f"{response.status_code} {response.reason_phrase} from {response.url}"
        raise CommandFailed(code, f"{at}; is that a patchbay server?") from foreign
    raise refusal(error, code)
