"""``patchbay jobs``: lists, shows, follows, cancels, pauses and resumes fine-tuning jobs, and exports their models."""

import json
from typing import Annotated, Any, Final

import typer

from server.cli.client import ApiKey, Json, Url, connect
from server.cli.output import AsJson, format_time, show_fields, show_json, show_listing, show_note
from server.cli.settings import settings_command
from server.cli.watch import follow, format_event, job_path, until_interrupt

app = typer.Typer(no_args_is_help=True, help="Fine-tuning jobs; `patchbay train` creates one.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id, as `patchbay jobs list` prints it.")]

_COLUMNS: Final = ["ID", "STATUS", "METHOD", "ADAPTER", "FINE-TUNED MODEL", "CREATED", "FINISHED"]
_TIMES: Final = {"created_at": "created", "estimated_finish": "estimated finish", "finished_at": "finished"}


@app.command("list")
def list_jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of jobs.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List the jobs, newest first."""
    with connect(url, api_key) as server:
        listing = server.get("/v1/fine_tuning/jobs", limit=limit)
    show_listing(listing, _COLUMNS, _row, as_json=as_json)


@app.command()
def show(job_id: JobId, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Show a job."""
    with connect(url, api_key) as server:
        job = server.get(job_path(job_id))
    if as_json:
        show_json(job)
    else:
        show_fields(_fields(job))


@app.command()
def events(
    job_id: JobId,
    *,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Print events until the job ends.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Print a job's events, oldest first. --json prints the API's list, and with --follow one event a line."""
    with connect(url, api_key) as server:
        if is_followed:
            with until_interrupt(job_id):
                for event in follow(server, job_id):
                    typer.echo(json.dumps(event, ensure_ascii=False) if as_json else format_event(event))
            return
        listing = server.all_pages(f"{job_path(job_id)}/events")
    if as_json:
        show_json(listing)
        return
    for event in reversed(listing["data"]):
        typer.echo(format_event(event))


@app.command()
def checkpoints(job_id: JobId, *, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List a job's checkpoints, newest first."""
    with connect(url, api_key) as server:
        listing = server.all_pages(f"{job_path(job_id)}/checkpoints")
    columns = ["STEP", "MODEL", "LOSS", "VALIDATION LOSS", "CREATED"]
    show_listing(listing, columns, _checkpoint_row, as_json=as_json)


@app.command(cls=settings_command("hub_endpoint"))
def export(
    ctx: typer.Context,
    job_id: JobId,
    target: Annotated[
        str, typer.Argument(metavar="DIR_OR_HF", help="New directory, or hf://org/repo, also with @branch.")
    ],
    *,
    public: Annotated[bool, typer.Option("--public", help="Create or accept a public repository.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write the whole model that a job of method full trained, with a model card: a base model to serve."""
    from server.cli.export import export_model
    from server.cli.export_target import export_target

    destination = export_target(ctx, target, public=public)
    with connect(url, api_key) as server:
        location = export_model(server, job_id, destination)
    typer.echo(f"{job_id}: {location}")
    if location == target:
        show_note(f"next: patchbay serve {location}")


@app.command()
def cancel(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """End a job at once; its checkpoints stay."""
    _post(job_id, "cancel", url, api_key)


@app.command()
def pause(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Pause a job; a running one saves a checkpoint first."""
    _post(job_id, "pause", url, api_key)


@app.command()
def resume(job_id: JobId, *, url: Url = None, api_key: ApiKey = None) -> None:
    """Resume a paused job."""
    _post(job_id, "resume", url, api_key)


def _post(job_id: str, verb: str, url: str | None, api_key: str | None) -> None:
    with connect(url, api_key) as server:
        job = server.post(f"{job_path(job_id)}/{verb}")
    typer.echo(f"{job['id']}: {job['status']}")


def _row(job: Json) -> list[object]:
    times = [format_time(job["created_at"]), job["finished_at"] and format_time(job["finished_at"])]
    names = [job.get("adapter") or job["suffix"], job["fine_tuned_model"]]
    return [job["id"], job["status"], job["method"]["type"], *names, *times]


def _checkpoint_row(checkpoint: Json) -> list[object]:
    losses = [checkpoint["metrics"].get(name) for name in ("train_loss", "full_valid_loss")]
    numbers = [loss if loss is None else f"{loss:.4f}" for loss in losses]
    model = checkpoint["fine_tuned_model_checkpoint"]
    return [checkpoint["step_number"], model, *numbers, format_time(checkpoint["created_at"])]


def _fields(job: Json) -> dict[str, object]:
    """Return a job's fields, each value as text for a terminal."""
    known: dict[str, Any] = {"id": job["id"], "status": job["status"], **job, "method": job["method"]["type"]}
    del known["object"]
    if job["error"] is not None:
        known["error"] = f"{job['error']['code']}: {job['error']['message']}"
    times = {words: job[name] and format_time(job[name]) for name, words in _TIMES.items()}
    rest = {name.replace("_", " "): _readable(value) for name, value in known.items() if name not in _TIMES}
    return {**rest, **times}


def _readable(value: Any) -> object:
    return [f"{name}={entry}" for name, entry in value.items()] if isinstance(value, dict) else value
