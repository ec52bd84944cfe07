"""PEFT beside the server: a real process on the embedded base."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import embedded
from adapters.errors import AdapterRefused
from server.probe.reference import NoReference, PeftReference, fits
from tests.until import Until

PROMPTS = [[5, 17, 300, 41], [9, 8, 7], [1000, 2000]]


def reference_of(base: Path, **options: Any) -> PeftReference:
    async def where() -> Path:
        return base

    return PeftReference(where, **{"threads": 1, "must_fit": True, **options})


@pytest.fixture(scope="module")
async def reference() -> AsyncIterator[PeftReference]:
    reference = reference_of(embedded.BASE)
    yield reference
    await reference.aclose()


async def test_base_and_adapter_are_scored_token_by_token(reference: PeftReference) -> None:
    opinion = await reference.of(embedded.ADAPTERS / "sql", PROMPTS)
    for scores in (opinion.base, opinion.adapter):
        assert [len(each) for each in scores] == [3, 2, 1]
        assert all(score < 0 for each in scores for score in each)
    assert opinion.adapter != opinion.base


async def test_one_adapter_leaves_nothing_for_the_next(reference: PeftReference) -> None:
    first = await reference.of(embedded.ADAPTERS / "sql", PROMPTS)
    other = await reference.of(embedded.ADAPTERS / "pirate", PROMPTS)
    assert other.base == first.base
    assert other.adapter != first.adapter
    assert await reference.of(embedded.ADAPTERS / "sql", PROMPTS) == first
    shorter = await reference.of(embedded.ADAPTERS / "sql", PROMPTS[1:])
    assert [len(each) for each in shorter.base] == [2, 1]


async def test_what_peft_does_not_load_is_refused_in_its_words(reference: PeftReference, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(embedded.ADAPTERS / "sql", tmp_path / "broken"))
    config = broken / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
    with pytest.raises(AdapterRefused, match="PEFT does not load: RuntimeError"):
        await reference.of(broken, PROMPTS)
    assert (await reference.of(embedded.ADAPTERS / "sql", PROMPTS)).adapter


async def test_an_idle_process_ends_and_the_next_question_starts_another(until: Until) -> None:
    reference = reference_of(embedded.BASE, idle_s=0.0)
    first = await reference.of(embedded.ADAPTERS / "sql", PROMPTS)
    await until(lambda: reference.process_id is None)
    assert await reference.of(embedded.ADAPTERS / "sql", PROMPTS) == first
    await reference.aclose()


async def test_a_process_that_was_killed_is_missed_once(until: Until) -> None:
    reference = reference_of(embedded.BASE)
    asking = asyncio.ensure_future(reference.of(embedded.ADAPTERS / "sql", PROMPTS))
    await until(lambda: reference.process_id is not None)
    os.kill(reference.process_id or 0, 9)
    with pytest.raises(NoReference, match="status -9"):
        await asking
    assert (await reference.of(embedded.ADAPTERS / "sql", PROMPTS)).adapter
    await reference.aclose()


async def test_a_base_that_cannot_be_held_is_left_alone(tmp_path: Path) -> None:
    assert fits(embedded.BASE)
    assert not fits(tmp_path)
    reference = reference_of(tmp_path)
    with pytest.raises(NoReference, match="PATCHBAY_PROBE_REFERENCE=on"):
        await reference.of(embedded.ADAPTERS / "sql", PROMPTS)
    with pytest.raises(NoReference, match="ended with status 1"):
        await reference_of(tmp_path, must_fit=False).of(embedded.ADAPTERS / "sql", PROMPTS)


KILLED = """
import asyncio, os, sys
from pathlib import Path
from server.probe.reference import PeftReference

async def where():
    return Path(sys.argv[1])

async def main():
    reference = PeftReference(where, threads=1, must_fit=True)
    await reference.of(Path(sys.argv[2]), [[1, 2, 3]])
    print(reference.process_id, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_the_process_dies_with_a_server_that_is_killed(until: Until) -> None:
    arguments = [sys.executable, "-c", KILLED, str(embedded.BASE), str(embedded.ADAPTERS / "sql")]
    server = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    process_id, _ = await server.communicate()
    assert server.returncode == -9
    await until(lambda: not is_running(int(process_id)))


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
