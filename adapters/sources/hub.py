"""An adapter on the Hugging Face Hub, or on a server with the same routes; and the hosts that a hub may redirect to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import quote

import httpx2
from huggingface_hub import constants, hf_hub_url, is_offline_mode
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from adapters.errors import SourceError, SourceForbidden, SourceNotFound, SourceUnavailable
from adapters.lora import initial_adapter
from adapters.sources.public_address import is_public
from adapters.storage.disk import in_thread
from adapters.storage.manifest import FILES, INITIAL, TOKENIZER_FILES
from adapters.storage.staging import Staged

ANSWER_TIMEOUT_S: Final = 20.0
"""Longest wait for bytes of the hub."""

DEADLINE_S: Final = 1800.0
"""Longest time for one adapter."""

RETRY_AFTER_S: Final = (0.5, 2.0)
"""Waits before a request is repeated that was answered with one of ``_RETRIED``."""

_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_SHOWN: Final = 10


class HubSource:
    """``repo`` (``org/name``) at ``revision`` (branch, tag, commit), fetched at the commit that it names at that time.

    The files are those at the top, or in ``folder``, a path in the repository.

    Only the adapter's files are downloaded, never a pickle. Without ``token`` requests are anonymous. Redirects
    are followed where ``HubHosts`` allows it; only the hub gets the token.
    """

    def __init__(
        self,
        repo: str,
        revision: str | None = None,
        *,
        folder: str = "",
        endpoint: str | None = None,
        token: str | None = None,
        deadline_s: float = DEADLINE_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        retry_after_s: Sequence[float] = RETRY_AFTER_S,
    ) -> None:
        self._repo = repo
        self._folder = f"{folder}/" if folder else ""
        self._revision = revision or constants.DEFAULT_REVISION
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token
        self._deadline_s = deadline_s
        self._answer_timeout_s = answer_timeout_s
        self._retry_after_s = retry_after_s

    async def fetch(self, staged: Staged) -> str:
        """Download the files. The origin names the commit: ``hf://org/repo@<sha>``."""
        with self._errors_translated():
            async with asyncio.timeout(self._deadline_s), self._client() as client:
                info = await self._look_up(client)
                if not info.sha:
                    raise SourceUnavailable(f"the hub does not say which commit {self._repo} is at; try again")
                siblings = (file for file in info.siblings or () if file.rfilename.startswith(self._folder))
                listed = {file.rfilename.removeprefix(self._folder): file for file in siblings}
                self._check_listing(listed)
                for name in FILES:
                    await self._download(client, info.sha, listed[name], name, staged)
                if await in_thread(initial_adapter.is_needed, staged.path) and (first := _first_folder(listed)):
                    for name in FILES:
                        await self._download(client, info.sha, listed[f"{first}/{name}"], f"{INITIAL}/{name}", staged)
                for name in filter(listed.__contains__, TOKENIZER_FILES):
                    async with self._response(client, self._url(info.sha, listed[name])) as response:
                        await staged.keep_tokenizer_file(name, response.aiter_bytes())
        return f"hf://{self._repo}/{self._folder}".rstrip("/") + f"@{info.sha}"

    def _client(self) -> httpx2.AsyncClient:
        authorization = {"authorization": f"Bearer {self._token}"} if self._token else {}
        # Not HfApi: its client, one for the whole process, follows any redirect.
        return httpx2.AsyncClient(
            headers={"accept-encoding": "identity"} | authorization,
            timeout=httpx2.Timeout(self._answer_timeout_s),
            follow_redirects=True,
            event_hooks={"request": [HubHosts(self._endpoint).check_async]},
        )

    async def _look_up(self, client: httpx2.AsyncClient) -> ModelInfo:
        url = f"{self._endpoint}/api/models/{self._repo}/revision/{quote(self._revision, safe='')}?blobs=true"
        async with self._response(client, url) as response:
            await response.aread()
        try:
            return ModelInfo(**response.json())  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SourceUnavailable(f"the hub sent malformed metadata of {self._repo}, try again: {error}") from error

    def _check_listing(self, listed: dict[str, RepoSibling]) -> None:
        if missing := [name for name in FILES if name not in listed]:
            names = ", ".join(sorted(listed)[:_SHOWN]) or "nothing"
            raise SourceNotFound(
                f"{self._repo} at {self._revision} has no {' and no '.join(self._folder + name for name in missing)}; "
                f"{self._folder or 'it'} holds {names}. "
                "An adapter in another format must be saved with safetensors first"
            )

    async def _download(
        self, client: httpx2.AsyncClient, commit: str, listed: RepoSibling, name: str, staged: Staged
    ) -> None:
        async with self._response(client, self._url(commit, listed)) as response:
            entry = await staged.write(name, response.aiter_bytes())
        sha256 = listed.lfs.sha256 if listed.lfs is not None else entry.sha256
        if listed.size not in (None, entry.size) or sha256 not in (None, entry.sha256):
            raise SourceUnavailable(
                f"the hub sent other bytes of {self._repo}/{listed.rfilename} than it lists; try again"
            )

    def _url(self, commit: str, listed: RepoSibling) -> str:
        return hf_hub_url(self._repo, listed.rfilename, revision=commit, endpoint=self._endpoint)

    @asynccontextmanager
    async def _response(self, client: httpx2.AsyncClient, url: str) -> AsyncIterator[httpx2.Response]:
        """Open the response to a GET; httpx2.HTTPStatusError for a status of 400 or more after all retries."""
        for wait_s in (*self._retry_after_s, None):
            async with client.stream("GET", url) as response:
                if wait_s is None or response.status_code not in _RETRIED:
                    response.raise_for_status()
                    yield response
                    return
            await asyncio.sleep(wait_s)

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        """Raise errors of the hub, the network and the library as SourceError."""
        try:
            yield
        except httpx2.HTTPStatusError as error:
            raise self._refusal(error.response.status_code) from error
        except TimeoutError as error:
            raise SourceUnavailable(f"{self._repo} took longer than {self._deadline_s:g} s to fetch") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise SourceUnavailable(f"the hub could not be reached for {self._repo}, try again: {reason}") from error

    def _refusal(self, status: int) -> SourceError:
        if status in (401, 403):
            return SourceForbidden(
                f"the hub does not let this server read {self._repo} ({status}): it is private, gated or "
                "does not exist; accept its terms on the hub if it asks for it, and give the server a token "
                "that may read it (HF_TOKEN)"
            )
        if status == httpx2.codes.NOT_FOUND:
            return SourceNotFound(f"the hub has no {self._repo} at revision '{self._revision}'")
        return SourceUnavailable(f"the hub answered {status} for {self._repo}, try again")


