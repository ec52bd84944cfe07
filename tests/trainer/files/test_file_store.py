from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import on_both_databases
from tests.process_clock import ProcessClock
from tests.trainer.conftest import ClockAhead, Create, Upload
from trainer.errors import FileCorrupt, FileInUse, FileNotFound, FileTooLarge, InvalidField
from trainer.files.file import UPLOADABLE, Purpose
from trainer.files.file_store import EXPIRY_S, MAX_FILENAME_LENGTH
from trainer.jobs.job import Failure
from trainer.records import Records

DAY_S = 24 * 3600


def stored(data_dir: Path) -> set[str]:
    return {path.name for path in (data_dir / "files").glob("*")}


async def test_a_file_comes_back_as_it_was_sent(records: Records, upload: Upload):
    pieces = [b"a" * 700_000, b"", b"b" * 700_000, b"c"]
    file = await records.files.get(await upload(*pieces, filename="Zug №1.jsonl"))
    assert (file.filename, file.purpose) == ("Zug №1.jsonl", Purpose.FINE_TUNE)
    assert (await records.files.content(file.id)).read_bytes() == b"".join(pieces)
    assert (file.size_bytes, file.sha256) == (1_400_001, hashlib.sha256(b"".join(pieces)).hexdigest())
    assert file.id.startswith("file-")
    assert file.expires_at is None


async def test_bytes_are_kept_for_their_owner_alone(records: Records, upload: Upload):
    assert (await records.files.content(await upload())).stat().st_mode & 0o777 == 0o600


async def test_a_file_above_the_limit_is_refused_and_leaves_nothing(upload: Upload, data_dir: Path):
    with pytest.raises(FileTooLarge, match="4000000 bytes"):
        await upload(*[b"x" * 1_000_000] * 4, b"x")
    assert stored(data_dir) == set()
    assert await upload(*[b"x" * 1_000_000] * 4)


async def test_an_upload_that_breaks_off_leaves_nothing(records: Records, data_dir: Path):
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await records.files.create("fine-tune", "train.jsonl", broken())
    assert stored(data_dir) == set()
    assert (await records.files.list()).data == ()


async def test_an_upload_that_is_cancelled_leaves_nothing(records: Records, data_dir: Path):
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(records.files.create("fine-tune", "train.jsonl", endless()))
    await waiting.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert stored(data_dir) == set()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"filename": ""}, "file"),
        ({"filename": " "}, "file"),
        ({"filename": "a\nb"}, "file"),
        ({"filename": "x" * (MAX_FILENAME_LENGTH + 1)}, "file"),
        ({"expires_after_s": EXPIRY_S[0] - 1}, "expires_after.seconds"),
        ({"expires_after_s": EXPIRY_S[-1] + 1}, "expires_after.seconds"),
    ],
)
async def test_a_file_that_may_not_be_so_is_refused_with_the_field(
    upload: Upload, data_dir: Path, fields: dict[str, Any], param: str
):
    with pytest.raises(InvalidField) as refused:
        await upload(**fields)
    assert refused.value.param == param
    assert stored(data_dir) == set()


async def test_a_name_with_a_path_in_it_is_only_a_name(upload: Upload, data_dir: Path):
    file_id = await upload(filename="../../etc/passwd")
    assert stored(data_dir) == {file_id}


def test_results_are_not_for_uploading():
    assert {str(purpose) for purpose in UPLOADABLE} == {
        "assistants",
        "batch",
        "evals",
        "fine-tune",
        "user_data",
        "vision",
    }


@on_both_databases
async def test_lists_page_in_both_directions(records: Records, upload: Upload):
    ids = [await upload() for _ in range(5)]
    first = await records.files.list(limit=2)
    assert ([file.id for file in first.data], first.has_more) == ([ids[4], ids[3]], True)
    last = await records.files.list(limit=3, after=ids[3])
    assert ([file.id for file in last.data], last.has_more) == ([ids[2], ids[1], ids[0]], False)
    upward = await records.files.list(newest_first=False, after=ids[1], limit=2)
    assert ([file.id for file in upward.data], upward.has_more) == ([ids[2], ids[3]], True)


async def test_a_page_goes_on_after_a_file_that_was_deleted_meanwhile(records: Records, upload: Upload):
    ids = [await upload() for _ in range(3)]
    await records.files.delete(ids[1])
    assert [file.id for file in (await records.files.list(after=ids[1])).data] == [ids[0]]
    assert [file.id for file in (await records.files.list()).data] == [ids[2], ids[0]]


