"""Object stores by URL, through obstore. Credentials come from where the stores' own tools look for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from adapters.errors import SourceForbidden, SourceUnavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore


def open_store(url: str, schemes: Collection[str]) -> ObjectStore:
    """Open the object store at ``url``.

    Raises:
        SourceForbidden: its scheme is none of ``schemes``, or the URL makes no sense to the store.
    """
    scheme = url.partition("://")[0]
    if scheme not in schemes:
        raise SourceForbidden(f"cannot use '{url}': begin with one of {', '.join(f'{it}://' for it in schemes)}")
    try:
        return from_url(url, mkdir=True) if scheme == "file" else from_url(url)
    except (BaseError, ValueError) as error:
        raise SourceForbidden(f"cannot use '{url}': {error}") from error


async def has_object(store: ObjectStore, key: str) -> bool:
    """Whether there is an object of that key."""
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
def store_asked(url: str) -> Iterator[None]:
    """Turn whatever the store answers in its own words into SourceUnavailable."""
    try:
        yield
    except BaseError as error:
        raise SourceUnavailable(f"the object store {url} did not do as asked, try again: {error}") from error
