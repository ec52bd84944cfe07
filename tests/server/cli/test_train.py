"""`patchbay train` against a running server. No worker runs: the tests write its records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial

import httpx
import pytest

from trainer.jobs.events import EventDraft, Kind, Level
from trainer.jobs.job import Failure

AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}


def steps(last: int) -> list[EventDraft]:
    """What a run tells: of each step, and of a checkpoint and a validation after the last."""

    def measured(step: int, message: str, **data: float | None) -> EventDraft:
        return EventDraft(
            f"Step {step}/{last}: {message}", type=Kind.METRICS, data={"step": step, "total_steps": last, **data}
        )

    events = [EventDraft(f"Training on 12 rows, {last} steps", data={"steps": last})]
    for step in range(1, last + 1):
        numbers = {"train_loss": 1 / step, "tokens_per_second": 1234.5, "eta_s": 90.0 * (last - step)}
        events.append(measured(step, f"training loss={1 / step:.4f}", **numbers))
    events.append(measured(last, "validation loss=0.7500", full_valid_loss=0.75, full_valid_mean_token_accuracy=None))
    events.append(EventDraft("The disk is nearly full", Level.WARN))
    return [*events, EventDraft(f"Checkpoint saved at step {last}", data={"step": last, "checkpoint": f"step-{last}"})]


async def succeed(queue, claim) -> None:
    await queue.record(claim, events=steps(2))
    await queue.succeed(claim, fine_tuned_model="ft:base:me:tickets:abc", trained_tokens=24)


async def fail(queue, claim) -> None:
    await queue.fail(claim, Failure("not_finite", "the loss is no longer a finite number"))


def newest(server) -> dict:
    return httpx.get(f"{server.url}/v1/fine_tuning/jobs").json()["data"][0]


def files(server) -> list[dict]:
    return httpx.get(f"{server.url}/v1/files").json()["data"]


def test_a_file_is_all_that_is_needed(call, server, rows) -> None:
    result = call("train", str(rows))
    job = newest(server)
    assert result.exit_code == 0
    assert result.stdout == f"{job['id']}\n"
    assert result.stderr == f"next: patchbay jobs events {job['id']} --follow\n"
    (file,) = files(server)
    assert (job["model"], job["training_file"], job["validation_file"]) == ("base", file["id"], None)
    assert (file["filename"], file["purpose"]) == ("train.jsonl", "fine-tune")
    assert {"adapter", "alpha", "targets", "packing", "drop_long"} & job.keys() == set()


def test_every_option_reaches_the_job(call, server, rows) -> None:
    options = "--name tickets --model base --method dpo --epochs 2 --batch-size 4 --rate-multiplier 0.5 --beta 0.2"
    own = "--rank 4 --alpha 8 --targets q_proj,v_proj --max-length 64 --drop-long --packing --patience 2"
    more = "--checkpoint-steps 5 --seed 7 --suffix sums --quantization 4bit"
    line = f"{options} {own} {more}".split()
    result = call("train", str(rows), "--validation", str(rows), *line, "--json")
    assert result.exit_code == 0
    job = json.loads(result.stdout)
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5, "beta": 0.2}
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    assert (job["adapter"], job["seed"], job["suffix"], job["model"]) == ("tickets", 7, "sums", "base")
    assert (job["rank"], job["alpha"], job["targets"], job["max_length"]) == (4, 8, ["q_proj", "v_proj"], 64)
    assert job["quantization"] == "4bit"
    assert (job["drop_long"], job["packing"], job["patience"], job["checkpoint_steps"]) == (True, True, 2, 5)
    assert {job["training_file"], job["validation_file"]} == {file["id"] for file in files(server)}


def test_hyperparameters_without_a_method_are_those_of_the_usual_one(call, rows) -> None:
    job = json.loads(call("train", str(rows), "--epochs", "2", "--json").stdout)
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": {**AUTO, "n_epochs": 2}}}


def test_the_format_of_a_local_file_chooses_the_method(call, tmp_path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    job = json.loads(call("train", str(pairs), "--beta", "0.2", "--json").stdout)
    assert job["method"]["type"] == "dpo"
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2


def test_all_linear_modules_can_be_asked_for_by_one_word(call, rows) -> None:
    job = json.loads(call("train", str(rows), "--targets", "all-linear", "--json").stdout)
    assert job["targets"] == "all-linear"


def test_training_goes_on_from_an_adapter(call, rows) -> None:
    job = json.loads(call("train", str(rows), "--warm-start", "sql", "--json").stdout)
    assert job["warm_start"] == "sql@1"


def test_a_file_that_is_there_already_is_named_by_its_id(call, server, file_id) -> None:
    assert call("train", file_id, "--validation", file_id).exit_code == 0
    job = newest(server)
    assert (job["training_file"], job["validation_file"]) == (file_id, file_id)
    assert len(files(server)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "none.jsonl"], "there is no file none.jsonl here"),
        (["--name", "a/b"], "adapter name 'a/b' is not valid"),
        (["--targets", " ,"], "--targets"),
        (["--method", "magic"], "magic"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_what_is_called_wrongly_uploads_nothing(call, server, rows, options, message) -> None:
    result = call("train", str(rows), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert files(server) == []


def test_what_the_server_refuses_is_told(call, rows) -> None:
    result = call("train", str(rows), "--name", "tickets", "--model", "gpt-4o")
    assert result.exit_code == 1
    assert "gpt-4o" in result.stderr


def test_watching_tells_every_event_and_then_the_model(call, rows, worker) -> None:
    worker(succeed)
    result = call("train", str(rows), "--name", "tickets", "--watch")
    assert result.exit_code == 0
    job, *lines, model = result.stdout.splitlines()
    assert lines[0].endswith(f"Created fine-tuning job: {job}")
    assert [line[21:] for line in lines[4:-2]] == [
        "Training on 12 rows, 2 steps",
        "Step 1/2: training loss=1.0000",
        "Step 2/2: training loss=0.5000",
        "Step 2/2: validation loss=0.7500",
        "warn: The disk is nearly full",
        "Checkpoint saved at step 2",
    ]
    assert model == "ft:base:me:tickets:abc"
    assert result.stderr == f"next: patchbay chat {model}\n"


def test_a_terminal_shows_a_bar_and_above_it_what_is_no_step(patchbay, server, rows, worker) -> None:
    worker(succeed)
    env = {"PATCHBAY_URL": server.url, **TERMINAL}
    result = patchbay("train", str(rows), "--name", "tickets", "--watch", env=env)
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "waiting for the first step" in shown
    assert "warn: The disk is nearly full" in shown
    assert "Checkpoint saved at step 2" in shown
    assert "Step 1/2" not in shown
    last_frame = shown.rpartition("step 2/2")[2]
    assert "loss 0.5000, 0.0 s left, validation loss 0.7500, 1234 tokens/s" in last_frame


def test_a_job_that_fails_while_it_is_watched_ends_with_its_reason(call, rows, worker) -> None:
    worker(fail)
    result = call("train", str(rows), "--watch")
    assert result.exit_code == 1
    assert result.stderr == "error: the loss is no longer a finite number\n"


def test_a_faulty_file_that_is_watched_ends_with_its_faults(call, rows) -> None:
    rows.write_text("no json\n")
    result = call("train", str(rows), "--watch")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: file: found a file that begins")


def test_a_job_that_is_cancelled_while_it_is_watched_names_what_it_left(call, server, rows, worker) -> None:
    worker(lambda queue, claim: server.state.records.jobs.cancel(claim.job.id))
    result = call("train", str(rows), "--watch")
    assert result.exit_code == 1
    job = newest(server)["id"]
    assert f"job '{job}' was cancelled; `patchbay jobs checkpoints {job}`" in result.stderr


def test_watched_as_json_the_job_that_ended_is_all_of_stdout(call, server, rows, worker) -> None:
    worker(succeed)
    result = call("train", str(rows), "--watch", "--json")
    assert json.loads(result.stdout) == newest(server)
    assert "Step 1/2" in result.stderr


def test_ctrl_c_ends_the_watching_and_not_the_job(server, file_id) -> None:
    program = [sys.executable, "-c", "from server.cli import main; main()", "train", file_id, "--watch"]
    env = {**os.environ, "PATCHBAY_URL": server.url}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores ctrl-c
    with subprocess.Popen(program, env=env, preexec_fn=heeding, **pipes) as watching:
        assert watching.stdout is not None
        while "moving job to queued state" not in watching.stdout.readline():
            pass
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate()
    job = newest(server)
    assert (watching.returncode, job["status"]) == (130, "queued")
    assert f"patchbay jobs events {job['id']} --follow" in stderr
    assert "Traceback" not in stderr


GRADER = {"type": "string_check", "name": "n", "input": "{{sample.output_text}}", "reference": "5", "operation": "eq"}


@pytest.mark.parametrize("is_file", [True, False])
def test_a_grader_makes_it_reinforcement(call, server, tmp_path, *, is_file) -> None:
    tasks, stated = tmp_path / "tasks.jsonl", json.dumps(GRADER)
    tasks.write_text("".join(f'{{"prompt": "What is {number} + 1?"}}\n' for number in range(12)))
    if is_file:
        (tmp_path / "grader.json").write_text(stated)
        stated = str(tmp_path / "grader.json")
    result = call("train", str(tasks), "--grader", stated, "--epochs", "2", "--algorithm", "rloo")
    assert result.exit_code == 0, result.output
    method = newest(server)["method"]
    assert method["type"] == "reinforcement"
    assert method["reinforcement"]["grader"] == GRADER
    hyperparameters = method["reinforcement"]["hyperparameters"]
    assert (hyperparameters["n_epochs"], hyperparameters["algorithm"]) == (2, "rloo")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "reinforcement"], "--method reinforcement needs a --grader"),
        (["--method", "supervised", "--grader", "{}"], "--method supervised takes no --grader"),
        (["--grader", "{"], "--grader {"),
        (["--grader", "none.json"], "--grader none.json"),
    ],
)
def test_a_grader_is_for_reinforcement_alone(call, server, rows, flags, says) -> None:
    result = call("train", str(rows), *flags)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("Be brief.\n", [{"role": "system", "content": "Be brief.\n"}]),
        ('[{"role": "user", "content": "Hi"}]', [{"role": "user", "content": "Hi"}]),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', [{"role": "user", "content": "Hi"}]),
    ],
)
def test_a_prompt_makes_it_distillation(call, server, rows, tmp_path, content, prompt) -> None:
    (tmp_path / "prompt").write_text(content)
    result = call("train", str(rows), "--prompt", str(tmp_path / "prompt"), "--teacher", "sql", "--samples", "2")
    assert result.exit_code == 0, result.output
    method = newest(server)["method"]
    assert method["type"] == "distill"
    assert (method["distill"]["prompt"], method["distill"]["teacher"]) == (prompt, "sql@1")
    assert method["distill"]["hyperparameters"]["samples"] == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "distill"], "--method distill needs a --prompt"),
        (["--method", "supervised", "--prompt", "p"], "--method supervised takes no --prompt"),
        (["--teacher", "sql"], "--method supervised takes no --teacher"),
        (["--prompt", "none"], "--prompt none"),
    ],
)
def test_a_prompt_is_for_distillation_alone(call, server, rows, flags, says) -> None:
    result = call("train", str(rows), *flags)
    assert result.exit_code == 2
    assert says in result.stderr
    assert files(server) == []
