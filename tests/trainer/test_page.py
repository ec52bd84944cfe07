"""Pages of lists whose rows may be long: they end early, and lose nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.postgres import on_both_databases
from trainer import page
from trainer.feedback.feedback import FeedbackDraft, FeedbackKind, RatedAnswer
from trainer.records import Records


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_PAGE_CHARACTERS", 2_000)


async def stored(records: Records, *lengths: int) -> list[str]:
    """Store feedback with prompts of so many characters; return the ids."""
    answer = RatedAnswer("chatcmpl-1", 0, "sql@1", {"role": "assistant", "content": "a"})
    ids = []
    for length in lengths:
        prompt: list[dict[str, Any]] = [{"role": "user", "content": "x" * length}]
        draft = FeedbackDraft("default", FeedbackKind.RATING, prompt, [], [answer], rating="up")
        ids.append((await records.feedback.add(draft, limit=100)).id)
    return ids


@on_both_databases
async def test_a_page_of_long_rows_ends_early_and_the_next_one_goes_on(records: Records) -> None:
    ids = await stored(records, 10, 10, 5_000, 10, 900, 900)
    pages: list[list[str]] = []
    after = None
    while True:
        found = await records.feedback.list(after=after, limit=4, newest_first=False)
        pages.append([each.id for each in found.data])
        if not found.has_more:
            break
        after = found.data[-1].id
    assert [each for listed in pages for each in listed] == ids
    assert pages == [ids[:2], ids[2:3], ids[3:5], ids[5:]]
    newest = await records.feedback.list(limit=10)
    assert ([each.id for each in newest.data], newest.has_more) == ([ids[5]], True)


async def test_an_export_reads_all_rows_however_long(records: Records) -> None:
    ids = await stored(records, 5_000, 10, 5_000, 10)
    assert [each.id async for each in records.feedback.since(None, "default")] == ids
