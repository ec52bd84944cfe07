"""The base model that a server is planned for: in a directory, or on a hub, whose weights are not fetched for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    NotASafetensorsRepoError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented to be there

from adapters.base_model import CONFIG, BaseModel, parse_config, read_config
from adapters.errors import BaseModelUnreadable
from adapters.storage.safetensors_header import Tensor
from server.cli.failure import CommandFailed, ExitCode
from server.cli.hub_client import hub_api

_ABSENT = frozenset({httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN, httpx2.codes.NOT_FOUND})
"""What a hub answers where nothing is, and where nothing is for us."""

BaseFiles = tuple[BaseModel, dict[str, Any]]
"""A base model and what its config.json holds."""


def read_base(model: str, revision: str | None) -> BaseFiles:
    """Read ``model``: a directory, or a hub id at ``revision``, as `patchbay serve` takes them.

    A hub is asked for config.json and for the first bytes of each file of weights.

    Raises:
        CommandFailed: there is no such model, or its files do not tell its shapes.
    """
    try:
        if Path(model).is_dir():
            return BaseModel.from_directory(Path(model), model), read_config(Path(model) / CONFIG)
        with _asked(model):
            return _from_hub(model, revision)
    except BaseModelUnreadable as unreadable:
        raise CommandFailed(ExitCode.USAGE, str(unreadable)) from unreadable


def _from_hub(model: str, revision: str | None) -> BaseFiles:
    api = hub_api()
    answer = get_session().get(hf_hub_url(model, CONFIG, revision=revision), headers=build_hf_headers())
    hf_raise_for_status(answer)
    config = parse_config(answer.content, f"{model}/{CONFIG}")
    files = api.get_safetensors_metadata(model, revision=revision).files_metadata.values()
    headers = (
        Tensor(name, told.dtype, tuple(told.shape), *told.data_offsets)
        for file in files
        for name, told in file.tensors.items()
    )
    return BaseModel.from_headers(model, config, headers), config


@contextmanager
def _asked(model: str) -> Iterator[None]:
    """Say in our own words what the hub, the network or the library answered."""
    try:
        yield
    except HFValidationError as malformed:
        wrong = f"'{model}' is neither a directory nor a hub id (org/name)"
        raise CommandFailed(ExitCode.USAGE, wrong) from malformed
    except EntryNotFoundError as missing:
        lacking = f"{model} has no {CONFIG}: name a base model, and no adapter"
        raise CommandFailed(ExitCode.USAGE, lacking) from missing
    except (NotASafetensorsRepoError, SafetensorsParsingError) as unreadable:
        told = f"{model} has no weights in safetensors that tell their shapes; name a directory that has"
        raise CommandFailed(ExitCode.USAGE, told) from unreadable
    except HfHubHTTPError as refused:
        raise _refusal(model, refused.response.status_code) from refused
    except (httpx2.HTTPError, OSError) as unreachable:
        reason = " ".join(str(unreachable).split()) or type(unreachable).__name__
        raise CommandFailed(
            ExitCode.UNREACHABLE, f"the hub could not be reached for {model}: {reason}"
        ) from unreachable


def _refusal(model: str, status: int) -> CommandFailed:
    if status in _ABSENT:
        absent = f"{model} is no directory, and no model on the hub ({status}); if it is private or gated, set HF_TOKEN"
        return CommandFailed(ExitCode.NOT_FOUND, absent)
    return CommandFailed(ExitCode.UNREACHABLE, f"the hub answered {status} for {model}, try again")
