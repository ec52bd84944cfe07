from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.errors import AdapterRefused, SourceTooLarge, StorageFull
from adapters.storage.disk import BUFFER_BYTES, space_needed
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.storage.staging import Staging


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_files_are_hashed_while_they_are_written(staging: Staging):
    async with staging.open() as staged:
        entry = await staged.write(WEIGHTS_FILE, chunks(b"ab", b"", b"c"))
        await staged.write(CONFIG_FILE, chunks())

        assert (staged.path / WEIGHTS_FILE).read_bytes() == b"abc"
        assert (entry.sha256, entry.size) == (hashlib.sha256(b"abc").hexdigest(), 3)
        assert staged.manifest() == Manifest.of(staged.path)


async def test_a_file_longer_than_the_buffer_arrives_whole(tmp_path: Path):
    content = os.urandom(3 * BUFFER_BYTES + 7)
    pieces = [content[start : start + 70_001] for start in range(0, len(content), 70_001)]
    async with Staging(tmp_path, max_bytes=len(content)).open() as staged:
        await staged.write(WEIGHTS_FILE, chunks(*pieces))
        assert (staged.path / WEIGHTS_FILE).read_bytes() == content


async def test_the_directory_is_gone_afterwards(staging: Staging):
    async def give_up() -> None:
        async with staging.open() as staged:
            await staged.write(CONFIG_FILE, chunks(b"{}"))
            raise RuntimeError("given up")

    with pytest.raises(RuntimeError, match="given up"):
        await give_up()
    assert list(staging.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["adapter_model.bin", "../adapter_config.json", "/etc/passwd", ""])
async def test_other_files_are_refused(staging: Staging, name: str):
    async with staging.open() as staged:
        with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors"):
            await staged.write(name, chunks(b"x"))
        assert list(staged.path.iterdir()) == []


async def test_a_file_sent_twice_is_refused(staging: Staging):
    async with staging.open() as staged:
        await staged.write(CONFIG_FILE, chunks(b"1"))
        with pytest.raises(AdapterRefused, match="two files of that name"):
            await staged.write(CONFIG_FILE, chunks(b"2"))


async def test_a_missing_file_is_named(staging: Staging):
    async with staging.open() as staged:
        await staged.write(CONFIG_FILE, chunks(b"{}"))
        with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors: found nothing"):
            staged.manifest()


async def test_more_bytes_than_accepted_stop_early(tmp_path: Path):
    drawn = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal drawn
        while True:
            drawn += 1
            yield b"x" * 100

    async with Staging(tmp_path, max_bytes=1000).open() as staged:
        with pytest.raises(SourceTooLarge, match="1000 bytes"):
            await staged.write(WEIGHTS_FILE, endless())
    assert drawn == 11


async def test_a_cancelled_write_leaves_nothing(staging: Staging):
    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x"
        arrived.set()
        await asyncio.Event().wait()

    async def upload() -> None:
        async with staging.open() as staged:
            await staged.write(WEIGHTS_FILE, stalled())

    uploading = asyncio.create_task(upload())
    await arrived.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert list(staging.directory.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_is_called_storage_full(tmp_path: Path, number: int):
    with pytest.raises(StorageFull, match="free some space"), space_needed(tmp_path):
        raise OSError(number, os.strerror(number))


async def test_uploads_leave_space_for_the_database(tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch):
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr("adapters.storage.disk.RESERVE_BYTES", disk.f_blocks * disk.f_frsize + 1)
    with pytest.raises(StorageFull, match="free some space"):
        async with staging.open() as staged:
            await staged.write(WEIGHTS_FILE, chunks(b"abc"))
    assert list(staging.directory.iterdir()) == []


def test_other_trouble_with_the_disk_keeps_its_name(tmp_path: Path):
    with pytest.raises(PermissionError), space_needed(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path):
    """A real write that fails: the process may not grow a file beyond 4096 bytes."""
    code = f"""
import asyncio, resource, signal
from pathlib import Path
from adapters.errors import StorageFull
from adapters.storage.staging import Staging
async def chunks():
    yield b"x" * 10_000
async def main():
    staging = Staging(Path({str(tmp_path)!r}), max_bytes=1_000_000)
    try:
        async with staging.open() as staged:
            await staged.write("adapter_config.json", chunks())
    except StorageFull:
        print("full", list(staging.directory.iterdir()))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],  # -B: bytecode cut at 4096 bytes would stay in the caches
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "full []\n"
