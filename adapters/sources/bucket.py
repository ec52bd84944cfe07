"""An adapter in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from adapters.errors import SourceForbidden, SourceNotFound
from adapters.manifest import FILES
from adapters.object_store import open_store, read_object, store_asked
from adapters.staging import Staged

SCHEMES: Final = ("s3", "gs", "az")


class BucketSource:
    """The prefix ``url``, under one of the ``allowed`` URLs: the server's own credentials read it."""

    def __init__(self, url: str, allowed: Sequence[str]) -> None:
        self._url = url.rstrip("/")
        self._allowed = [prefix.rstrip("/") for prefix in allowed]

    async def fetch(self, staged: Staged) -> str:
        """Copy the objects; see ``Source.fetch``."""
        if ".." in self._url or not any(f"{self._url}/".startswith(f"{prefix}/") for prefix in self._allowed):
            raise SourceForbidden(
                f"the server may not read {self._url}: start it with --source-bucket URL to allow a prefix "
                f"(allowed now: {', '.join(self._allowed) or 'none'}), or upload the files"
            )
        store = open_store(self._url, SCHEMES)
        with store_asked(self._url):
            for name in FILES:
                try:
                    await staged.write(name, read_object(store, name))
                except FileNotFoundError:
                    raise SourceNotFound(f"{self._url} has no {name}") from None
        return self._url
