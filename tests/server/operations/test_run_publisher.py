"""What a run exported becomes versions, however often and by whomever that is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from adapters.names import FineTunedName
from adapters.versions import Version
from server.operations.other_renderers import warn_of_other_renderers
from server.operations.run_publisher import RunPublisher
from tests.server.opened import Opened
from trainer.errors import IllegalTransition, LeaseLost
from trainer.jobs.job import Job, JobDraft
from trainer.jobs.state import JobState
from trainer.run_directory import COMPLETE, Marker, RunDirectory, RunResult
from trainer.schema import jobs

METHOD = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
CURVES = {"train_loss": [[1, 2.0], [6, 0.5]]}


@pytest.fixture
async def ran(opened: Opened) -> Job:
    """A job whose run left checkpoints at steps 3 and 6, the better one first."""
    state = opened.state

    async def rows() -> AsyncIterator[bytes]:
        yield b"{}\n"

    file = await state.records.files.create("fine-tune", "train.jsonl", rows())
    job = await state.records.jobs.create(
        JobDraft("base", file.id, METHOD, seed=7, extension={"adapter": "sql", "rank": 8})
    )
    run = RunDirectory(state.settings.runs_dir / job.id)
    run.path.mkdir(parents=True)
    run.write_preflight({"hyperparameters": {"n_epochs": 1, "steps": 6}, "renderer_sha256": "ab"})
    for seed, step in ((1, 3), (2, 6)):
        path = run.checkpoint_path(step)
        opened.make_adapter(seed).write(path / "adapter")
        marker = Marker(step, {"step": step, "train_loss": 1 / step}, 100 * step, 1.5 * step, last=step == 6)
        (path / COMPLETE).write_text(json.dumps(asdict(marker)))
    run.write_result(
        RunResult("step-3", "step-6", 6, 600, 9.0, 1 << 20, "ab", {"n_epochs": 1}, {"train_loss": 0.1}, CURVES)
    )
    return job


@pytest.fixture
def publisher(opened: Opened) -> RunPublisher:
    return RunPublisher(opened.state, opened.deferred)


def name(job: Job, step: int | None = None) -> str:
    return str(FineTunedName.of("base", "patchbay", "sql", job.id.removeprefix("ftjob-"), step))


async def test_a_checkpoint_can_be_chatted_with_at_once_and_moves_no_alias(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    assert await publisher.checkpoint(ran.id, 3) == name(ran, 3)
    assert await opened.answer(name(ran, 3)) == "sql@1"
    assert (await opened.chat("sql")).status_code == 404


async def test_the_result_is_the_best_checkpoint_resident_and_stable(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    for step in (3, 6):
        await publisher.checkpoint(ran.id, step)
    assert await publisher.result(ran.id) == name(ran)
    assert opened.residents["sql@1"] == ("resident", 0)
    assert [await opened.answer(model) for model in (name(ran), "sql", name(ran, 6))] == ["sql@1", "sql@1", "sql@2"]


async def test_whoever_asks_and_however_often_a_run_is_published_once(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    asked = [f"/v1/fine_tuning/jobs/{ran.id}{path}/publish" for path in ("/checkpoints/3", "/checkpoints/6", "")] * 3
    answers = await asyncio.gather(*map(opened.client.post, asked), publisher.result(ran.id))
    assert [answer.json()["id"] for answer in answers[:3]] == [name(ran, 3), name(ran, 6), name(ran)]
    versions = (await opened.client.get("/v1/adapters/sql/versions")).json()["data"]
    assert [version["source"] for version in versions] == [f"job:{ran.id}"] * 2
    assert sorted(named for version in versions for named in version["fine_tuned_names"]) == sorted(
        [name(ran), name(ran, 3), name(ran, 6)]
    )


async def test_a_worker_that_lost_the_job_publishes_nothing_of_it(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    """Another worker holds the second claim; the first one's process was suspended, and goes on."""

    async def state_is(state: JobState, token: int) -> None:
        async with opened.state.registry.database.write() as connection:
            await connection.execute(update(jobs).where(jobs.c.id == ran.id).values(state=state, token=token))

    await state_is(JobState.RUNNING, 2)
    publish = f"/v1/fine_tuning/jobs/{ran.id}/publish"
    refused = await opened.client.post(publish, params={"claim": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "lease_lost")
    for late in (publisher.checkpoint(ran.id, 3, 1), publisher.result(ran.id, 1)):
        with pytest.raises(LeaseLost, match="attempt 1 lost it"):
            await late
    await state_is(JobState.FAILED, 2)  # its lease expired too often
    with pytest.raises(LeaseLost):
        await publisher.result(ran.id, 2)
    assert (await opened.chat("sql")).status_code == 404
    await state_is(JobState.PAUSING, 2)
    assert (await opened.client.post(publish, params={"claim": 2})).json()["id"] == name(ran)


async def test_a_version_tells_what_its_adapter_keeps_of_the_model_it_was_extracted_from(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    run, report = RunDirectory(opened.state.settings.runs_dir / ran.id), {"rank": 8, "energy": 0.5}
    run.checkpoint(3).extraction_file.write_text(json.dumps(report))
    await publisher.result(ran.id)
    training = (await opened.client.get("/v1/adapters/sql/versions/1")).json()["report"]["training"]
    assert training["extraction"] == report


async def test_a_version_tells_how_it_was_trained(opened: Opened, ran: Job, publisher: RunPublisher) -> None:
    await publisher.result(ran.id)
    training = (await opened.client.get("/v1/adapters/sql/versions/1")).json()["report"]["training"]
    file = await opened.state.records.files.get(ran.training_file)
    assert training == {
        "job": ran.id,
        "step": 3,
        "method": "supervised",
        "hyperparameters": {"n_epochs": 1, "steps": 6},
        "seed": 7,
        "warm_start": None,
        "data": {
            "training_file": {"id": file.id, "filename": "train.jsonl", "sha256": file.sha256},
            "validation_file": None,
        },
        "renderer_sha256": "ab",
        "metrics": {"step": 3, "train_loss": 1 / 3},
        "trained_tokens": 300,
        "seconds": 4.5,
        "peak_memory_bytes": 1 << 20,
        "curves": CURVES,
    }


async def test_the_best_checkpoint_of_a_distillation_tells_how_well_it_agrees_with_its_teacher(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    run, agreement = RunDirectory(opened.state.settings.runs_dir / ran.id), {"questions": 40, "agreement": 0.95}
    result = run.result()
    assert result is not None
    for step in (3, 6):
        await publisher.checkpoint(ran.id, step)
    run.write_result(replace(result, distillation=agreement))
    await publisher.result(ran.id)
    reports = [(await opened.client.get(f"/v1/adapters/sql/versions/{number}")).json()["report"] for number in (1, 2)]
    assert [report.get("distillation") for report in reports] == [agreement, None]


async def test_a_run_is_published_when_the_engine_is_back(opened: Opened, ran: Job, publisher: RunPublisher) -> None:
    opened.engine.die()
    assert await publisher.result(ran.id) == name(ran)
    assert await opened.answer("sql") == "sql@1"


async def test_what_is_not_there_is_not_published(opened: Opened, ran: Job) -> None:
    jobs = "/v1/fine_tuning/jobs"
    for path, code in (
        ("ftjob-x/publish", "job_not_found"),
        (f"{ran.id}/checkpoints/4/publish", "checkpoint_not_found"),
    ):
        answer = await opened.client.post(f"{jobs}/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


async def test_a_version_trained_on_other_prompts_than_the_servers_is_told_apart(
    opened: Opened, ran: Job, publisher: RunPublisher
) -> None:
    await publisher.checkpoint(ran.id, 3)
    await opened.publish("mine")
    shown = [
        (await opened.client.get(path)).json()
        for path in ("/v1/adapters/sql/versions/1", "/v1/adapters/mine/versions/1", "/v1/adapters/sql/versions")
    ]
    assert [version["renderer_matches"] for version in (*shown[:2], *shown[2]["data"])] == [False, None, False]
    with capture_logs() as logged:
        await warn_of_other_renderers(opened.state.registry, opened.state.engine.running().engine)
    assert [(entry["log_level"], entry["versions"]) for entry in logged] == [("warning", ["sql@1"])]


async def test_nothing_of_a_cancelled_job_is_published(opened: Opened, ran: Job, publisher: RunPublisher) -> None:
    await publisher.checkpoint(ran.id, 3)
    await opened.state.records.jobs.cancel(ran.id)
    for publication in (publisher.checkpoint(ran.id, 6), publisher.result(ran.id)):
        with pytest.raises(IllegalTransition, match="was cancelled"):
            await publication
    assert opened.state.registry.catalog.adapter("sql").aliases == {}
    refused = await opened.client.post(f"/v1/fine_tuning/jobs/{ran.id}/publish")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "illegal_transition")


async def test_a_cancellation_during_the_publication_wins(
    opened: Opened, ran: Job, publisher: RunPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the first look at the job, and before its name is given."""
    make_resident = RunPublisher._make_resident

    async def cancel_first(self: RunPublisher, version: Version) -> None:
        await opened.state.records.jobs.cancel(ran.id)
        await make_resident(self, version)

    monkeypatch.setattr(RunPublisher, "_make_resident", cancel_first)
    with pytest.raises(IllegalTransition):
        await publisher.result(ran.id)
    assert opened.state.registry.catalog.adapter("sql").aliases == {}
