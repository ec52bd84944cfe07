from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Set
from contextlib import AsyncExitStack
from pathlib import Path
from threading import Event

import pytest

from adapters.errors import AdapterRefused, BlobCorrupt, BlobStoreUnavailable
from adapters.storage.blobs import Blobs
from adapters.storage.disk import WRITERS
from adapters.storage.manifest import CONFIG_FILE, FILES, WEIGHTS_FILE, Manifest
from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.staging import Staging
from adapters.storage.sweep_rules import FEW, UNKNOWN_GRACE_S, SweepRules
from tests.adapters.conftest import chunks
from tests.process_clock import ProcessClock
from tests.until import until

Stage = Callable[..., Awaitable[Manifest]]
Put = Callable[..., Awaitable[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(root: Path) -> Blobs:
    return Blobs(root)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteBlobs:
    return RemoteBlobs((tmp_path / "bucket").as_uri())


@pytest.fixture
def replicated(root: Path, remote: RemoteBlobs) -> Blobs:
    return Blobs(root, remote=remote)


@pytest.fixture
def put(staging: Staging, fill: Stage) -> Put:
    async def put(blobs: Blobs, seed: int = 0) -> str:
        async with staging.open() as staged:
            digest = (await fill(staged, seed)).digest
            await blobs.put(staged)
        return digest

    return put


def damage(directory: Path) -> None:
    weights = directory / WEIGHTS_FILE
    weights.chmod(0o644)
    weights.write_bytes(b"rotten")


def remove(directory: Path) -> None:
    directory.chmod(0o755)
    for name in FILES:
        (directory / name).unlink()
    directory.rmdir()


def age(directory: Path, seconds: float) -> None:
    then = directory.stat().st_mtime - seconds
    os.utime(directory, (then, then))


async def test_a_blob_lies_read_only_under_its_digest(blobs: Blobs, root: Path, put: Put):
    digest = await put(blobs)
    directory = await blobs.path(digest)

    assert directory == root / "sha256" / digest[:2] / digest
    assert sorted(path.name for path in directory.iterdir()) == sorted(FILES)
    assert Manifest.of(directory).digest == digest
    assert stat.S_IMODE(directory.stat().st_mode) == 0o555
    assert {stat.S_IMODE((directory / name).stat().st_mode) for name in FILES} == {0o444}


async def test_nothing_is_left_in_staging(blobs: Blobs, staging: Staging, put: Put):
    await put(blobs)
    assert list(staging.directory.iterdir()) == []


async def test_the_same_bytes_again_change_nothing(blobs: Blobs, put: Put):
    digest = await put(blobs)
    before = (await blobs.path(digest)).stat().st_ino
    assert await put(blobs) == digest
    assert (await blobs.path(digest)).stat().st_ino == before


async def test_other_bytes_have_another_digest(blobs: Blobs, put: Put):
    assert await put(blobs, 1) != await put(blobs, 2)


async def test_an_incomplete_adapter_is_not_put(blobs: Blobs, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(AdapterRefused):
            await blobs.put(staged)


async def test_putting_again_heals_a_damaged_blob(blobs: Blobs, put: Put):
    digest = await put(blobs)
    damage(await blobs.path(digest))
    await put(blobs)
    assert Manifest.of(await blobs.verify(digest)).digest == digest


@pytest.mark.parametrize("harm", [damage, remove])
async def test_a_damaged_or_missing_blob_does_not_verify(blobs: Blobs, put: Put, harm: Callable[[Path], None]):
    digest = await put(blobs)
    harm(await blobs.path(digest))
    with pytest.raises(BlobCorrupt, match=digest):
        await blobs.verify(digest)


async def test_a_missing_blob_has_no_path(blobs: Blobs):
    with pytest.raises(BlobCorrupt, match="missing"):
        await blobs.path("0" * 64)


@pytest.mark.parametrize("text", ["../" * 21 + "x", "", "A" * 64, "0" * 63])
async def test_only_digests_are_paths(blobs: Blobs, text: str):
    with pytest.raises(ValueError, match="not a digest"):
        await blobs.path(text)


@pytest.mark.parametrize("harm", [damage, remove])
async def test_a_damaged_or_missing_copy_is_fetched_from_the_remote_store(
    replicated: Blobs, put: Put, harm: Callable[[Path], None]
):
    digest = await put(replicated)
    harm(await replicated.path(digest))
    assert Manifest.of(await replicated.verify(digest)).digest == digest


async def test_another_machine_fetches_what_it_lacks(replicated: Blobs, remote: RemoteBlobs, tmp_path: Path, put: Put):
    digest = await put(replicated)
    elsewhere = Blobs(tmp_path / "elsewhere", remote=remote)
    directory = await elsewhere.path(digest)

    assert directory.is_relative_to(tmp_path / "elsewhere")
    assert Manifest.of(directory).digest == digest


async def test_a_damaged_remote_copy_is_not_taken(replicated: Blobs, tmp_path: Path, put: Put):
    digest = await put(replicated)
    remove(await replicated.path(digest))
    (tmp_path / "bucket" / "sha256" / digest[:2] / digest / CONFIG_FILE).write_bytes(b"rotten")
    with pytest.raises(BlobCorrupt, match="remote copy is damaged"):
        await replicated.path(digest)
    with pytest.raises(BlobCorrupt):
        await replicated.path(digest)


async def test_a_blob_that_is_nowhere_is_corrupt(replicated: Blobs):
    with pytest.raises(BlobCorrupt, match="publish it again") as lost:
        await replicated.path("0" * 64)
    assert "://" not in lost.value.message


async def test_a_remote_store_that_does_not_answer_is_unavailable(
    root: Path, remote: RemoteBlobs, tmp_path: Path, put: Put
):
    (tmp_path / "bucket").rmdir()
    (tmp_path / "bucket").write_text("in the way")
    with pytest.raises(BlobStoreUnavailable, match="try again"):
        await put(Blobs(root, remote=remote))
    assert not (root / "sha256").exists()


def test_other_urls_are_no_remote_store():
    with pytest.raises(BlobStoreUnavailable, match="s3://"):
        RemoteBlobs("ftp://example.org/blobs")


OURS, THEIRS = "a" * 32, "b" * 32
"""Ids of two installations."""


async def test_a_disk_that_hangs_under_many_uploads_keeps_no_blob_from_being_read(
    blobs: Blobs, staging: Staging, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, began, hangs = await put(blobs), [], Event()

    def fsync(descriptor: int) -> None:
        began.append(descriptor)
        hangs.wait()

    monkeypatch.setattr(os, "fsync", fsync)
    async with AsyncExitStack() as opened:
        every = [await opened.enter_async_context(staging.open()) for _ in range(40)]
        writes = [asyncio.create_task(each.write(CONFIG_FILE, chunks(b"{}"))) for each in every]
        try:
            await until(lambda: len(began) == WRITERS._max_workers)
            async with asyncio.timeout(30):
                await blobs.verify(digest)
            assert not any(write.done() for write in writes)
        finally:
            hangs.set()
        await asyncio.gather(*writes)


async def test_the_sweeper_takes_old_orphans_only(blobs: Blobs, put: Put, process_clock: ProcessClock):
    await blobs.claim(OURS, set())
    living, old_orphan = [await put(blobs, seed) for seed in range(2)]
    known = {living, old_orphan}
    assert await blobs.sweep({living}, known, 3600) == []
    process_clock.advance(3600)
    new_orphan = await put(blobs, 2)
    assert await blobs.sweep({living}, known | {new_orphan}, 3600) == [old_orphan]
    for digest in (living, new_orphan):
        await blobs.verify(digest)
    with pytest.raises(BlobCorrupt):
        await blobs.path(old_orphan)


async def test_an_orphan_that_is_put_again_is_spared(blobs: Blobs, put: Put, process_clock: ProcessClock):
    await blobs.claim(OURS, set())
    digest = await put(blobs)
    assert await blobs.sweep(set(), {digest}, 3600) == []
    process_clock.advance(3600)
    await put(blobs)
    assert await blobs.sweep(set(), {digest}, 3600) == []
    process_clock.advance(3600)
    assert await blobs.sweep(set(), {digest}, 3600) == [digest]


async def test_a_version_that_lived_between_two_sweeps_is_an_orphan_anew(
    blobs: Blobs, put: Put, process_clock: ProcessClock
):
    await blobs.claim(OURS, set())
    digest = await put(blobs)
    for living in (set(), {digest}, set()):
        assert await blobs.sweep(living, {digest}, 3600) == []
        process_clock.advance(3600)


async def test_a_clock_that_jumps_ahead_takes_no_fresh_blob_and_no_upload_under_way(
    replicated: Blobs, staging: Staging, put: Put, tmp_path: Path
):
    """As after a pause of a virtual machine: all that lies on disk looks a day old."""
    await replicated.claim(OURS, set())
    digest = await put(replicated)
    async with staging.open() as staged:
        age(await replicated.path(digest), 86400)
        for path in (*(tmp_path / "bucket").rglob("*"), staged.path):
            age(path, 86400)
        assert await replicated.sweep(set(), {digest}, 3600) == []
        assert digests_in(tmp_path / "bucket") == {digest}
        assert staged.path.exists()


async def test_a_directory_that_a_process_is_filling_is_left_until_the_process_is_gone(blobs: Blobs, staging: Staging):
    program = (
        "import asyncio, sys; from pathlib import Path; from adapters.storage.staging import Staging\n"
        "async def fill():\n"
        "    async with Staging(Path(sys.argv[1]), max_bytes=100).open() as staged:\n"
        "        await staged.clear(); print(staged.path.name, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(fill())"
    )
    command = [sys.executable, "-c", program, str(staging.directory.parent)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    filled = staging.directory / (await process.stdout.readline()).decode().strip()
    try:
        await blobs.sweep_staging()
        assert filled.exists()
    finally:
        process.kill()
        await process.wait()
    await blobs.sweep_staging()
    assert list(staging.directory.iterdir()) == []


async def test_the_sweeper_leaves_staging_that_this_process_has_open(blobs: Blobs, staging: Staging):
    async with staging.open() as staged:
        await staged.clear()
        await blobs.sweep(set(), set(), 0)
        assert staged.path.exists()


async def test_the_sweeper_takes_remote_orphans_too(replicated: Blobs, tmp_path: Path, put: Put):
    await replicated.claim(OURS, set())
    living, orphan = known = [await put(replicated, seed) for seed in range(2)]
    assert await replicated.sweep({living, orphan}, set(known), 0) == []
    assert await replicated.sweep({living}, set(known), 3600) == []
    assert await replicated.sweep({living}, set(known), 0) == [orphan]

    assert digests_in(tmp_path / "bucket") == {living}


async def test_a_remote_orphan_that_is_put_again_during_the_sweep_is_spared(
    replicated: Blobs, remote: RemoteBlobs, tmp_path: Path, put: Put, process_clock: ProcessClock
):
    spared, orphan = [await put(replicated, seed) for seed in range(2)]
    files = [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    for path in files:
        age(path, 7200)
    known = frozenset({spared, orphan})
    assert await remote.sweep(SweepRules(frozenset(), known), 3600) == []
    process_clock.advance(3600)

    class Rules(SweepRules):
        """Asked after the listing and before any deletion: when the same bytes are put again."""

        def orphans(self, stored: Set[str], store: str) -> set[str]:
            for path in files:
                if path.parent.name == spared:
                    os.utime(path)
            return super().orphans(stored, store)

    assert await remote.sweep(Rules(frozenset(), known), 3600) == [orphan]
    assert [path for path in files if path.exists()] == [path for path in files if path.parent.name == spared]


async def test_a_half_deleted_remote_orphan_is_swept_too(replicated: Blobs, tmp_path: Path, put: Put):
    await replicated.claim(OURS, set())
    digest = await put(replicated)
    (tmp_path / "bucket" / "sha256" / digest[:2] / digest / CONFIG_FILE).unlink()
    assert await replicated.sweep(set(), {digest}, 0) == [digest]


def digests_in(root: Path) -> set[str]:
    return {path.parent.name for path in root.rglob("sha256/*/*/*") if path.is_file()}


async def test_nothing_is_swept_before_the_stores_are_known_to_be_ours(replicated: Blobs, tmp_path: Path, put: Put):
    digest = await put(replicated)
    assert await replicated.sweep(set(), {digest}, 0) == []
    assert digests_in(tmp_path / "bucket") == {digest}


@pytest.mark.parametrize("directory", ["blobs", "elsewhere"])
@pytest.mark.parametrize("knows", [False, True])
async def test_a_server_with_another_database_sweeps_nothing_of_ours(
    replicated: Blobs, remote: RemoteBlobs, tmp_path: Path, put: Put, directory: str, *, knows: bool
) -> None:
    """An empty database, a typo in its URL, a bucket of two installations: whatever that server knows."""
    await replicated.claim(OURS, set())
    digests = {await put(replicated, seed) for seed in range(3)}
    other, known = Blobs(tmp_path / directory, remote=remote), digests if knows else set()
    await other.claim(THEIRS, known)
    assert await other.sweep(set(), known, -60) == []
    assert digests_in(tmp_path / "bucket") == digests
    for digest in digests:
        await replicated.verify(digest)


async def test_a_store_without_a_mark_is_ours_if_we_know_half_of_it(blobs: Blobs, put: Put) -> None:
    digests = {await put(blobs, seed) for seed in range(4)}
    shipped = {min(digests)}
    await blobs.claim(THEIRS, shipped)
    assert await blobs.sweep(set(), shipped, -60) == []
    await blobs.claim(OURS, digests)
    assert set(await blobs.sweep(set(), digests, -60)) == digests


async def test_a_database_that_has_forgotten_many_blobs_sweeps_none_of_them(blobs: Blobs, put: Put) -> None:
    """It was restored from a backup. What it has known and deleted is swept all the same."""
    await blobs.claim(OURS, set())
    forgotten = {await put(blobs, seed) for seed in range(FEW + 1)}
    deleted = await put(blobs, 99)
    assert await blobs.sweep(set(), {deleted}, -60) == [deleted]
    assert await blobs.sweep(set(), set(), -60) == []
    for digest in forgotten:
        await blobs.verify(digest)


@pytest.mark.parametrize("known_again", [True, False])
async def test_what_a_database_has_forgotten_stays_for_a_week(
    replicated: Blobs, put: Put, tmp_path: Path, process_clock: ProcessClock, *, known_again: bool
) -> None:
    """It was restored from a backup of yesterday: few are missing, and rolling it forward finds them."""
    digests = {await put(replicated, seed) for seed in range(20)}
    forgotten = set(sorted(digests)[:3])
    await replicated.claim(OURS, digests)
    for _ in range(3):
        assert await replicated.sweep(digests - forgotten, digests - forgotten, 3600) == []
        process_clock.advance(UNKNOWN_GRACE_S / 3)
    living = digests if known_again else digests - forgotten
    assert set(await replicated.sweep(living, living, 3600)) == digests - living
    assert digests_in(tmp_path / "bucket") == living


async def test_a_memory_store_serves_as_remote(root: Path, put: Put):
    blobs = Blobs(root, remote=RemoteBlobs("memory:///"))
    digest = await put(blobs)
    damage(await blobs.path(digest))
    await blobs.verify(digest)
