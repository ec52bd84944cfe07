"""The key ring: all API keys, stored in the database and looked up in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from pydantic import TypeAdapter
from sqlalchemy import func, insert, select, update

from adapters.errors import InvalidName, NotFound
from adapters.storage.database import Database, Follower
from server.access.api_key import ApiKey, digest_of, id_of, mint_secret
from server.access.caller import DEFAULT_PROJECT
from server.access.schema import VERSION_TABLE, keys
from server.access.scope import Scope
from server.errors import MissingScope

log = structlog.get_logger(__name__)

MIGRATIONS: Final = Path(__file__).parent / "migrations"
MAX_NAME_LENGTH: Final = 96

_KEY: Final = TypeAdapter(ApiKey)


class KeyRing(Follower):
    """The API keys of all processes that share a database.

    A write is in the database and in this ring before its method returns; writes of other processes arrive with
    ``refresh``, which ``follow`` calls at an interval. ``find``, ``get`` and ``is_empty`` read memory alone.
    """

    refresh_failed = "keys.refresh_failed"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._keys: dict[str, ApiKey] = {}
        self._had_keys = False
        self._is_loss_known = False
        self._counts: tuple[int, ...] = (0, 0)  # keys and revocations at the last refresh; neither ever shrinks
        self._refreshing = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database) -> KeyRing:
        """Migrate the table in ``database`` and read it; the caller closes the database."""
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        ring = cls(database)
        await ring.refresh()
        return ring

    @property
    def is_empty(self) -> bool:
        """True if no key was ever created: neither revoking the last one nor losing the table opens the server."""
        return not self._keys and not self._had_keys

    def remember_keys(self) -> None:
        """Never be empty from now on: this server had keys, whatever the database says."""
        self._had_keys = True

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with this secret; None if there is none, or it was revoked or has expired."""
        key = self.get(id_of(secret) or "")
        return key if key is not None and key.matches(secret) else None

    def get(self, key_id: str) -> ApiKey | None:
        """Return the key with this id; None if there is none, or it was revoked or has expired."""
        key = self._keys.get(key_id)
        return key if key is not None and key.is_valid(datetime.now(UTC)) else None

    def list(self) -> list[ApiKey]:
        """Return every key ever created, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def create(
        self,
        name: str,
        scopes: Collection[Scope],
        *,
        project: str = DEFAULT_PROJECT,
        adapters: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key; return it with its secret, which is not stored. ``admin`` includes all scopes.

        Args:
            adapters: patterns of the adapters that its holder may use; None: all.
            expires_at: the moment at which the key ends; None: it does not end by itself.

        Raises:
            InvalidName: the name is empty, too long or not printable.
            MissingScope: ``scopes`` is empty.
        """
        if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME_LENGTH):
            raise InvalidName(f"a key's name has 1 to {MAX_NAME_LENGTH} printable characters", param="name")
        if not scopes:
            raise MissingScope(f"a key needs a scope: {', '.join(Scope)}", param="scopes")
        granted = {Scope.ADMIN} if Scope.ADMIN in scopes else set(scopes)
        key_id, secret = mint_secret()
        async with self.database.write() as connection:
            await connection.execute(
                insert(keys).values(
                    id=key_id,
                    name=name,
                    scopes=sorted(granted),
                    sha256=digest_of(secret),
                    last4=secret[-4:],
                    created_at=datetime.now(UTC),
                    project=project,
                    adapters=None if adapters is None else list(adapters),
                    expires_at=expires_at,
                )
            )
        await self.refresh()
        return self._keys[key_id], secret

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key for good and return it; a second revocation does not change ``revoked_at``.

        Raises:
            NotFound: no key has this id.
        """
        unrevoked = (keys.c.id == key_id) & keys.c.revoked_at.is_(None)
        async with self.database.write() as connection:
            await connection.execute(update(keys).where(unrevoked).values(revoked_at=datetime.now(UTC)))
        await self.refresh()
        if key_id not in self._keys:
            raise NotFound(f"no key has the id '{key_id}'; `patchbay keys list` shows them", param="id")
        return self._keys[key_id]

    async def _read(self) -> None:
        count = select(func.count(), func.count(keys.c.revoked_at)).select_from(keys)
        async with self._refreshing, self.database.read() as connection:
            counts = tuple((await connection.execute(count)).one())
            if counts != self._counts:
                rows = await connection.execute(select(keys))
                self._keys = {row.id: _KEY.validate_python(row._asdict()) for row in rows}
                self._counts = counts
        if self._keys:
            self._had_keys = True
        elif self._had_keys and not self._is_loss_known:
            self._is_loss_known = True
            log.error("the database has no API keys any more: every request is refused until a key is created")
