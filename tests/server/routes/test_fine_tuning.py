"""Fine-tuning jobs by OpenAI's own client: created, checked, listed, paused, followed. Nobody trains here."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI
from openai.types.fine_tuning import FineTuningJob

from server.http.event_stream import KEEP_ALIVE, STOPPING
from server.routes import fine_tuning
from tests.server.opened import Listening, Opened, Opening
from tests.server.routes.conftest import ChatRows, Official
from trainer.errors import PreflightDied
from trainer.job_preflight import Preflight
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.job import JobDraft
from trainer.run_directory import COMPLETE, Marker, RunDirectory, RunResult
from trainer.run_spec import RunSpec

JOBS = "/v1/fine_tuning/jobs"
AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
NUMBERS = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
"""What "auto" comes to where nobody trains."""
WANDB = {"type": "wandb", "wandb": {"project": "p", "name": "n", "entity": "e", "tags": ["a"]}}

Upload = Callable[..., Awaitable[str]]
Create = Callable[..., Awaitable[FineTuningJob]]
Refused = Callable[..., Awaitable[dict[str, Any]]]


async def decided(openai: AsyncOpenAI, job_id: str) -> FineTuningJob:
    """Return the job once its files were checked."""
    async with asyncio.timeout(20):
        while (job := await openai.fine_tuning.jobs.retrieve(job_id)).status == "validating_files":
            await asyncio.sleep(0.01)
    return job


@pytest.fixture
def create(openai: AsyncOpenAI, upload: Upload) -> Create:
    """Creates a job and returns it once its files were checked."""

    async def created(**fields: Any) -> FineTuningJob:
        fields = {"model": "base", "training_file": fields.pop("training_file", None) or await upload(), **fields}
        return await decided(openai, (await openai.fine_tuning.jobs.create(**fields)).id)

    return created


@pytest.fixture
def refused(client: httpx.AsyncClient, openai: AsyncOpenAI, upload: Upload) -> Refused:
    """Asks for a job that may not be, and returns the error."""

    async def refusal(**fields: Any) -> dict[str, Any]:
        response = await client.post(JOBS, json={"model": "base", "training_file": await upload(), **fields})
        assert response.status_code in {400, 409}, response.text
        assert (await client.get(JOBS)).json()["data"] == []
        error: dict[str, Any] = response.json()["error"]
        return error

    return refusal


async def test_a_job_waits_for_a_worker_once_its_files_are_in_order(openai: AsyncOpenAI, upload: Upload) -> None:
    training, validation = await upload(), await upload()
    job = await openai.fine_tuning.jobs.create(
        model="base",
        training_file=training,
        validation_file=validation,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        suffix="sums",
        seed=7,
        metadata={"team": "a"},
        extra_body={"adapter": "sql", "rank": 8, "alpha": 16, "packing": True},
    )
    assert (job.status, job.object, job.model, job.seed) == ("validating_files", "fine_tuning.job", "base", 7)
    assert (job.training_file, job.validation_file, job.metadata) == (training, validation, {"team": "a"})
    assert (job.fine_tuned_model, job.finished_at, job.error, job.result_files) == (None, None, None, [])
    fields = job.to_dict()
    assert fields["method"] == {"type": "supervised", "supervised": {"hyperparameters": {**AUTO, "n_epochs": 3}}}
    assert fields["hyperparameters"] == {**AUTO, "n_epochs": 3}
    assert (fields["adapter"], fields["rank"], fields["alpha"], fields["suffix"]) == ("sql", 8, 16, "sums")
    queued = await decided(openai, job.id)
    assert (queued.status, queued.hyperparameters.to_dict()) == ("queued", NUMBERS)
    with pytest.raises(client_library.BadRequestError) as needed:
        await openai.files.delete(training)
    assert needed.value.code == "file_in_use"


async def test_hyperparameters_at_the_top_are_still_understood(create: Create) -> None:
    job = (await create(hyperparameters={"n_epochs": 3})).to_dict()
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_a_table_is_trained_on_by_its_content(
    create: Create, upload: Upload, pack: Callable[[bytes], bytes]
) -> None:
    table = "prompt,completion\n" + "".join(f"{number}?,{number}!\n" for number in range(12))
    job = await create(training_file=await upload(pack(table.encode())))
    assert (job.status, job.error) == ("queued", None)


async def test_null_hyperparameters_are_chosen_as_those_left_out(create: Create) -> None:
    job = (
        await create(hyperparameters={"n_epochs": 3, "batch_size": None, "learning_rate_multiplier": None})
    ).to_dict()
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}}
    stated = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": None, "beta": None}}}
    assert (await create(method=stated)).to_dict()["method"]["dpo"]["hyperparameters"]["beta"] == "auto"


@pytest.mark.parametrize(
    ("suffix", "fitted"),
    [
        ("support bot", "support-bot"),
        ("Süßes: v1..2/", "Sues-v1.2"),
        (" a__b ", "a__b"),
        ("crème brûlée", "creme-brulee"),
    ],
)
async def test_a_suffix_is_made_fit_for_names_and_the_events_say_so(openai, create, suffix: str, fitted: str) -> None:
    job = await create(suffix=suffix)
    assert job.to_dict()["suffix"] == fitted
    messages = [event.message for event in (await openai.fine_tuning.jobs.list_events(job.id)).data]
    assert f"The suffix '{suffix}' is written '{fitted}' in names" in messages


async def test_a_file_of_another_method_fails_the_job(create: Create) -> None:
    job = await create(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5}}})
    assert (job.status, job.hyperparameters.to_dict()["beta"]) == ("failed", 0.5)
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "for method dpo" in job.error.message


async def test_methods_beyond_openai_s_are_asked_for_the_same_way(create: Create, upload: Upload) -> None:
    rows = [{"prompt": f"{n}?", "completion": "yes", "label": n % 2 == 0} for n in range(12)]
    training = await upload("\n".join(map(json.dumps, rows)).encode())
    job = await create(training_file=training, method={"type": "kto"})
    assert (job.status, job.to_dict()["method"]["kto"]) == ("queued", {"hyperparameters": {**NUMBERS, "beta": 0.1}})


async def test_a_job_with_faulty_files_fails_with_every_fault_in_its_events(
    openai: AsyncOpenAI, create: Create, upload: Upload, chat_rows: ChatRows
) -> None:
    training = await upload(chat_rows() + b'{"messages": []}\n{"messages": 1}\nno json\n{"a": 1}\n\n[]\n')
    job = await create(training_file=training)
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")
    assert "line 13, messages" in job.error.message
    event = (await openai.fine_tuning.jobs.list_events(job.id)).data[0].to_dict()
    data: Any = event["data"]
    assert (event["level"], data["training_file"]["ok"]) == ("error", False)
    assert [fault["line"] for fault in data["training_file"]["faults"]] == [
        13,
        14,
        15,
        16,
        18,
    ]  # a blank line is a warning


async def test_a_faulty_validation_file_is_named(create: Create, upload: Upload) -> None:
    job = await create(validation_file=await upload(b"no json\n"))
    assert (job.error.code, job.error.param) == ("invalid_validation_file", "validation_file")


async def test_a_file_whose_bytes_are_gone_fails_the_job(create: Create, upload: Upload, data_dir: Path) -> None:
    training = await upload()
    (data_dir / "training" / "files" / training).unlink()
    job = await create(training_file=training)
    assert (job.status, job.error.code) == ("failed", "file_corrupt")


async def test_a_job_that_is_cancelled_while_it_is_checked_stays_cancelled(
    openai: AsyncOpenAI, upload: Upload, create: Create
) -> None:
    jobs, training = openai.fine_tuning.jobs, await upload()
    job = await jobs.create(model="base", training_file=training)
    assert (await jobs.cancel(job.id)).status == "cancelled"
    assert (await create()).status == "queued"
    assert (await jobs.retrieve(job.id)).status == "cancelled"


async def test_a_job_that_a_crash_left_unchecked_is_checked_at_the_next_start(
    opening: Opening, chat_rows: ChatRows
) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": AUTO}}
    async with opening() as opened:
        files = {"file": ("a", chat_rows()), "purpose": (None, "fine-tune")}
        training = (await opened.client.post("/v1/files", files=files)).json()["id"]
        job = await opened.state.records.jobs.create(JobDraft("base", training, method))
    async with opening() as reopened, asyncio.timeout(20):
        while (await reopened.client.get(f"{JOBS}/{job.id}")).json()["status"] != "queued":
            await asyncio.sleep(0.01)


async def test_a_job_of_a_method_that_this_release_does_not_know_fails_and_holds_nobody_up(
    opened: Opened, openai: AsyncOpenAI, upload: Upload, create: Create
) -> None:
    draft = JobDraft("base", await upload(), {"type": "unheard of", "unheard of": {}})
    job = await opened.state.records.jobs.create(draft)
    assert (await create()).status == "queued"
    unknown = await decided(openai, job.id)
    assert (unknown.status, unknown.error.code) == ("failed", "cannot_train")


async def test_a_job_whose_check_dies_fails_and_holds_nobody_up(
    opening: Opening, official: Official, chat_rows: ChatRows, quick_preflight: Preflight
) -> None:
    async def dies_of_packing(spec: RunSpec, run: RunDirectory, may_write: object) -> dict[str, Any]:
        if spec.packing:
            raise PreflightDied("the check of the files died with status -9", log="")
        report: dict[str, Any] = await quick_preflight(spec, run, may_write)
        return report

    async with opening(preflight=dies_of_packing) as opened, official(opened) as openai:
        file, jobs = await openai.files.create(file=("a", chat_rows()), purpose="fine-tune"), openai.fine_tuning.jobs
        asked = [
            await jobs.create(model="base", training_file=file.id, extra_body={"packing": packing})
            for packing in (True, False)
        ]
        died, fine = [await decided(openai, job.id) for job in asked]
    assert (died.status, died.error.code, fine.status) == ("failed", "validation_died", "queued")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gpt-4o"}, "model"),
        ({"training_file": "file-x"}, "training_file"),
        ({"validation_file": "file-x"}, "validation_file"),
        ({"training_file": 1}, "training_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "日本"}, "suffix"),
        ({"suffix": "base"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations.0.type"),
        ({"integrations": [{"type": "mlflow", "mlflow": {}}]}, "integrations.0.type"),
        ({"integrations": [{"type": "wandb"}]}, "integrations.0.wandb"),
        ({"integrations": [{"type": "wandb", "wandb": {}}]}, "integrations.0.wandb.project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p", "tag": "a"}}]}, "integrations.0.wandb.tag"),
        ({"quantization": "8bit"}, "quantization"),
        ({"method": {"type": "full"}, "quantization": "4bit"}, "quantization"),
        ({"method": {"type": "full"}, "alpha": 16}, "alpha"),
        (
            {"method": {"type": "full", "full": {"hyperparameters": {"extraction_energy": 1.5}}}},
            "method.full.hyperparameters.extraction_energy",
        ),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader"),
        ({"method": {"type": "distill"}}, "method.distill.prompt"),
        ({"method": {"type": "distill", "distill": {}}}, "method.distill.prompt"),
        ({"method": {"type": "distill", "distill": {"prompt": []}}}, "method.distill.prompt"),
        ({"method": {"type": "distill", "distill": {"prompt": " "}}}, "method.distill.prompt"),
        ({"method": {"type": "distill", "distill": {"prompt": "Be brief.", "teacher": "x"}}}, "method.distill.teacher"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "supervised"}, "hyperparameters": {}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e60}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"learning_rate_multiplier": "x"}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}}, "method.dpo.hyperparameters.beta"),
        ({"adapter": "../x"}, "adapter"),
        ({"adapter": "base"}, "adapter"),
        ({"rank": 0}, "rank"),
        ({"rank": 4096}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"rnak": 8}, "rnak"),
        ({"targets": []}, "targets"),
        ({"targets": ["q_proj", "lm_head"]}, "targets"),
        ({"targets": "some"}, "targets"),
        ({"warm_start": "nobody"}, "warm_start"),
        ({"model": "nobody@3"}, "model"),
    ],
)
async def test_a_job_that_cannot_be_is_refused_at_once(refused: Refused, fields: dict[str, Any], param: str) -> None:
    assert (await refused(**fields))["param"] == param


async def test_every_fault_of_a_prompt_is_told_at_once(refused: Refused) -> None:
    prompt = [{"role": "boss", "content": "Be brief."}, {"role": "user", "content": ""}]
    message = (await refused(method={"type": "distill", "distill": {"prompt": prompt}}))["message"]
    assert "method.distill.prompt[0].role" in message
    assert "method.distill.prompt[1].content" in message


async def test_a_prompt_is_distilled_from_the_version_that_its_teacher_is_now(
    opened: Opened, create: Create, upload: Upload
) -> None:
    await opened.publish("sql")
    rows = b"".join(b'{"prompt": "%d + 1?", "completion": "left out"}\n' % number for number in range(12))
    distill = {"prompt": "Be brief.", "teacher": "sql", "hyperparameters": {"n_epochs": 3}}
    job = await create(training_file=await upload(rows), method={"type": "distill", "distill": distill})
    assert (job.status, job.error) == ("queued", None)
    method = job.to_dict()["method"]["distill"]
    assert (method["prompt"], method["teacher"]) == ([{"role": "system", "content": "Be brief."}], "sql@1")
    assert method["hyperparameters"]["n_epochs"] == 3
    assert RunDirectory(opened.state.settings.runs_dir / job.id).spec().prompt == (
        {"role": "system", "content": "Be brief."},
    )


async def test_a_job_without_leave_to_report_elsewhere_is_told_what_gives_it(refused: Refused) -> None:
    assert "--integration wandb" in (await refused(integrations=[WANDB]))["message"]


async def test_a_job_s_integrations_reach_its_run_where_the_operator_allows_them(
    opening: Opening, official: Official, chat_rows: ChatRows
) -> None:
    async with opening(integrations=("wandb",)) as opened, official(opened) as openai:
        file = await openai.files.create(file=("a", chat_rows()), purpose="fine-tune")
        job = await openai.fine_tuning.jobs.create(model="base", training_file=file.id, integrations=[WANDB])
        assert [integration.to_dict() for integration in job.integrations] == [WANDB]
        assert (await decided(openai, job.id)).status == "queued"
        run = RunDirectory(opened.state.settings.runs_dir / job.id)
    assert run.integrations() == (WANDB,)


async def test_a_run_is_shared_by_as_many_processes_as_the_operator_says(
    opening: Opening, official: Official, chat_rows: ChatRows
) -> None:
    async with opening(train_processes=2) as opened, official(opened) as openai:
        file = await openai.files.create(file=("a", chat_rows()), purpose="fine-tune")
        extension: Any = {"quantization": "4bit"}
        job = await openai.fine_tuning.jobs.create(model="base", training_file=file.id, extra_body=extension)
        assert (job.to_dict()["quantization"], (await decided(openai, job.id)).status) == ("4bit", "queued")
        spec = RunDirectory(opened.state.settings.runs_dir / job.id).spec()
    assert (spec.processes, spec.quantization) == (2, "4bit")


@pytest.mark.parametrize("fields", [{"model": "sql"}, {"extra_body": {"warm_start": "sql@stable"}}])
async def test_a_job_goes_on_from_the_version_that_a_reference_meant_when_it_was_created(
    opened: Opened, create: Create, fields: dict[str, Any]
) -> None:
    await opened.publish("sql", seed=1)
    job = (await create(**fields)).to_dict()
    await opened.publish("sql", seed=2, alias="stable")
    assert (job["status"], job["warm_start"]) == ("queued", "sql@1")
    run = RunDirectory(opened.state.settings.runs_dir / job["id"])
    assert run.spec().warm_start == run.warm_start
    weights = opened.make_adapter(1).weights
    assert (run.warm_start / "adapter_model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("fields", [{}, {"model": "sql"}])
async def test_an_adapter_is_extracted_at_the_largest_rank_that_is_served(
    opened: Opened, create: Create, fields: dict[str, Any]
) -> None:
    await opened.publish("sql")
    job = await create(method={"type": "full"}, **fields)
    assert job.status == "queued"
    largest = opened.state.engine.info.max_rank
    assert RunDirectory(opened.state.settings.runs_dir / job.id).spec().rank == largest
    stated = await create(method={"type": "full"}, extra_body={"rank": 2, "targets": ["q_proj"]}, **fields)
    assert (stated.to_dict()["rank"], stated.status) == (2, "queued")


async def test_a_model_that_was_trained_whole_is_downloaded_file_by_file(
    opened: Opened, client: httpx.AsyncClient, create: Create
) -> None:
    job = await create(method={"type": "full"})
    path = f"{JOBS}/{job.id}/model"
    assert "no result yet" in (await client.get(path)).json()["error"]["message"]
    run = RunDirectory(opened.state.settings.runs_dir / job.id)
    finished(run)
    assert "adapter alone" in (await client.get(path)).json()["error"]["message"]
    contents = {"config.json": b"{}", "model.safetensors": b"w" * 100}
    run.checkpoint(1).model.mkdir()
    for name, content in contents.items():
        (run.checkpoint(1).model / name).write_bytes(content)
    listed = (await client.get(path)).json()["data"]
    assert [(file["name"], file["size_bytes"]) for file in listed] == [("config.json", 2), ("model.safetensors", 100)]
    assert {file["name"]: (await client.get(file["path"])).content for file in listed} == contents
    part = await client.get(listed[1]["path"], headers={"Range": "bytes=90-"})
    assert (part.status_code, part.content) == (206, b"w" * 10)
    assert (await client.get(f"{path}/spec.json")).status_code == 400
    assert (await client.get(f"{path}/..%2FCOMPLETE")).status_code in {400, 404}
    shutil.rmtree(run.path)
    gone = await client.get(path)
    assert (gone.status_code, "--keep-runs-s" in gone.json()["error"]["message"]) == (404, True)


def finished(run: RunDirectory) -> None:
    """Write a result of one step."""
    run.checkpoint_path(1).mkdir(parents=True)
    (run.checkpoint_path(1) / COMPLETE).write_text(json.dumps(asdict(Marker(1, {}, 1, 1.0, last=True))))
    run.write_result(RunResult("step-1", "step-1", 1, 1, 1.0, 1, "ab", {}, {}, {}))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "sql", "warm_start": "sql"}, "warm_start"),
        ({"warm_start": "sql", "rank": 8}, "rank"),
        ({"model": "sql", "alpha": 8}, "alpha"),
        ({"model": "sql", "targets": "all-linear"}, "targets"),
    ],
)
async def test_a_warm_start_is_said_once_and_keeps_its_own_shape(
    opened: Opened, refused: Refused, fields: dict[str, Any], param: str
) -> None:
    await opened.publish("sql")
    assert (await refused(**fields))["param"] == param


async def test_a_job_without_a_rank_gets_one_that_the_engine_takes(
    opening: Opening, official: Official, chat_rows: ChatRows
) -> None:
    async with opening() as opened, official(opened) as openai:
        file = await openai.files.create(file=("a", chat_rows()), purpose="fine-tune")
        jobs = openai.fine_tuning.jobs
        usual = await jobs.create(model="base", training_file=file.id)
        opened.state.engine.set_info(replace(opened.state.engine.info, max_rank=8))
        small = await jobs.create(model="base", training_file=file.id)
    assert (usual.to_dict()["rank"], small.to_dict()["rank"]) == (16, 8)


async def test_a_file_for_another_purpose_is_refused(openai: AsyncOpenAI, refused: Refused) -> None:
    file = await openai.files.create(file=("a", b"x"), purpose="batch")
    assert "purpose" in (await refused(training_file=file.id))["message"]


async def test_jobs_are_listed_in_pages_newest_first_and_by_their_metadata(openai: AsyncOpenAI, create: Create) -> None:
    jobs = [await create(metadata={"team": "a", "n": str(n)} if n % 2 else None) for n in range(4)]
    ids = [job.id for job in reversed(jobs)]
    assert [job.id async for job in openai.fine_tuning.jobs.list(limit=1)] == ids
    first = (await openai.fine_tuning.jobs.list(limit=3)).to_dict()
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", ids[0], ids[2], True)
    assert [job.id async for job in openai.fine_tuning.jobs.list(metadata={"team": "a"})] == [ids[0], ids[2]]
    assert [job.id async for job in openai.fine_tuning.jobs.list(metadata={"team": "a", "n": "1"})] == [ids[2]]
    null: Any = {"metadata": "null"}
    assert [job.id async for job in openai.fine_tuning.jobs.list(extra_query=null)] == [ids[1], ids[3]]


@pytest.mark.parametrize("query", ["metadata=x", "metadata=null&metadata[a]=b"])
async def test_metadata_asked_for_in_another_way_is_refused(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"{JOBS}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "metadata")


async def test_a_job_is_paused_resumed_and_cancelled(openai: AsyncOpenAI, create: Create) -> None:
    jobs = openai.fine_tuning.jobs
    job = await create()
    assert (await jobs.pause(job.id)).to_dict()["status"] == "paused"
    assert (await jobs.resume(job.id)).status == "queued"
    cancelled = await jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    for verb in (jobs.pause, jobs.resume, jobs.cancel):
        with pytest.raises(client_library.BadRequestError) as refused:
            await verb(job.id)
        assert refused.value.code == "illegal_transition"


async def test_an_unknown_job_is_not_found(openai: AsyncOpenAI) -> None:
    jobs = openai.fine_tuning.jobs
    for call in (jobs.retrieve, jobs.pause, jobs.resume, jobs.cancel, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(client_library.NotFoundError) as missing:
            await call("ftjob-x")
        assert missing.value.code == "job_not_found"


async def test_events_are_listed_in_pages_newest_first(openai: AsyncOpenAI, create: Create) -> None:
    job = await create()
    events = [event async for event in openai.fine_tuning.jobs.list_events(job.id, limit=1)]
    assert [event.message.partition(":")[0] for event in events] == [
        "Files validated, moving job to queued state",
        "Validating files",
        "Created fine-tuning job",
    ]
    assert {(event.object, event.level, event.type) for event in events} == {
        ("fine_tuning.job.event", "info", "message")
    }


async def test_events_are_followed_until_the_job_has_ended(openai: AsyncOpenAI, create: Create) -> None:
    job = await create()
    stream: Any = {"stream": "true"}
    lines: list[str] = []
    async with openai.fine_tuning.jobs.with_streaming_response.list_events(job.id, extra_query=stream) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.iter_lines():
            lines += [line] if line else []
            if len(lines) == 3 and not line:
                await openai.fine_tuning.jobs.cancel(job.id)
    assert lines.pop() == "data: [DONE]"
    followed = [json.loads(line.removeprefix("data: ")) for line in lines]
    listed = (await openai.fine_tuning.jobs.list_events(job.id)).to_dict()["data"]
    assert followed == list(reversed(listed))  # type: ignore[call-overload]
    assert followed[-1]["message"] == "Fine-tuning job cancelled"


async def test_the_stream_of_a_silent_job_is_kept_alive_and_ends_in_order_when_the_server_stops(
    opened: Opened,
    create: Create,
    listening: Listening,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = await create()
    await opened.state.records.jobs.pause(job.id)
    monkeypatch.setattr(fine_tuning, "SILENCE_S", 0.01)
    stream = {"stream": "true"}
    lines: list[str] = []
    async with (
        listening(opened.app) as url,
        httpx.AsyncClient(base_url=url) as http,
        http.stream("GET", f"{JOBS}/{job.id}/events", params=stream) as response,
    ):
        async for line in response.aiter_lines():  # a connection that is cut would raise
            lines += [line] if line else []
            if line == KEEP_ALIVE.strip():
                opened.state.records.events.close()
    assert lines[-1] == STOPPING.strip()
    assert sum(line.startswith("data: {") for line in lines) == 4
    assert "data: [DONE]" not in lines


@pytest.mark.parametrize(("job", "after", "status"), [("ftjob-x", None, 404), (None, "ftevent-x", 400)])
async def test_what_cannot_be_followed_is_an_error_and_no_stream(
    client: httpx.AsyncClient, create: Create, job: str | None, after: str | None, status: int
) -> None:
    params = {"stream": "true"} | ({} if after is None else {"after": after})
    response = await client.get(f"{JOBS}/{job or (await create()).id}/events", params=params)
    assert response.status_code == status


async def test_checkpoints_are_listed_and_shared_with_other_projects(
    opened: Opened, openai: AsyncOpenAI, create: Create
) -> None:
    job, queue = await create(), opened.state.records.queue
    claim = await queue.take("worker", 60)
    drafts = [CheckpointDraft(step, f"ft:base:me::abc:ckpt-step-{step}", {"train_loss": 1 / step}) for step in (1, 2)]
    await queue.record(claim, checkpoints=drafts)
    found = [checkpoint async for checkpoint in openai.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
    assert [checkpoint.step_number for checkpoint in found] == [2, 1]
    assert (found[0].fine_tuning_job_id, found[0].metrics.train_loss) == (job.id, 0.5)
    assert found[0].object == "fine_tuning.job.checkpoint"

    name, permissions = found[0].fine_tuned_model_checkpoint, openai.fine_tuning.checkpoints.permissions
    granted = [permission async for permission in permissions.create(name, project_ids=["p1", "p2", "p3"])]
    assert [permission.project_id for permission in granted] == ["p1", "p2", "p3"]
    assert not any(permission.to_dict()["enforced"] for permission in granted)
    listed = [permission async for permission in permissions.list(name, limit=2)]
    assert [permission.to_dict() for permission in reversed(listed)] == [permission.to_dict() for permission in granted]
    assert [permission.id async for permission in permissions.list(name, project_id="p2")] == [granted[1].id]
    with pytest.warns(DeprecationWarning, match="Retrieve"):
        old = await permissions.retrieve(name, order="ascending", limit=2)
    assert ([each.id for each in old.data], old.has_more) == ([granted[0].id, granted[1].id], True)
    assert (old.first_id, old.last_id) == (granted[0].id, granted[1].id)
    for text in ("\0", "\udfff"):
        content = json.dumps({"project_ids": [text]})
        path, kind = f"/v1/fine_tuning/checkpoints/{name}/permissions", {"content-type": "application/json"}
        refused = await opened.client.post(path, content=content, headers=kind)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "project_ids"), ascii(text)
    deleted = await permissions.delete(granted[0].id, fine_tuned_model_checkpoint=name)
    assert (deleted.id, deleted.deleted) == (granted[0].id, True)
    with pytest.raises(client_library.NotFoundError):
        await permissions.delete(granted[0].id, fine_tuned_model_checkpoint=name)
    with pytest.raises(client_library.NotFoundError):
        await permissions.list("ft:base:me::abc:ckpt-step-3")


async def test_training_needs_the_scope_of_an_operator(opened: Opened, client: httpx.AsyncClient) -> None:
    secret = (await opened.state.keys.create("app", frozenset({"infer"})))[1]
    for path in ("/v1/files", JOBS):
        response = await client.get(path, headers={"authorization": f"Bearer {secret}"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")
