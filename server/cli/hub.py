"""The client of the Hugging Face hub that commands use: with a timeout, and confined to public addresses."""

from __future__ import annotations

from functools import partial
from typing import Final

import httpx2
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented to be there

from adapters.sources.hub_hosts import HubHosts
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


def unreachable(repository: str, error: BaseException) -> CommandFailed:
    """Return the failure for an ``error`` of the network during a call about ``repository``."""
    reason = one_line(error)
    return CommandFailed(
        ExitCode.UNREACHABLE, f"the hub could not be reached for {repository}: {reason}; check the network, try again"
    )


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` without line breaks, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