async def test_a_list_can_be_of_one_purpose(records: Records, upload: Upload):
    wanted = await upload(purpose="batch")
    await upload()
    assert [file.id for file in (await records.files.list(purpose="batch")).data] == [wanted]
    assert (await records.files.list(purpose="vision")).data == ()


@pytest.mark.parametrize(("page", "param"), [({"after": "file-x"}, "after"), ({"limit": 0}, "limit")])
async def test_a_page_that_cannot_be_is_refused(records: Records, page: dict[str, Any], param: str):
    with pytest.raises(InvalidField) as refused:
        await records.files.list(**page)
    assert refused.value.param == param


async def test_a_deleted_file_is_gone_with_its_bytes(records: Records, upload: Upload, data_dir: Path):
    file_id = await upload()
    with (await records.files.content(file_id)).open("rb") as reading:
        await records.files.delete(file_id)
        assert reading.read() == b"{}\n"
    assert stored(data_dir) == set()
    for method in (records.files.get, records.files.content, records.files.delete):
        with pytest.raises(FileNotFound, match=file_id):
            await method(file_id)


@on_both_databases
@pytest.mark.parametrize("field", ["training_file", "validation_file"])
async def test_a_file_stays_until_the_last_job_that_needs_it_has_ended(
    records: Records, upload: Upload, create: Create, field: str
):
    file_id = await upload()
    one, two = await create(**{field: file_id}), await create(**{field: file_id})
    with pytest.raises(FileInUse):
        await records.files.delete(file_id)
    await records.jobs.reject(one.id, Failure("bad", "bad"))
    with pytest.raises(FileInUse, match=two.id):
        await records.files.delete(file_id)
    await records.jobs.cancel(two.id)
    await records.files.delete(file_id)
    assert getattr(await records.jobs.get(one.id), field) == file_id


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
async def test_bytes_that_are_gone_are_not_taken_for_an_empty_file(
    records: Records, upload: Upload, harm: Callable[[Path], None]
):
    file_id = await upload()
    harm(await records.files.content(file_id))
    with pytest.raises(FileCorrupt, match=f"{file_id}.*another server's --data-dir"):
        await records.files.content(file_id)


@on_both_databases
async def test_files_expire_when_they_were_told_to(records: Records, upload: Upload, clock: ClockAhead, data_dir: Path):
    kept, soon, late = await upload(), await upload(expires_after_s=3600), await upload(expires_after_s=7200)
    assert (await records.files.get(soon)).expires_at == (await records.files.get(soon)).created_at + timedelta(hours=1)
    assert await records.files.sweep(DAY_S) == []
    clock.advance(3600)
    assert await records.files.sweep(DAY_S) == [soon]
    assert stored(data_dir) == {kept, late}
    clock.advance(3600)
    assert await records.files.sweep(DAY_S) == [late]
    assert [file.id for file in (await records.files.list()).data] == [kept]


async def test_a_batch_file_expires_after_thirty_days(records: Records, upload: Upload):
    file = await records.files.get(await upload(purpose="batch"))
    assert file.expires_at == file.created_at + timedelta(days=30)


async def test_an_expired_file_stays_while_a_job_needs_it(
    records: Records, upload: Upload, create: Create, clock: ClockAhead
):
    file_id = await upload(expires_after_s=3600)
    job = await create(training_file=file_id)
    clock.advance(3601)
    assert await records.files.sweep(DAY_S) == []
    assert (await records.files.content(file_id)).exists()
    await records.jobs.cancel(job.id)
    assert await records.files.sweep(DAY_S) == [file_id]


async def test_bytes_that_a_crash_left_without_a_row_are_swept_when_they_are_old(
    records: Records, upload: Upload, data_dir: Path, process_clock: ProcessClock
):
    kept = await upload()
    for name in ("file-written", "file-old"):
        (data_dir / "files" / name).write_bytes(b"half")
        os.utime(data_dir / "files" / name, (0, 0))  # as after a jump of the clock
    assert await records.files.sweep(DAY_S) == []
    process_clock.advance(DAY_S)
    (data_dir / "files" / "file-written").write_bytes(b"whole")
    assert await records.files.sweep(DAY_S) == ["file-old"]
    assert stored(data_dir) == {kept, "file-written"}


async def test_a_sweep_before_the_first_upload_finds_nothing(records: Records):
    assert await records.files.sweep(DAY_S) == []
