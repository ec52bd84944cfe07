"""``patchbay jobs``: fine-tuning jobs listed, shown, followed, cancelled, paused, resumed, over HTTP."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from server.cli.client import ApiKey, Json, Url, connect
from server.cli.output import AsJson, format_time, show_fields, show_json, show_table
from server.cli.watch import follow, job_path, leaving, line

app = typer.Typer(no_args_is_help=True, help="Fine-tuning jobs; `patchbay train` creates one.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `patchbay train` and `patchbay jobs list` print it.")]

_COLUMNS: Final = ["ID", "STATUS", "METHOD", "ADAPTER", "FINE-TUNED MODEL", "CREATED", "FINISHED"]
_TIMES: Final = {"created_at": "created", "estimated_finish": "estimated finish", "finished_at": "finished"}


@app.command("list")
def list_jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List the jobs, newest first."""
    with connect(url, api_key) as server:
        listing = server.get("/v1/fine_tuning/jobs", limit=limit)
    if as_json:
        show_json(listing)
        return
    show_table(_COLUMNS, map(_row, listing["data"]))


@app.command()
def show(job_id: JobId, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show a job."""
    with connect(url, api_key) as server:
        job = server.get(job_path(job_id))
    if as_json:
        show_json(job)
        return
    show_fields(_fields(job))


@app.command()
def events(
    job_id: JobId,
    *,
    follows: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Tell what happened to a job, oldest first; with --json as the server lists it, or a line an event to follow."""
    with connect(url, api_key) as server:
        if follows:
            with leaving(job_id):
                for event in follow(server, job_id):
                    typer.echo(json.dumps(event, ensure_ascii=False) if as_json else line(event))
            return
        listing = server.all_pages(f"{job_path(job_id)}/events")
    if as_json:
        show_json(listing)
        return
    for event in reversed(listing["data"]):
        typer.echo(line(event))


@app.command()
def checkpoints(job_id: JobId, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List a job's checkpoints, newest first."""
    with connect(url, api_key) as server:
        listing = server.all_pages(f"{job_path(job_id)}/checkpoints")
    if as_json:
        show_json(listing)
        return
    show_table(["STEP", "MODEL", "LOSS", "VALIDATION LOSS", "CREATED"], map(_checkpoint_row, listing["data"]))


@app.command()
def cancel(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """End a job at once; its checkpoints stay."""
    _tell(job_id, "cancel", url, api_key)


@app.command()
def pause(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Pause a job, a running one after its next checkpoint."""
    _tell(job_id, "pause", url, api_key)


@app.command()
def resume(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Let a paused job go on."""
    _tell(job_id, "resume", url, api_key)


def _tell(job_id: str, verb: str, url: str | None, api_key: str | None) -> None:
    with connect(url, api_key) as server:
        job = server.post(f"{job_path(job_id)}/{verb}")
    typer.echo(f"{job['id']}: {job['status']}")


def _row(job: Json) -> list[object]:
    times = [format_time(job["created_at"]), job["finished_at"] and format_time(job["finished_at"])]
    made = [job.get("adapter") or job["suffix"], job["fine_tuned_model"]]
    return [job["id"], job["status"], job["method"]["type"], *made, *times]


def _checkpoint_row(checkpoint: Json) -> list[object]:
    losses = [checkpoint["metrics"].get(name) for name in ("train_loss", "full_valid_loss")]
    numbers = [loss if loss is None else f"{loss:.4f}" for loss in losses]
    model = checkpoint["fine_tuned_model_checkpoint"]
    return [checkpoint["step_number"], model, *numbers, format_time(checkpoint["created_at"])]


def _fields(job: Json) -> dict[str, object]:
    """Return what is known about a job, each value as people read it."""
    known: dict[str, Any] = {"id": job["id"], "status": job["status"], **job, "method": job["method"]["type"]}
    del known["object"]
    if job["error"] is not None:
        known["error"] = f"{job['error']['code']}: {job['error']['message']}"
    times = {words: job[name] and format_time(job[name]) for name, words in _TIMES.items()}
    rest = {name.replace("_", " "): _readable(value) for name, value in known.items() if name not in _TIMES}
    return {**rest, **times}


def _readable(value: Any) -> object:
    return [f"{name}={said}" for name, said in value.items()] if isinstance(value, dict) else value
