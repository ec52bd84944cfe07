from __future__ import annotations

import asyncio
import math
from contextlib import AbstractAsyncContextManager, aclosing

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from tests.postgres import on_both_databases
from tests.trainer.conftest import Create
from tests.until import until
from trainer.errors import InvalidField, JobNotFound
from trainer.jobs.event_feed import BATCH
from trainer.jobs.events import Event, EventDraft, Kind, Level
from trainer.jobs.queue import Claim
from trainer.records import Records

pytestmark = on_both_databases


@pytest.fixture
async def claim(records: Records, enqueue: Create) -> Claim:
    await enqueue()
    taken = await records.queue.take("one", 60)
    assert taken is not None
    return taken


async def followed(records: Records, job_id: str, after: str | None = None) -> list[Event]:
    records.events.poll_s = 0.01
    return [event async for event in records.events.follow(job_id, after=after) if event is not None]


async def test_events_come_back_as_they_were_written(records: Records, claim: Claim):
    draft = EventDraft("Step 3/10", Level.WARN, Kind.METRICS, {"step": 3, "train_loss": 0.5, "nested": {"a": [1]}})
    await records.queue.record(claim, events=[draft])
    event = (await records.events.list(claim.job.id)).data[0]
    assert (event.message, event.level, event.type, event.data) == (draft.message, draft.level, draft.type, draft.data)
    assert event.id.startswith("ftevent-")


async def test_numbers_that_are_not_finite_become_null(records: Records, claim: Claim):
    await records.queue.record(claim, events=[EventDraft("?", data={"a": math.nan, "b": -math.inf, "c": 1.5, "d": 2})])
    assert (await records.events.list(claim.job.id)).data[0].data == {"a": None, "b": None, "c": 1.5, "d": 2}


async def test_lists_page_newest_first(records: Records, claim: Claim):
    await records.queue.record(claim, events=[EventDraft(str(i)) for i in range(5)])
    first = await records.events.list(claim.job.id, limit=2)
    assert ([event.message for event in first.data], first.has_more) == (["4", "3"], True)
    second = await records.events.list(claim.job.id, limit=3, after=first.data[-1].id)
    assert ([event.message for event in second.data], second.has_more) == (["2", "1", "0"], True)
    rest = await records.events.list(claim.job.id, after=second.data[-1].id)
    assert ([event.message for event in rest.data][-1], rest.has_more) == (
        f"Created fine-tuning job: {claim.job.id}",
        False,
    )


async def test_each_job_has_its_own_events(records: Records, claim: Claim, create: Create):
    other = await create()
    assert all(other.id not in event.message for event in (await records.events.list(claim.job.id)).data)


async def test_following_yields_every_event_once_while_they_come_and_ends_with_the_job(records: Records, claim: Claim):
    async def work() -> None:
        for i in range(20):
            await records.queue.record(claim, events=[EventDraft(f"{i}.{j}") for j in range(i % 3 + 1)])
        await records.queue.succeed(claim, fine_tuned_model="m", trained_tokens=1)

    working = asyncio.create_task(work())
    found = await followed(records, claim.job.id)
    await working
    everything = (await records.events.list(claim.job.id, limit=1000)).data
    assert found == list(reversed(everything))
    assert found[-1].message == "The job has successfully completed"


async def test_following_goes_on_where_a_caller_left_off(records: Records, claim: Claim):
    await records.queue.record(claim, events=[EventDraft(str(i)) for i in range(4)])
    await records.jobs.cancel(claim.job.id)
    everything = await followed(records, claim.job.id)
    assert await followed(records, claim.job.id, after=everything[2].id) == everything[3:]
    assert await followed(records, claim.job.id, after=everything[-1].id) == []


async def test_following_gets_through_more_events_than_one_reading_takes(records: Records, claim: Claim):
    await records.queue.record(claim, events=[EventDraft(str(i)) for i in range(1100)])
    await records.jobs.cancel(claim.job.id)
    assert len(await followed(records, claim.job.id)) == 1100 + 5


