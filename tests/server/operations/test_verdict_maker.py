"""A job with a validation file ends with a verdict, made on the serving engine behind live requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from server.operations.run_publisher import RunPublisher
from server.verdicts.contest import BASE, CANDIDATE, EXCHANGED, USE
from tests.server.opened import Opened
from tests.until import until
from trainer.jobs.job import Job, JobDraft
from trainer.run_directory import COMPLETE, VERDICT_FILE, Marker, RunDirectory, RunResult
from trainer.verdicts.judged_rows import JudgedRow, JudgedRows

SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
GRADER = {
    "type": "string_check",
    "name": "adapter",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "like",
}


def judged_row(number: int, **fields: Any) -> JudgedRow:
    """A question whose answer ends in its last token; the fake finds it likelier there than elsewhere."""
    row = JudgedRow(
        line=number + 1,
        prompt=[7, 100 + number],
        answer=[9, 100 + number],
        shots={2: [7, 8, 100 + number]},
        item={"reference": "sql@"},
    )
    return row.model_copy(update=fields)


ROWS = JudgedRows(
    held_out=[judged_row(number) for number in range(30)],
    trained=[judged_row(number) for number in range(500, 520)],
    rows=33,
    near_duplicates=2,
    too_long=1,
)

MakeJob = Callable[..., Any]


@pytest.fixture
def make_job(opened: Opened) -> MakeJob:
    """Makes a job whose run has ended, with the rows of its verdict."""

    async def make(
        rows: JudgedRows | None = ROWS, method: dict[str, Any] = SUPERVISED, *, validates: bool = True, **extension: Any
    ) -> Job:
        state = opened.state

        async def content() -> AsyncIterator[bytes]:
            yield b"{}\n"

        file = await state.records.files.create("fine-tune", "rows.jsonl", content())
        draft = JobDraft("base", file.id, method, seed=7, extension={"adapter": "sql", **extension})
        job = await state.records.jobs.create(replace(draft, validation_file=file.id) if validates else draft)
        run = RunDirectory(state.settings.runs_dir / job.id)
        run.token_rows.mkdir(parents=True)
        if rows is not None:
            rows.write(run.token_rows)
        run.write_preflight({"hyperparameters": {"n_epochs": 1}, "renderer_sha256": "ab"})
        path = run.checkpoint_path(3)
        opened.make_adapter(job.seed + len(job.id)).write(path / "adapter")
        (path / COMPLETE).write_text(json.dumps(asdict(Marker(3, {"step": 3}, 300, 4.5, last=True))))
        run.write_result(RunResult("step-3", "step-3", 3, 300, 4.5, 1 << 20, "ab", {"n_epochs": 1}, {}, {}))
        return job

    return make


@pytest.fixture
def publisher(opened: Opened) -> RunPublisher:
    return RunPublisher(opened.state, opened.deferred)


async def report(opened: Opened, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = (await opened.client.get(f"/v1/adapters/sql/versions/{number}")).json()["report"]
    return found


async def events(opened: Opened, job: Job) -> list[str]:
    listed = (await opened.client.get(f"/v1/fine_tuning/jobs/{job.id}/events", params={"limit": 100})).json()["data"]
    return [event["message"] for event in listed]


@pytest.mark.parametrize(("effect", "right"), [(0.5, "better"), (0.0, "no_gain"), (-0.25, "worse")])
async def test_the_verdict_stands_with_the_version_in_the_job_and_in_its_events(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob, effect: float, right: str
) -> None:
    opened.builder.knobs.effect = effect
    job = await make_job()
    await publisher.result(job.id)
    verdict = (await report(opened))["verdict"]
    assert verdict["result"] == right
    of = verdict["of"]
    assert (of["rows"], of["measures"]) == (30, ["exact_match", "likelihood"])
    assert of["left_out"] == {"near_duplicates": 2, "too_long": 1, "ungraded": 0}
    assert [each["name"] for each in of["contestants"]] == ["base", "base with 2 examples", USE]
    base = of["contestants"][0]
    assert base["differences"]["likelihood"]["mean"] == pytest.approx(effect)
    assert base["differences"]["likelihood"]["low"] <= effect <= base["differences"]["likelihood"]["high"]
    assert of["general_ability"]["difference"]["mean"] == pytest.approx(effect)
    assert of["memorisation"]["likelihood_gap"]["mean"] == pytest.approx(0.0)
    shown = (await opened.client.get(f"/v1/fine_tuning/jobs/{job.id}")).json()["verdict"]
    assert shown == {"result": right, "message": verdict["message"], "rows": 30}
    assert (await events(opened, job))[0] == f"Verdict: {verdict['message']}"


async def test_the_tokens_are_counted_as_the_job_s_adapter_s(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    await publisher.result((await make_job()).id)
    spent = (await report(opened))["verdict"]["of"]["tokens"]
    await opened.state.accounts.usage.flush()
    (row,) = (await opened.client.get("/v1/usage")).json()["data"]
    assert (row["adapter"], row["prompt_tokens"], row["completion_tokens"]) == ("sql", spent["prompt"], 0)
    assert spent["prompt"] >= 3 * 30 * 4


async def test_each_row_shows_what_every_contestant_scored(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    job = await make_job()
    await publisher.result(job.id)
    lines = (opened.state.settings.runs_dir / job.id / VERDICT_FILE).read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [row.line for row in ROWS.held_out]
    assert json.loads(lines[0])["scores"].keys() == {
        *(BASE, CANDIDATE, "base with 2 examples"),
        *map(EXCHANGED.format, (BASE, CANDIDATE)),
    }


async def test_the_version_that_answered_so_far_is_a_contestant(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    opened.builder.knobs.effect = 0.5
    await publisher.result((await make_job()).id)
    await publisher.result((await make_job(other=1)).id)
    verdict = (await report(opened, 2))["verdict"]
    assert "stable (sql@1)" in [each["name"] for each in verdict["of"]["contestants"]]
    assert (verdict["result"], "stable (sql@1)" in verdict["message"]) == ("no_gain", True)


async def test_an_alias_that_demands_a_verdict_stays_away_from_a_loser_unless_it_is_forced(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    """Requests for the adapter are answered all the while; the forced move is on record."""
    opened.builder.knobs.effect = 0.5
    await publisher.result((await make_job()).id)
    alias = "/v1/adapters/sql/aliases/stable"
    demanded = await opened.client.put(alias, json={"version": 1, "require": "no_worse"})
    assert demanded.status_code == 200, demanded.text
    opened.builder.knobs.effect, is_over = -0.25, asyncio.Event()
    answers: list[str] = []

    async def ask() -> None:
        while not is_over.is_set():
            answers.append(await opened.answer("sql"))

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    await publisher.result((await make_job()).id)
    assert (await report(opened, 2))["verdict"]["result"] == "worse"
    assert await opened.answer("sql") == "sql@1"
    refused = await opened.client.put(alias, json={"version": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "verdict_needed")
    assert (await opened.client.put(alias, json={"version": 2, "force": True})).status_code == 200
    assert await opened.answer("sql") == "sql@2"
    is_over.set()
    await asyncio.gather(*asking)
    assert {"sql@1"} <= set(answers) <= {"sql@1", "sql@2"}
    moves = (await opened.client.get(alias)).json()["moves"]
    assert [(move["to"], move["is_forced"]) for move in moves] == [(1, False), (2, True)]


async def test_a_grader_decides_where_one_is_asked_for(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    """The fake answers with its name, which the grader looks for."""
    await publisher.result((await make_job(verdict_grader=GRADER)).id)
    verdict = (await report(opened))["verdict"]
    assert verdict["of"]["measures"] == ["reward"]
    assert verdict["of"]["candidate"]["means"] == pytest.approx({"reward": 1.0, "likelihood": -0.259, "exact_match": 0})
    assert verdict["of"]["contestants"][0]["means"]["reward"] == 0
    assert verdict["result"] == "no_gain", "without the question it answers the same"
    assert verdict["of"]["tokens"]["completion"] > 0


async def test_pairs_are_judged_by_what_is_preferred(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    pairs = [judged_row(number, worse=[9, 9, 9]) for number in range(30)]
    await publisher.result((await make_job(ROWS.model_copy(update={"held_out": pairs}))).id)
    of = (await report(opened))["verdict"]["of"]
    assert of["measures"] == ["preference_accuracy", "preference_margin"]
    assert USE not in [each["name"] for each in of["contestants"]]
    assert of["candidate"]["means"]["preference_accuracy"] == 1.0


async def test_a_reward_model_is_judged_by_the_order_of_its_rewards(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    pairs = [judged_row(number, prompt=[], worse=[9], shots={}) for number in range(10)]
    method = {"type": "reward", "reward": {"hyperparameters": {}}}
    opened.engine.encode = lambda text: [len(text)]  # type: ignore[method-assign] # "Yes" and "No" are two tokens
    await publisher.result((await make_job(ROWS.model_copy(update={"held_out": pairs}), method)).id)
    of = (await report(opened))["verdict"]["of"]
    assert of["candidate"]["means"] == {"preference_accuracy": 0.5, "preference_margin": 0.0}
    assert [each["name"] for each in of["contestants"]] == ["base"]


@pytest.mark.parametrize(
    ("rows", "fields", "reason"),
    [
        (None, {"verdict_rows": 0}, "verdict_rows is 0"),
        (None, {}, "older release"),
        (None, {"method": {"type": "distill"}}, "agreement with the teacher"),
        (ROWS.model_copy(update={"held_out": []}), {}, "none of the 33 rows"),
    ],
)
async def test_where_there_can_be_no_verdict_the_reason_is_told_and_the_job_goes_on(
    opened: Opened,
    publisher: RunPublisher,
    make_job: MakeJob,
    rows: JudgedRows | None,
    fields: dict[str, Any],
    reason: str,
) -> None:
    job = await make_job(rows, **fields)
    await publisher.result(job.id)
    found = await report(opened)
    assert "verdict" not in found
    assert reason in found["verdict_missing"]["reason"]
    shown = (await opened.client.get(f"/v1/fine_tuning/jobs/{job.id}")).json()["verdict"]
    assert (shown["result"], shown["rows"]) == (None, 0)
    assert (await events(opened, job))[0].startswith("No verdict: ")
    assert await opened.answer("sql") == "sql@1"


async def test_a_base_model_without_text_makes_no_verdict(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    opened.builder.knobs.is_scoring = False
    await publisher.result((await make_job()).id)
    assert (await report(opened))["verdict_missing"] == {"reason": "the base model generates no text"}


async def test_a_job_without_a_validation_file_has_none(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    job = await make_job(validates=False)
    await publisher.result(job.id)
    assert not {"verdict", "verdict_missing"} & (await report(opened)).keys()
    assert (await opened.client.get(f"/v1/fine_tuning/jobs/{job.id}")).json()["verdict"] is None


async def test_the_verdict_waits_for_a_rebuilt_engine_and_is_recorded_once(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    job = await make_job()
    await publisher.checkpoint(job.id, 3)
    opened.builder.knobs.token_s = 0.05
    publishing = asyncio.create_task(publisher.result(job.id))
    engine = opened.engine
    await until(lambda: bool(engine.residents))
    await asyncio.sleep(0.1)
    engine.die()
    opened.builder.knobs.token_s = 0.0
    name = await publishing
    assert await publisher.result(job.id) == name
    assert (await report(opened))["verdict"]["result"] == "worse"
    assert [message.startswith("Verdict: ") for message in await events(opened, job)].count(True) == 1


async def test_live_requests_are_answered_while_a_verdict_is_made(
    opened: Opened, publisher: RunPublisher, make_job: MakeJob
) -> None:
    opened.builder.knobs.token_s = 0.002
    publishing = asyncio.create_task(publisher.result((await make_job()).id))
    answered = 0
    while not publishing.done():
        assert await opened.answer("base") == "base"
        answered += 1
    await publishing
    assert answered > 10
