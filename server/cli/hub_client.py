"""The hub's own client, as a command uses it: silence ends it, and it is sent to public addresses only."""

from __future__ import annotations

from functools import partial
from typing import Final

import httpx2
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented to be there

from adapters.sources.hub_hosts import HubHosts

ANSWER_TIMEOUT_S: Final = 60.0
"""Longest silence of the hub. It takes its time to accept a commit of many gigabytes."""


def hub_api(
    endpoint: str | None = None, token: str | None = None, *, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> HfApi:
    """Return the client of the hub at ``endpoint`` (None: ``HF_ENDPOINT``, or the public one).

    Without ``token`` it is ``HF_TOKEN``, or the one that ``hf auth login`` left on this machine. The library has one
    HTTP client a process, and this process is the command's. Its own waits for ever and follows every redirect.
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
    disable_progress_bars()  # ours are shown
    return HfApi(endpoint=place, token=token)
