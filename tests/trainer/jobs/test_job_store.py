from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.postgres import on_both_databases
from tests.trainer.conftest import Create, Upload
from trainer.errors import FileInUse, InvalidField, JobNotFound
from trainer.jobs.job import Failure, Job
from trainer.jobs.state import JobState
from trainer.records import Records

pytestmark = on_both_databases

WHOLE = {
    "validation_file": None,
    "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": "auto"}}},
    "seed": 7,
    "suffix": "sql",
    "metadata": {"team": "data"},
    "integrations": [{"type": "wandb", "wandb": {"project": "p"}}],
    "extension": {"adapter": "sql", "rank": 16},
    "organization_id": "acme",
}


async def test_a_job_comes_back_as_it_was_asked_for(records: Records, create: Create, upload: Upload):
    asked = {**WHOLE, "validation_file": await upload()}
    job = await create(**asked)
    assert job == await records.jobs.get(job.id)
    assert {name: getattr(job, name) for name in asked} == asked
    assert job.hyperparameters == {"beta": 0.1, "n_epochs": "auto"}
    assert job.id.startswith("ftjob-")
    assert (job.state, job.token, job.result_files, job.error) == (JobState.VALIDATING_FILES, 0, (), None)


async def test_a_job_without_a_seed_gets_one_of_its_own(create: Create):
    assert (await create()).seed != (await create()).seed


async def test_admission_writes_down_what_auto_became(records: Records, create: Create):
    job = await create()
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    admitted = await records.jobs.admit(job.id, method, data={"tokens": 1000})
    assert admitted.hyperparameters == {"n_epochs": 3}
    event = (await records.events.list(job.id)).data[0]
    assert (event.message, event.data) == ("Files validated, moving job to queued state", {"tokens": 1000})


async def test_a_rejected_job_says_why_and_lists_every_fault(records: Records, create: Create):
    error = Failure("invalid_training_file", "2 of 10 lines are faulty", "training_file")
    job = await records.jobs.reject((await create()).id, error, data={"faults": [{"line": 3}, {"line": 7}]})
    assert (job.state, job.error) == (JobState.FAILED, error)
    event = (await records.events.list(job.id)).data[0]
    assert (event.level, event.data) == ("error", {"faults": [{"line": 3}, {"line": 7}]})
    assert error.message in event.message


async def test_jobs_that_a_crash_left_unchecked_are_found_again(records: Records, create: Create, enqueue: Create):
    left = [await create(), await create()]
    await enqueue()
    assert await records.jobs.unvalidated("checker") == left


async def test_the_versions_that_unfinished_jobs_train_further_are_known(records: Records, create: Create):
    ended = await create(extension={"warm_start": "sql@1"})
    await create(extension={"warm_start": "sql@2", "rank": 8})
    await create(extension={"rank": 8})
    await records.jobs.cancel(ended.id)
    assert await records.jobs.warm_starts() == {"sql@2"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "x" * 513}, "model"),
        ({"method": {}}, "method.type"),
        ({"method": {"type": 3}}, "method.type"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
    ],
)
async def test_a_job_that_may_not_be_so_is_refused_with_the_field(
    records: Records, create: Create, fields: dict[str, Any], param: str
):
    with pytest.raises(InvalidField) as refused:
        await create(**fields)
    assert refused.value.param == param
    assert (await records.jobs.list()).data == ()


async def test_a_job_takes_only_existing_files_for_fine_tuning(records: Records, create: Create, upload: Upload):
    other, deleted = await upload(purpose="batch"), await upload()
    await records.files.delete(deleted)
    for file_id, words in ((other, "purpose 'batch'"), (deleted, "does not exist")):
        with pytest.raises(InvalidField, match=words):
            await create(training_file=file_id)


async def test_a_file_is_deleted_or_has_a_job_but_never_both(records: Records, create: Create, upload: Upload):
    for _ in range(10):
        file_id = await upload()
        made, deleted = await asyncio.gather(
            create(training_file=file_id), records.files.delete(file_id), return_exceptions=True
        )
        assert (isinstance(made, Job), deleted is None) in {(True, False), (False, True)}
        assert isinstance(made, Job | InvalidField)
        assert deleted is None or isinstance(deleted, FileInUse)


async def test_lists_page_newest_first(records: Records, create: Create):
    ids = [(await create()).id for _ in range(5)]
    first = await records.jobs.list(limit=2)
    assert ([job.id for job in first.data], first.has_more) == ([ids[4], ids[3]], True)
    last = await records.jobs.list(limit=3, after=ids[3])
    assert ([job.id for job in last.data], last.has_more) == ([ids[2], ids[1], ids[0]], False)
    with pytest.raises(InvalidField):
        await records.jobs.list(after="ftjob-none")


async def test_lists_are_filtered_by_metadata(records: Records, create: Create):
    odd = {'a "key" with .dots[0] and $': "and 'a' \\value%", "empty": ""}
    bare, one, both = await create(), await create(metadata={"team": "a"}), await create(metadata={"team": "a", **odd})

    async def found(metadata: dict[str, str] | None) -> list[str]:
        return [job.id for job in (await records.jobs.list(metadata=metadata)).data]

    assert await found({"team": "a"}) == [both.id, one.id]
    assert await found({"team": "a", **odd}) == [both.id]
    assert await found({"empty": ""}) == [both.id]
    assert await found({"team": "b"}) == await found({"a": "team"}) == []
    assert await found(None) == [bare.id]
    assert await found({}) == [both.id, one.id, bare.id]


async def test_a_job_that_never_was_is_said_to_be_missing(records: Records):
    for asked in (
        records.jobs.get("ftjob-none"),
        records.jobs.cancel("ftjob-none"),
        records.jobs.admit("ftjob-none", {}),
        records.events.list("ftjob-none"),
        records.checkpoints.list("ftjob-none"),
    ):
        with pytest.raises(JobNotFound, match="ftjob-none"):
            await asked


async def test_one_of_many_who_cancel_at_once_does(records: Records, enqueue: Create):
    job = await enqueue()
    done = await asyncio.gather(*(records.jobs.cancel(job.id) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Job) for result in done) == 1
    cancelled = [event for event in (await records.events.list(job.id)).data if "cancelled" in event.message]
    assert len(cancelled) == 1


async def test_a_method_that_states_no_hyperparameters_has_none(create: Create):
    assert (await create(method={"type": "kto"})).hyperparameters == {}
