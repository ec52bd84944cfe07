"""An adapter in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapters.errors import SourceForbidden, SourceNotFound, SourceUnavailable
from adapters.lora import initial_adapter
from adapters.sources.rules import BUCKET_SCHEMES, plain_bucket_url
from adapters.storage.disk import in_thread
from adapters.storage.manifest import FILES, INITIAL, TOKENIZER_FILES
from adapters.storage.object_store import has_object, open_store, read_object, store_errors
from adapters.storage.staging import Staged

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class BucketSource:
    """The prefix ``url``, which must be under one of the ``allowed`` URLs: it is read with the server's credentials.

    Raises:
        SourceForbidden: one of these URLs is not plain, see ``plain_bucket_url``.
    """

    def __init__(self, url: str, allowed: Sequence[str]) -> None:
        self._url = plain_bucket_url(url)
        self._allowed = [plain_bucket_url(prefix) for prefix in allowed]

    async def fetch(self, staged: Staged) -> str:
        if not any(f"{self._url}/".startswith(f"{prefix}/") for prefix in self._allowed):
            raise SourceForbidden(
                f"the server may not read {self._url}: start it with --source-bucket URL to allow a prefix "
                f"(allowed now: {', '.join(self._allowed) or 'none'}), or upload the files"
            )
        store = open_store(self._url, BUCKET_SCHEMES, SourceForbidden)
        with store_errors(self._url, SourceUnavailable):
            for name in FILES:
                await self._copy(store, name, staged)
            if await in_thread(initial_adapter.is_needed, staged.path) and (first := await _first_folder(store)):
                for name in FILES:
                    await self._copy(store, f"{first}/{name}", staged, to=f"{INITIAL}/{name}")
            for name in TOKENIZER_FILES:
                if await has_object(store, name):
                    await staged.keep_tokenizer_file(name, read_object(store, name))
        return self._url

    async def _copy(self, store: ObjectStore, name: str, staged: Staged, *, to: str | None = None) -> None:
        try:
            await staged.write(to or name, read_object(store, name))
        except FileNotFoundError:
            raise SourceNotFound(f"{self._url} has no {name}") from None


async def _first_folder(store: ObjectStore) -> str | None:
    for folder in initial_adapter.FOLDERS:
        if await has_object(store, f"{folder}/{FILES[0]}"):
            return folder
    return None
