from __future__ import annotations

import math

import pytest

from tests.postgres import on_both_databases
from tests.trainer.conftest import Create
from trainer.errors import CheckpointNotFound, InvalidField, PermissionNotFound
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.queue import Claim
from trainer.records import Records

pytestmark = on_both_databases

MODEL = "ft:base:acme:sql:abc:ckpt-step-1"


@pytest.fixture
async def claim(records: Records, enqueue: Create) -> Claim:
    await enqueue()
    taken = await records.queue.take("one", 60)
    assert taken is not None
    await records.queue.record(taken, checkpoints=[CheckpointDraft(1, MODEL, {"step": 1, "train_loss": math.nan})])
    return taken


async def test_checkpoints_come_back_newest_first(records: Records, claim: Claim):
    drafts = [CheckpointDraft(step, f"m:ckpt-step-{step}", {"train_loss": 1 / step}) for step in (2, 3)]
    await records.queue.record(claim, checkpoints=drafts)
    first = await records.checkpoints.list(claim.job.id, limit=2)
    assert [(found.step_number, found.model, found.metrics) for found in first.data] == [
        (3, "m:ckpt-step-3", {"train_loss": 1 / 3}),
        (2, "m:ckpt-step-2", {"train_loss": 1 / 2}),
    ]
    assert first.has_more
    rest = await records.checkpoints.list(claim.job.id, after=first.data[-1].id)
    assert ([found.metrics for found in rest.data], rest.has_more) == ([{"step": 1, "train_loss": None}], False)
    assert rest.data[0].id.startswith("ftckpt_")
    assert rest.data[0].job_id == claim.job.id


async def test_an_attempt_that_comes_by_a_step_again_changes_nothing(records: Records, claim: Claim):
    before = (await records.checkpoints.list(claim.job.id)).data, (await records.events.list(claim.job.id)).data
    await records.queue.record(claim, checkpoints=[CheckpointDraft(1, "other", {})])
    assert before == (
        (await records.checkpoints.list(claim.job.id)).data,
        (await records.events.list(claim.job.id)).data,
    )


async def test_a_checkpoint_is_told_of_in_the_events(records: Records, claim: Claim):
    event = (await records.events.list(claim.job.id)).data[0]
    assert event.message == "Checkpoint created at step 1"
    assert event.data == {"step": 1, "fine_tuned_model_checkpoint": MODEL}


async def test_permissions_are_given_listed_and_taken_back(records: Records, claim: Claim):
    a, b, c = await records.checkpoints.permit(MODEL, ["a", "b", "c"])
    first = await records.checkpoints.permissions(MODEL, limit=2)
    assert (first.data, first.has_more) == ((c, b), True)
    assert (await records.checkpoints.permissions(MODEL, after=b.id)).data == (a,)
    assert (await records.checkpoints.permissions(MODEL, newest_first=False)).data == (a, b, c)
    assert (await records.checkpoints.permissions(MODEL, project_id="b")).data == (b,)
    await records.checkpoints.forbid(MODEL, b.id)
    assert (await records.checkpoints.permissions(MODEL)).data == (c, a)


async def test_a_project_has_one_permission_however_often_it_is_given(records: Records, claim: Claim):
    permissions = await records.checkpoints.permit(MODEL, ["a"])
    assert await records.checkpoints.permit(MODEL, ["a"]) == permissions


async def test_only_what_is_there_is_permitted_and_forbidden(records: Records, claim: Claim):
    (permission,) = await records.checkpoints.permit(MODEL, ["a"])
    with pytest.raises(CheckpointNotFound):
        await records.checkpoints.permit("other", ["a"])
    with pytest.raises(CheckpointNotFound):
        await records.checkpoints.permissions("other")
    for model, permission_id in ((MODEL, "cp_none"), ("other", permission.id)):
        with pytest.raises(PermissionNotFound):
            await records.checkpoints.forbid(model, permission_id)
    for project_id in ("", "x" * 129):
        with pytest.raises(InvalidField):
            await records.checkpoints.permit(MODEL, [project_id])
