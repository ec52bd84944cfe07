"""The client of the Hugging Face hub that commands use: with a timeout, and confined to public addresses."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import httpx2
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented to be there

from adapters.errors import PatchbayError
from adapters.sources.hub import HubHosts
from server.cli.failure import CommandFailed, ExitCode

ANSWER_TIMEOUT_S: Final = 60.0
"""Longest silence of the hub: it needs a while to accept a commit of many gigabytes."""


def hub_api(
    endpoint: str | None = None, token: str | None = None, *, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> HfApi:
    """Return a client of the hub at ``endpoint`` (None: ``HF_ENDPOINT``, or the public hub).

    ``token`` None: ``HF_TOKEN``, or the token that ``hf auth login`` stored. Replaces the library's HTTP client, of
    which a process has one, because that has no timeout and follows every redirect.
    """
    place = (endpoint or constants.ENDPOINT).rstrip("/")
    set_client_factory(
        partial(
            httpx2.Client,
            timeout=httpx2.Timeout(answer_timeout_s),
            follow_redirects=True,
            event_hooks={"request": [HubHosts(place).check]},
        )
    )
    disable_progress_bars()  # commands show their own
    return HfApi(endpoint=place, token=token)


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Translate errors of the hub, the network and the library about ``repository`` in the block.

    Raises:
        CommandFailed: what failed and what to try.
        PatchbayError: as it was raised in the block, such as SourceForbidden by the check of addresses.
    """
    try:
        yield
    except RuntimeError as wrapper:  # raised by the library around the error of a large file's upload
        if isinstance(wrapper.__cause__, PatchbayError):
            raise wrapper.__cause__ from wrapper
        raise _failure(repository, wrapper.__cause__ or wrapper) from wrapper
    except (httpx2.HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _failure(repository, error) from error


def _failure(repository: str, error: BaseException) -> CommandFailed:
    if isinstance(error, HfHubHTTPError):
        return _refusal(repository, error.response.status_code)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx2.HTTPError):
        message = f"the hub could not be reached for {repository}, try again: {reason}"
        return CommandFailed(ExitCode.UNREACHABLE, message)
    message = f"the hub refused {repository} or sent a malformed response, try again: {reason}"
    return CommandFailed(ExitCode.REFUSED, message)


def _refusal(repository: str, status: int) -> CommandFailed:
    if status in (401, 403):
        message = f"the hub denies access to {repository} ({status}): set HF_TOKEN to a token that has it"
        return CommandFailed(ExitCode.REFUSED, message)
    if status == httpx2.codes.NOT_FOUND:
        return CommandFailed(ExitCode.NOT_FOUND, f"the hub finds no {repository} (404): check the name")
    return CommandFailed(ExitCode.REFUSED, f"the hub answered {status} for {repository}, try again")