@pytest.fixture
def readers(database: Database, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the tasks that have read the database."""
    names: set[str] = set()
    read = database.read

    def counted() -> AbstractAsyncContextManager[AsyncConnection]:
        task = asyncio.current_task()
        assert task is not None
        names.add(task.get_name())
        return read()

    monkeypatch.setattr(database, "read", counted)
    return names


async def test_one_reader_of_the_database_serves_all_who_follow_a_job(
    records: Records, claim: Claim, readers: set[str]
):
    records.events.poll_s = 0.01
    found: list[list[Event | None]] = [[] for _ in range(20)]

    async def follow(to: list[Event | None]) -> None:
        async for event in records.events.follow(claim.job.id):
            to.append(event)  # noqa: PERF401 - seen while it grows

    async with asyncio.TaskGroup() as following:
        for to in found:
            following.create_task(follow(to))
        await until(lambda: len({len(to) for to in found}) == 1 and found[0])
        await records.queue.record(claim, events=[EventDraft("joined")])
        await until(lambda: all(to[-1].message == "joined" for to in found if to[-1] is not None))
        readers.clear()
        await records.queue.record(claim, events=[EventDraft(str(i)) for i in range(3)])
        await until(lambda: all(to[-1].message == "2" for to in found if to[-1] is not None))
        assert readers == {f"events of {claim.job.id}"}
        await records.jobs.cancel(claim.job.id)
    everything = list(reversed((await records.events.list(claim.job.id, limit=100)).data))
    assert all(to == everything for to in found)


async def test_nobody_reads_the_events_of_a_job_that_nobody_follows_any_more(records: Records, claim: Claim):
    def reading() -> bool:
        return f"events of {claim.job.id}" in {task.get_name() for task in asyncio.all_tasks()}

    async with aclosing(records.events.follow(claim.job.id, silence_s=0)) as one:
        while await anext(one) is not None:
            pass
        async with aclosing(records.events.follow(claim.job.id, silence_s=0)) as other:
            while await anext(other) is not None:
                pass
        await asyncio.sleep(0)
        assert reading()
    await until(lambda: not reading())


async def test_who_comes_later_or_reads_slowly_misses_nothing(records: Records, claim: Claim):
    records.events.poll_s = 0.01
    async with aclosing(records.events.follow(claim.job.id, silence_s=0)) as slow:
        while await anext(slow) is not None:
            pass
        await records.queue.record(claim, events=[EventDraft(str(i)) for i in range(BATCH + 100)])
        later = asyncio.create_task(followed(records, claim.job.id))
        await records.jobs.cancel(claim.job.id)
        found = [event async for event in slow if event is not None]
        everything = await later
    assert [event.message for event in found] == [*map(str, range(BATCH + 100)), "Fine-tuning job cancelled"]
    assert everything[-len(found) :] == found


async def test_a_log_that_is_closed_ends_what_is_followed(records: Records, claim: Claim):
    following = asyncio.create_task(followed(records, claim.job.id))
    await until(lambda: any(task.get_name().startswith("events of") for task in asyncio.all_tasks()))
    records.events.close()
    assert (await following)[0].message.startswith("Created")
    assert await followed(records, claim.job.id) == []


async def test_following_goes_on_after_an_outage_of_the_database(
    records: Records, claim: Claim, database: Database, monkeypatch: pytest.MonkeyPatch
):
    following = asyncio.create_task(followed(records, claim.job.id))
    await until(lambda: any(task.get_name().startswith("events of") for task in asyncio.all_tasks()))
    outage = asyncio.Event()

    def away() -> AbstractAsyncContextManager[AsyncConnection]:
        outage.set()
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(database, "read", away)
        await records.jobs.cancel(claim.job.id)
        await outage.wait()
    assert (await following)[-1].message == "Fine-tuning job cancelled"


async def test_a_page_does_not_begin_at_another_jobs_event(records: Records, claim: Claim, enqueue: Create):
    other = (await enqueue()).id
    foreign = (await records.events.list(other)).data[0].id
    with pytest.raises(InvalidField):
        await records.events.list(claim.job.id, after=foreign)
    with pytest.raises(InvalidField):
        await followed(records, claim.job.id, after=foreign)


async def test_following_what_is_not_there_is_refused(records: Records, claim: Claim):
    with pytest.raises(JobNotFound):
        await followed(records, "ftjob-none")
    with pytest.raises(InvalidField):
        await followed(records, claim.job.id, after="ftevent-none")
