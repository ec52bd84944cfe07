"""Reads the config and the tensor headers of a base model in a directory or on a hub, without its weights."""

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
from server.cli.hub import hub_api, hub_errors

_ABSENT = frozenset({httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN, httpx2.codes.NOT_FOUND})
"""Statuses of a repository that does not exist or that the token cannot read."""

BaseFiles = tuple[BaseModel, dict[str, Any]]
"""A base model and its parsed config.json."""


def read_base(model: str, revision: str | None) -> BaseFiles:
    """Read ``model``: a directory, or a hub id at ``revision``, as `patchbay serve` takes them.

    From a hub it downloads config.json and the header of each file of weights.

    Raises:
        CommandFailed: there is no such model, or its files do not say the shapes of its tensors.
    """
    try:
        if Path(model).is_dir():
            return BaseModel.from_directory(Path(model), model), read_config(Path(model) / CONFIG)
        with hub_errors(model), _base_errors(model):
            return _from_hub(model, revision)
    except BaseModelUnreadable as unreadable:
        raise CommandFailed(ExitCode.USAGE, str(unreadable)) from unreadable


def _from_hub(model: str, revision: str | None) -> BaseFiles:
    api = hub_api()
    response = get_session().get(hf_hub_url(model, CONFIG, revision=revision), headers=build_hf_headers())
    hf_raise_for_status(response)
    config = parse_config(response.content, f"{model}/{CONFIG}")
    files = api.get_safetensors_metadata(model, revision=revision).files_metadata.values()
    headers = (
        Tensor(name, tensor.dtype, tuple(tensor.shape), *tensor.data_offsets)
        for file in files
        for name, tensor in file.tensors.items()
    )
    return BaseModel.from_headers(model, config, headers), config


@contextmanager
def _base_errors(model: str) -> Iterator[None]:
    """Translate what the library raises for a repository that holds no base model into ``CommandFailed``."""
    try:
        yield
    except HFValidationError as malformed:
        message = f"'{model}' is neither a directory nor a hub id such as org/name"
        raise CommandFailed(ExitCode.USAGE, message) from malformed
    except EntryNotFoundError as missing:
        message = f"{model} has no {CONFIG}: name a base model, not an adapter"
        raise CommandFailed(ExitCode.USAGE, message) from missing
    except (NotASafetensorsRepoError, SafetensorsParsingError) as unreadable:
        message = f"{model} has no weights in safetensors files with readable headers: name a model that has"
        raise CommandFailed(ExitCode.USAGE, message) from unreadable
    except HfHubHTTPError as refused:
        if (status := refused.response.status_code) not in _ABSENT:
            raise
        message = f"{model} is neither a directory nor a model on the hub ({status}); if it is private, set HF_TOKEN"
        raise CommandFailed(ExitCode.NOT_FOUND, message) from refused
