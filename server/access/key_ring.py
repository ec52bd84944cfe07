"""The key ring: all API keys, stored in the database and looked up in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import TypeAdapter
from sqlalchemy import func, insert, select, update

from adapters.errors import InvalidName, NotFound, StorageUnavailable
from adapters.names import DEFAULT_PROJECT, check_project
from adapters.storage.database import Database, Follower
from server.access.api_key import ApiKey, digest_of, id_of, mint_secret
from server.access.schema import VERSION_TABLE, keys
from server.access.scope import Scope
from server.errors import InvalidRequest, MissingScope

log = structlog.get_logger(__name__)

MIGRATIONS: Final = Path(__file__).parent / "migrations"
MAX_NAME_LENGTH: Final = 96
MAX_GRACE_S: Final = 30 * 24 * 3600
"""How long a rotated key may stay valid beside its successor, at most."""
USE_INTERVAL_S: Final = 300.0
"""How often the moments of last use are written."""

_KEY: Final = TypeAdapter(ApiKey)


class KeyRing(Follower):
    """The API keys of all processes that share a database.

    A write is in the database and in this ring before its method returns; writes of other processes arrive with
    ``refresh``, which ``follow`` calls at an interval. ``find``, ``get``, ``is_empty`` and ``is_open`` read memory
    alone.

    ``has_issuer``: bearer tokens are taken beside keys, so that requests need one of both from the start.
    """

    refresh_failed = "keys.refresh_failed"

    def __init__(self, database: Database, *, has_issuer: bool = False) -> None:
        super().__init__(database)
        self._has_issuer = has_issuer
        self._keys: dict[str, ApiKey] = {}
        self._uses: dict[str, datetime] = {}  # by key id, since they were written last
        self._had_keys = False
        self._is_loss_known = False
        self._summary: tuple[Any, ...] = (0, 0, None, None)  # of the table at the last refresh
        self._refreshing = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database, *, has_issuer: bool = False) -> KeyRing:
        """Migrate the table in ``database`` and read it; the caller closes the database."""
        await database.migrate(MIGRATIONS, VERSION_TABLE)
        ring = cls(database, has_issuer=has_issuer)
        await ring.refresh()
        return ring

    @property
    def is_empty(self) -> bool:
        """True if no key was ever created: neither revoking the last one nor losing the table opens the server."""
        return not self._keys and not self._had_keys

    @property
    def is_open(self) -> bool:
        """True while requests need neither a key nor a bearer token."""
        return self.is_empty and not self._has_issuer

    def remember_keys(self) -> None:
        """Never be empty from now on: this server had keys, whatever the database says."""
        self._had_keys = True

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with this secret; None if there is none, or it was revoked or has expired."""
        key_id = id_of(secret) or ""
        key = self._keys.get(key_id)
        return self.get(key_id) if key is not None and key.matches(secret) else None

    def get(self, key_id: str) -> ApiKey | None:
        """Return the key with this id; None if there is none, or it was revoked or has expired."""
        key, now = self._keys.get(key_id), datetime.now(UTC)
        if key is None or not key.is_valid(now):
            return None
        self._uses[key_id] = now
        return key

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
            InvalidName: the name is empty, too long or not printable, or that of the project is not valid.
            MissingScope: ``scopes`` is empty.
            InvalidRequest: ``adapters`` limits a key with the scope ``admin``; ``expires_at`` is past.
        """
        if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME_LENGTH):
            raise InvalidName(f"a key's name has 1 to {MAX_NAME_LENGTH} printable characters", param="name")
        if not scopes:
            raise MissingScope(f"a key needs a scope: {', '.join(Scope)}", param="scopes")
        granted = {Scope.ADMIN} if Scope.ADMIN in scopes else set(scopes)
        check_project(project)
        if adapters is not None and Scope.ADMIN in granted:
            raise InvalidRequest("a key with the scope admin uses all adapters: leave adapters out", param="adapters")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise InvalidRequest("expires_at is past; a key ends in the future or has none", param="expires_at")
        key_id, secret, values = _new(
            name=name,
            scopes=sorted(granted),
            project=project,
            adapters=None if adapters is None else list(adapters),
            expires_at=expires_at,
        )
        async with self.database.write() as connection:
            await connection.execute(insert(keys).values(values))
        await self.refresh()
        return self._keys[key_id], secret

    async def rotate(self, key_id: str, *, grace_s: float = 0) -> tuple[ApiKey, str]:
        """Create a key like the one with the id ``key_id``, which ends in ``grace_s`` seconds; return the new one.

        Raises:
            NotFound: no valid key has this id.
        """
        now = datetime.now(UTC)
        async with self.database.write() as connection:
            row = (await connection.execute(select(keys).where(keys.c.id == key_id))).one_or_none()
            if row is None or not _KEY.validate_python(row._asdict()).is_valid(now):
                raise NotFound(f"no valid key has the id '{key_id}'; `patchbay keys list` shows them", param="id")
            fields = {name: getattr(row, name) for name in ("name", "scopes", "project", "adapters", "expires_at")}
            new_id, secret, values = _new(**fields)
            end = now + timedelta(seconds=grace_s)
            ended = {"expires_at": end if row.expires_at is None else min(end, row.expires_at)}
            await connection.execute(insert(keys).values(values))
            await connection.execute(update(keys).where(keys.c.id == key_id).values(ended))
        await self.refresh()
        return self._keys[new_id], secret

    async def latest(self) -> tuple[ApiKey, ...]:
        """Return every key ever created, oldest first, as the database has it: with the uses of other processes."""
        await self.record_uses()
        self._summary = ()
        await self._read()
        return tuple(self.list())

    async def record_uses(self) -> None:
        """Write the moments of last use, unless no key was used since they were written last."""
        uses, self._uses = self._uses, {}
        if uses:
            async with self.database.write() as connection:
                for key_id, at in uses.items():
                    await connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=at))

    async def follow_uses(self) -> None:
        """Record the uses every ``USE_INTERVAL_S`` until cancelled; while the database is away they are dropped."""
        while True:
            await asyncio.sleep(USE_INTERVAL_S)
            try:
                await self.record_uses()
            except StorageUnavailable as error:
                log.warning("keys.uses_dropped", error=str(error))

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
        # The moments tell keys apart that a backup and what it was restored over have in the same number.
        created, revoked = keys.c.created_at, keys.c.revoked_at
        columns = (func.count(), func.count(revoked), func.max(created), func.max(revoked))
        async with self._refreshing, self.database.read() as connection:
            summary = tuple((await connection.execute(select(*columns).select_from(keys))).one())
            if summary != self._summary:
                rows = await connection.execute(select(keys))
                self._keys = {row.id: _KEY.validate_python(row._asdict()) for row in rows}
                self._summary = summary
        if self._keys:
            self._had_keys = True
        elif self._had_keys and not self._is_loss_known:
            self._is_loss_known = True
            log.error("the database has no API keys any more: every request is refused until a key is created")


def _new(**fields: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Return the id, the secret and the row of a new key with these fields."""
    key_id, secret = mint_secret()
    row = {"id": key_id, "sha256": digest_of(secret), "last4": secret[-4:], "created_at": datetime.now(UTC)}
    return key_id, secret, row | fields
