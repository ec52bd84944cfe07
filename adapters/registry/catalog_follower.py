"""Keeps the catalog in memory equal to the registry's rows, which other processes write too."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from adapters.errors import NotFound
from adapters.registry.catalog import Catalog
from adapters.registry.rows import Revision, Rows
from adapters.storage.database import Database, Follower
from adapters.versions import Adapter

log = structlog.get_logger(__name__)

CATCH_UP_S: Final = 1.0
"""Seconds between reads of the database for names that are not in the catalog."""
_NEVER: Final = Revision(-1, None)
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class News:
    """Adapters that changed, and names of those deleted; ``is_all``: there are no adapters but those that changed."""

    changed: Sequence[Adapter]
    deleted: Sequence[str]
    is_all: bool


class CatalogFollower(Follower):
    """The catalog of a database. Where a backup was restored under the process, it is read anew as a whole."""

    refresh_failed = "registry.refresh_failed"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.catalog = Catalog()
        self._seen = _NEVER  # the clock when the catalog was read
        self._catching_up: asyncio.Task[None] | None = None
        self._caught_up_at = -math.inf

    async def look_up(self, find: Callable[[Catalog], _Found]) -> _Found:
        """Return ``find(catalog)``; if that raises NotFound, once more with what other processes have written.

        The database is read at most once in ``CATCH_UP_S``, and waited for no longer: names that do not exist, which
        callers can make up at will, neither load it nor wait while it is away.
        """
        try:
            return find(self.catalog)
        except NotFound:
            if not await self._catch_up():
                raise
        return find(self.catalog)

    async def _catch_up(self) -> bool:
        """Refresh, unless that was done a moment ago; return whether it was done now."""
        if self._catching_up is None or self._catching_up.done():
            now = time.monotonic()
            if now - self._caught_up_at < CATCH_UP_S:
                return False
            self._caught_up_at = now
            self._catching_up = asyncio.create_task(self.try_refresh())
        done, _ = await asyncio.wait({self._catching_up}, timeout=CATCH_UP_S)
        return bool(done)

    async def _read(self) -> None:
        seen = self._seen
        async with self.database.read() as connection:
            rows = Rows(connection)
            revision = await rows.revision()
            news = None if revision == seen else await read_news(rows, seen)
        if news is not None:
            self._update_catalog(seen, revision, news)

    def _update_catalog(self, seen: Revision, revision: Revision, news: News) -> None:
        """Apply ``news``, which lead from ``seen`` to ``revision``.

        Not if another read or write has led to a newer one meanwhile: they may end in another order than they began.
        """
        if self._seen is not seen and self._seen.number >= revision.number:
            return
        deleted = news.deleted
        if news.is_all:
            log.warning("registry.restored: the database has another history, or too many changes; all was read anew")
            deleted = [adapter.name for adapter in self.catalog]
        self.catalog.replace(news.changed, deleted)
        self._seen = revision


async def read_news(rows: Rows, seen: Revision) -> News:
    """Return the changes since ``seen``; all adapters if the database was never at that revision."""
    is_all = not await rows.has_been_at(seen)
    return News(*await rows.changes(_NEVER.number if is_all else seen.number), is_all)
