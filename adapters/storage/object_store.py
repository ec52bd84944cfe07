"""Object stores by URL, through obstore. Credentials come from where the stores' own tools look for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import from_url

from adapters.errors import PatchbayError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = structlog.get_logger(__name__)

MAX_LOGGED: Final = 1000
"""Characters of a store's own error in the log; some are pages long."""


def open_store(url: str, schemes: Collection[str], refusal: type[PatchbayError]) -> ObjectStore:
    """Open the object store at ``url``; a ``refusal`` if its scheme is not in ``schemes`` or obstore rejects it."""
    scheme = url.partition("://")[0]
    if scheme not in schemes:
        raise refusal(f"cannot use '{url}': begin with one of {', '.join(f'{each}://' for each in schemes)}")
    try:
        return from_url(url, mkdir=True) if scheme == "file" else from_url(url)
    except (BaseError, ValueError) as error:
        raise refusal(f"cannot use '{url}': {error}") from error


async def has_object(store: ObjectStore, key: str) -> bool:
    try:
        await obstore.head_async(store, key)
    except FileNotFoundError:
        return False
    return True


async def read_object(store: ObjectStore, key: str) -> AsyncIterator[bytes]:
    """Yield an object's bytes as they arrive; FileNotFoundError if there is none."""
    found = await obstore.get_async(store, key)
    async for chunk in found.stream():
        yield bytes(chunk)


@contextmanager
def store_errors(url: str, refusal: type[PatchbayError]) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        log.warning("object store failed", url=url, error=str(error)[:MAX_LOGGED])  # addresses are not for callers
        raise refusal("the object store does not answer: try again; the server's log has the cause") from error
