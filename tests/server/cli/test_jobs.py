"""`patchbay jobs` against a running server. No worker runs: the tests write its records."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from server.cli.client import ApiClient
from server.cli.watch import MAX_RETRIES, follow
from trainer.jobs.checkpoints import CheckpointDraft

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def job(call, server, file_id) -> str:
    """The id of a job that waits for a worker."""
    job_id = call("train", file_id, "--name", "tickets").stdout.strip()

    async def decided() -> None:
        jobs = server.state.records.jobs
        while (await jobs.get(job_id)).state == "validating_files":
            await asyncio.sleep(0.01)

    server.portal.call(decided)
    return job_id


def status(server, job: str) -> str:
    return httpx.get(f"{server.url}{JOBS}/{job}").json()["status"]


def test_list_shows_the_newest_first_up_to_a_limit(call, job, file_id) -> None:
    newer = call("train", file_id, "--suffix", "sums").stdout.strip()
    header, *lines = call("jobs", "list").stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "METHOD", "ADAPTER", "FINE-TUNED", "MODEL", "CREATED", "FINISHED"]
    assert [line.split()[0] for line in lines] == [newer, job]
    assert lines[1].split()[1:5] == ["queued", "supervised", "tickets", "-"]
    assert len(call("jobs", "list", "--limit", "1").stdout.splitlines()) == 2


def test_json_listings_are_what_the_server_sends(call, server, job) -> None:
    assert json.loads(call("jobs", "list", "--json").stdout) == httpx.get(f"{server.url}{JOBS}").json()
    assert json.loads(call("jobs", "show", job, "--json").stdout) == httpx.get(f"{server.url}{JOBS}/{job}").json()
    for listing in ("events", "checkpoints"):
        sent = httpx.get(f"{server.url}{JOBS}/{job}/{listing}").json()
        assert json.loads(call("jobs", listing, job, "--json").stdout) == sent


def test_show_tells_what_was_asked_for_and_what_auto_became(call, job, file_id) -> None:
    shown = call("jobs", "show", job).stdout
    rows = {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in shown.splitlines())}
    assert (rows["id"], rows["status"], rows["adapter"], rows["training file"]) == (job, "queued", "tickets", file_id)
    assert "n_epochs=3" in rows["hyperparameters"]


def test_show_tells_why_a_job_failed(call, server, rows) -> None:
    rows.write_text("no json\n")
    result = call("train", str(rows), "--watch")
    assert result.exit_code == 1
    job = result.stdout.split()[0]
    assert "invalid_training_file: file: found a file that begins" in call("jobs", "show", job).stdout


def test_events_are_told_oldest_first(call, job) -> None:
    lines = call("jobs", "events", job).stdout.splitlines()
    assert [line[21:].partition(":")[0] for line in lines] == [
        "Created fine-tuning job",
        "Validating files",
        "Files validated, moving job to queued state",
    ]


def test_events_are_followed_until_the_job_has_ended(call, job, worker) -> None:
    worker(lambda queue, claim: queue.succeed(claim, fine_tuned_model="tickets@1", trained_tokens=1))
    result = call("jobs", "events", job, "--follow")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].endswith(f"Created fine-tuning job: {job}")
    assert result.stdout.splitlines()[-1].endswith("The job has successfully completed")


def test_followed_events_can_be_had_as_json_lines(call, server, job) -> None:
    assert call("jobs", "cancel", job).exit_code == 0
    lines = call("jobs", "events", job, "--follow", "--json").stdout.splitlines()
    listed = httpx.get(f"{server.url}{JOBS}/{job}/events").json()["data"]
    assert [json.loads(line) for line in lines] == list(reversed(listed))


class Breaking(httpx.SyncByteStream):
    """A stream of events that breaks off after ``count``, by an error or by an end without ``[DONE]``."""

    def __init__(self, events: list[dict], *, error: bool) -> None:
        self._events = events
        self._error = error

    def __iter__(self):
        for event in self._events:
            yield f"data: {json.dumps(event)}\n\n".encode()
        if self._error:
            raise httpx.ReadError("reset by peer")


def test_a_broken_connection_is_opened_again_behind_the_last_event(capsys) -> None:
    events = [{"id": f"ftevent-{n}"} for n in range(3)]
    done = "".join(f"data: {json.dumps(event)}\n\n" for event in events[2:]) + "data: [DONE]\n\n"
    answers = iter(
        [
            httpx.Response(200, stream=Breaking(events[:1], error=True)),
            httpx.Response(200, stream=Breaking(events[1:2], error=False)),
            httpx.ConnectError("refused"),
            httpx.Response(200, text=done),
        ]
    )
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("after"))
        answered = next(answers)
        if isinstance(answered, httpx.Response):
            return answered
        raise answered

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://server") as http:
        assert list(follow(ApiClient(http), "ftjob-x", retry_s=0)) == events
    assert asked == [None, "ftevent-0", "ftevent-1", "ftevent-1"]
    assert capsys.readouterr().err.count("connection lost") == 2


def test_a_stream_that_a_stopping_server_has_ended_is_opened_again(capsys) -> None:
    """Also before its first event, and by a server that stops more often than attempts are made in a row."""
    event = {"id": "ftevent-0"}
    stopping = [httpx.Response(200, text=": the server is stopping; connect again\n\n") for _ in range(MAX_RETRIES + 1)]
    answers = iter([*stopping, httpx.Response(200, text=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")])
    transport = httpx.MockTransport(lambda _: next(answers))
    with httpx.Client(transport=transport, base_url="http://server") as http:
        assert list(follow(ApiClient(http), "ftjob-x", retry_s=0)) == [event]
    assert next(answers, None) is None


def test_a_server_that_never_answered_is_not_asked_again(patchbay) -> None:
    result = patchbay("jobs", "events", "ftjob-x", "--follow", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 3


def test_checkpoints_are_listed_with_their_losses(call, server, job) -> None:
    drafts = [
        CheckpointDraft(1, "ft:base:me:tickets:abc:ckpt-step-1", {"train_loss": 0.5, "full_valid_loss": 0.75}),
        CheckpointDraft(2, "ft:base:me:tickets:abc:ckpt-step-2", {"train_loss": 0.25}),
    ]

    async def record() -> None:
        queue = server.state.records.queue
        await queue.record(await queue.take("worker", 60), checkpoints=drafts)

    server.portal.call(record)
    _, *lines = call("jobs", "checkpoints", job).stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["2", drafts[1].model, "0.2500", "-"],
        ["1", drafts[0].model, "0.5000", "0.7500"],
    ]


def test_a_job_is_paused_resumed_and_cancelled(call, server, job) -> None:
    for verb, after in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert call("jobs", verb, job).stdout == f"{job}: {after}\n"
        assert status(server, job) == after
    result = call("jobs", "pause", job)
    assert result.exit_code == 1
    assert "cancelled" in result.stderr


@pytest.mark.parametrize("command", ["show", "events", "checkpoints", "cancel", "pause", "resume"])
def test_a_job_that_does_not_exist_exits_with_4(call, command) -> None:
    assert call("jobs", command, "ftjob-none").exit_code == 4
    assert call("jobs", "events", "ftjob-none", "--follow").exit_code == 4
