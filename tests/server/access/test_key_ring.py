"""Keys on a real database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest
from sqlalchemy import delete, text

from adapters.errors import InvalidName, NotFound
from adapters.storage.database import Database
from server.access.key_ring import KeyRing
from server.access.schema import keys
from server.access.scope import Scope
from server.errors import MissingScope
from tests.postgres import on_both_databases

pytestmark = on_both_databases


class WatchedRing(KeyRing):
    """A ring that tells when it has refreshed."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._turn = asyncio.Condition()

    async def refresh(self) -> None:
        try:
            await super().refresh()
        finally:
            async with self._turn:
                self._turn.notify_all()

    async def next_refresh(self) -> None:
        """Wait for a whole refresh: one that began after now."""
        async with asyncio.timeout(10), self._turn:
            await self._turn.wait()
            await self._turn.wait()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follow(0.001))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def watched(database_url: str, ring: KeyRing) -> AsyncIterator[WatchedRing]:
    async with Database.open(database_url) as opened:
        yield WatchedRing(opened)


async def test_a_new_ring_is_empty_and_knows_nobody(ring: KeyRing) -> None:
    assert ring.is_empty
    assert ring.list() == []
    assert ring.find("pb_" + "a" * 8 + "_" + "b" * 43) is None


async def test_a_created_key_is_found_by_its_secret(ring: KeyRing) -> None:
    key, secret = await ring.create("laptop", [Scope.INFER])
    assert re.fullmatch(r"pb_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", secret)
    assert secret.startswith(f"pb_{key.id}_")
    assert ring.find(secret) == key
    assert (key.name, key.scopes, key.last4, key.revoked_at) == ("laptop", {Scope.INFER}, secret[-4:], None)
    assert not ring.is_empty


async def test_the_database_holds_no_secret(ring: KeyRing, database: Database) -> None:
    _, secret = await ring.create("laptop", [Scope.INFER])
    async with database.read() as connection:
        row = (await connection.execute(text("SELECT * FROM api_keys"))).mappings().one()
    assert row["sha256"] == sha256(secret.encode()).hexdigest()
    assert not [value for value in row.values() if secret[12:-4] in str(value)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret[3:],
        lambda secret: secret + "\n",
        lambda secret: "pb_aaaaaaaa_" + secret[12:],
        lambda secret: secret[:12] + "ü" * 43,
        lambda _secret: "",
    ],
)
async def test_a_secret_that_is_not_exactly_the_keys_finds_nothing(ring: KeyRing, spoil) -> None:
    _, secret = await ring.create("laptop", [Scope.INFER])
    assert ring.find(spoil(secret)) is None


async def test_an_admin_key_has_every_scope(ring: KeyRing) -> None:
    key, _ = await ring.create("operator", [Scope.ADMIN])
    assert {scope for scope in Scope if key.caller.may(scope)} == set(Scope)


async def test_a_revoked_key_is_unknown_but_still_listed(ring: KeyRing) -> None:
    key, secret = await ring.create("laptop", [Scope.INFER])
    revoked = await ring.revoke(key.id)
    assert revoked.revoked_at is not None
    assert ring.find(secret) is None
    assert ring.list() == [revoked]


async def test_revoking_twice_keeps_the_first_moment(ring: KeyRing) -> None:
    key, _ = await ring.create("laptop", [Scope.INFER])
    assert await ring.revoke(key.id) == await ring.revoke(key.id)


async def test_revoking_an_unknown_key_says_how_to_find_the_right_id(ring: KeyRing) -> None:
    with pytest.raises(NotFound, match="patchbay keys list"):
        await ring.revoke("aaaaaaaa")


async def test_revoking_the_last_key_does_not_open_the_server(ring: KeyRing, other_ring: KeyRing) -> None:
    key, _ = await ring.create("laptop", [Scope.INFER])
    await ring.revoke(key.id)
    await other_ring.refresh()
    assert not ring.is_empty
    assert not other_ring.is_empty


async def test_losing_the_table_does_not_open_the_server(ring: KeyRing, database: Database) -> None:
    """A backup from before the first key, restored; or a failover to an empty database."""
    _, secret = await ring.create("laptop", [Scope.ADMIN])
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM api_keys"))
    await ring.refresh()
    assert not ring.is_empty
    assert ring.find(secret) is None
    _, secret = await ring.create("new", [Scope.ADMIN])
    assert ring.find(secret) is not None


async def test_keys_made_and_revoked_elsewhere_are_seen_after_a_refresh(ring: KeyRing, other_ring: KeyRing) -> None:
    key, secret = await ring.create("laptop", [Scope.ADMIN])
    assert other_ring.find(secret) is None
    await other_ring.refresh()
    assert other_ring.find(secret) == key
    await ring.revoke(key.id)
    await other_ring.refresh()
    assert other_ring.find(secret) is None


async def test_a_following_ring_sees_a_key_made_elsewhere(ring: KeyRing, watched: WatchedRing) -> None:
    async with watched.following():
        _, secret = await ring.create("laptop", [Scope.INFER])
        await watched.next_refresh()
        assert watched.find(secret) is not None


async def test_a_ring_whose_database_is_away_keeps_what_it_knows_and_goes_on(
    ring: KeyRing, watched: WatchedRing, database: Database
) -> None:
    _, early = await ring.create("laptop", [Scope.INFER])
    async with watched.following():
        await watched.next_refresh()
        await _run(database, "ALTER TABLE api_keys RENAME TO away")
        await watched.next_refresh()
        assert watched.find(early) is not None
        await _run(database, "ALTER TABLE away RENAME TO api_keys")
        _, late = await ring.create("laptop", [Scope.INFER])
        await watched.next_refresh()
        assert watched.find(late) is not None


async def _run(database: Database, statement: str) -> None:
    async with database.write() as connection:
        await connection.execute(text(statement))


async def test_keys_survive_a_restart(ring: KeyRing, database_url: str) -> None:
    key, secret = await ring.create("laptop", [Scope.INFER])
    async with Database.open(database_url) as database:
        assert (await KeyRing.open(database)).find(secret) == key


async def test_keys_made_at_the_same_time_in_two_processes_are_all_kept(ring: KeyRing, other_ring: KeyRing) -> None:
    made = await asyncio.gather(*(each.create("k", [Scope.INFER]) for each in [ring, other_ring] * 5))
    await asyncio.gather(ring.refresh(), other_ring.refresh())
    assert ring.list() == other_ring.list()
    assert {key.id for key in ring.list()} == {key.id for key, _ in made}


async def test_keys_are_listed_oldest_first(ring: KeyRing) -> None:
    for name in ("c", "a", "b"):
        await ring.create(name, [Scope.INFER])
    assert [key.name for key in ring.list()] == ["c", "a", "b"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a" * 97])
async def test_a_name_that_no_list_could_show_is_refused(ring: KeyRing, name: str) -> None:
    with pytest.raises(InvalidName):
        await ring.create(name, [Scope.INFER])
    assert ring.is_empty


async def test_a_key_without_any_scope_is_refused(ring: KeyRing) -> None:
    with pytest.raises(MissingScope, match=r"infer, adapters:read, .*admin"):
        await ring.create("laptop", [])


async def test_a_restored_table_with_as_many_keys_is_read(ring: KeyRing, other_ring: KeyRing) -> None:
    _, lost = await ring.create("lost", [Scope.INFER])
    async with ring.database.write() as connection:
        await connection.execute(delete(keys))
    _, later = await other_ring.create("later", [Scope.INFER])
    await ring.refresh()
    assert ring.find(lost) is None
    assert ring.find(later) is not None
