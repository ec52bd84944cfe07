"""An adapter in an object store."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.errors import SourceForbidden, SourceNotFound
from adapters.manifest import FILES
from adapters.object_store import open_store, read_object, store_asked
from adapters.sources.rules import BUCKET_SCHEMES, plain_bucket_url
from adapters.staging import Staged


class BucketSource:
    """The prefix ``url``, under one of the ``allowed`` URLs: the server's own credentials read it.

    Raises:
        SourceForbidden: one of these URLs is not plain, see ``plain_bucket_url``.
    """

    def __init__(self, url: str, allowed: Sequence[str]) -> None:
        self._url = plain_bucket_url(url)
        self._allowed = [plain_bucket_url(prefix) for prefix in allowed]

    async def fetch(self, staged: Staged) -> str:
        """Copy the objects; see ``Source.fetch``."""
        if not any(f"{self._url}/".startswith(f"{prefix}/") for prefix in self._allowed):
            raise SourceForbidden(
                f"the server may not read {self._url}: start it with --source-bucket URL to allow a prefix "
                f"(allowed now: {', '.join(self._allowed) or 'none'}), or upload the files"
            )
        store = open_store(self._url, BUCKET_SCHEMES)
        with store_asked(self._url):
            for name in FILES:
                try:
                    await staged.write(name, read_object(store, name))
                except FileNotFoundError:
                    raise SourceNotFound(f"{self._url} has no {name}") from None
        return self._url
