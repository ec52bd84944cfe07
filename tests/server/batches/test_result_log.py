"""Results on disk: in the input's order, once each, whatever a crash left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.batches.result_log import ResultLog


async def contents(log: ResultLog, *, failed: bool) -> bytes:
    return b"".join([piece async for piece in log.results(failed=failed)])


async def test_results_are_read_in_the_input_s_order_failures_apart(tmp_path: Path) -> None:
    log = await ResultLog.open(tmp_path, 1)
    order = [*range(0, 1000, 2), *range(999, 0, -2)]
    await asyncio.gather(*(log.append(n, b'{"n": %d}' % n, is_failed=n % 10 == 3) for n in order))
    right = [b'{"n": %d}\n' % n for n in range(1000)]
    assert await contents(log, failed=False) == b"".join(row for n, row in enumerate(right) if n % 10 != 3)
    assert await contents(log, failed=True) == b"".join(right[3::10])
    assert (log.completed, log.failed) == (900, 100)


async def test_a_later_claim_finds_the_results_and_appends_its_own(tmp_path: Path) -> None:
    first = await ResultLog.open(tmp_path, 1)
    await first.append(0, b"zero of the first", is_failed=False)
    second = await ResultLog.open(tmp_path, 2)
    assert 0 in second
    assert 1 not in second
    await first.append(1, b"late: the first has lost its lease", is_failed=True)
    await second.append(1, b"one of the second", is_failed=False)
    assert await contents(second, failed=False) == b"zero of the first\none of the second\n"
    third = await ResultLog.open(tmp_path, 3)
    assert third.completed + third.failed == 2


@pytest.mark.parametrize("left", [b"2", b"2 0 {", b"2 0 {}", b"\0" * 20, b"\0\0\n", b"x y z\n"])
async def test_what_a_crash_cut_off_does_not_count(tmp_path: Path, left: bytes) -> None:
    log = await ResultLog.open(tmp_path, 1)
    await log.append(1, b"{}", is_failed=False)
    with log.path.open("ab") as file:
        file.write(left)
    again = await ResultLog.open(tmp_path, 2)
    assert sorted(again.places) == [1]
    await again.append(2, b"[]", is_failed=False)
    assert await contents(await ResultLog.open(tmp_path, 3), failed=False) == b"{}\n[]\n"