def _first_folder(listed: Mapping[str, RepoSibling]) -> str | None:
    return next(
        (folder for folder in initial_adapter.FOLDERS if all(f"{folder}/{name}" in listed for name in FILES)), None
    )


class HubHosts:
    """Hooks for httpx2 clients of the hub at ``endpoint``, called before every request, redirected ones included.

    The operator chooses the endpoint, which may be anywhere. Hosts that the hub names, in a redirect or as an upload
    target, must be the endpoint's or have public addresses only, and https never changes to http. A name that cannot be
    resolved passes: only a proxy could resolve it, and without one nothing is sent.
    """

    def __init__(self, endpoint: str) -> None:
        self._home = httpx2.URL(endpoint)

    def check(self, request: httpx2.Request) -> None:
        """Check a request before it is sent; SourceForbidden if its host or scheme is not allowed."""
        if is_offline_mode():
            raise SourceForbidden("HF_HUB_OFFLINE forbids requests to the hub: unset it, or use files and directories")
        url = request.url
        if self._home.scheme == "https" and url.scheme != "https":
            raise SourceForbidden(f"the hub redirects to {url.scheme}://{url.host}, without encryption: not followed")
        if url.host != self._home.host and (private := _private_address(url.host)) is not None:
            raise SourceForbidden(
                f"the hub redirects to {url.host} ({private}), which is not on the public internet: not followed. "
                "Use a hub endpoint that keeps its files itself"
            )

    async def check_async(self, request: httpx2.Request) -> None:
        """As ``check``, without blocking the event loop while a name is resolved."""
        await asyncio.to_thread(self.check, request)


def _private_address(host: str) -> str | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return None
    addresses = {str(address[0]).partition("%")[0] for *_, address in found}
    return next((address for address in sorted(addresses) if not is_public(address)), None)
