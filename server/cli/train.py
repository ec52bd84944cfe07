"""``patchbay train``: uploads a file, creates a job, and on demand watches it to its end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from adapters.names import check_adapter_name
from server.cli import transfer
from server.cli.client import ApiClient, ApiKey, Json, Url, connect
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, show_note
from server.cli.run_options import PromptOption, TrainingCommand, method_for, read_prompt_file, split_options
from server.cli.watch import check_outcome, watch
from trainer.files.file import Purpose

app = typer.Typer()

_FILE_ID: Final = "file-"
_WHICH: Final = "A local file (JSON lines, JSON array, CSV or Parquet; .gz too), or the id of one on the server."


@app.command("train", cls=TrainingCommand, rich_help_panel="Train")
def train(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help=_WHICH)],
    *,
    name: Annotated[
        str | None, typer.Option(help="Adapter to publish the result to, as its next version; else --suffix names it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="REF", help="Model to train; by default the server's base model.")
    ] = None,
    validation: Annotated[str | None, typer.Option(metavar="FILE", help=f"{_WHICH} Never trained on.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the fine-tuned model's name.")] = None,
    warm_start: Annotated[str | None, typer.Option(metavar="REF", help="Adapter to go on from.")] = None,
    grader: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="Grader of drawn answers; with it, the method is reinforcement."),
    ] = None,
    prompt: Annotated[str | None, PromptOption] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="REF", help="With --prompt, the model that answers; by default the server's base model."),
    ] = None,
    watches: Annotated[bool, typer.Option("--watch", help="Show the job's events until it has ended.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Create a job that trains an adapter on a file."""
    if name is not None:
        check_adapter_name(name)
    fields = {"adapter": name, "suffix": suffix, "warm_start": warm_start}
    for each in (file, validation):
        _check_file(each)
    body = {key: value for key, value in fields.items() if value is not None} | _options(
        ctx.obj, file, {"grader": grader, "prompt": prompt, "teacher": teacher}
    )
    with connect(url, api_key) as server:
        body["model"] = model or _base_model(server)
        body["training_file"] = _file_id(server, file)
        if validation is not None:
            body["validation_file"] = _file_id(server, validation)
        job = server.post("/v1/fine_tuning/jobs", body)
        if not as_json:
            typer.echo(job["id"])
        if watches:
            job = watch(server, job["id"], on_stderr=as_json)
    if as_json:
        show_json(job)
    if watches:
        _show_outcome(job, as_json=as_json)
    elif not as_json:
        show_note(f"next: patchbay jobs events {job['id']} --follow")


def _options(stated: dict[str, Any], file: str, beside: Mapping[str, str | None]) -> Json:
    """Return the stated options as fields of a job's body: hyperparameters, grader and prompt are part of its method.

    Without a stated method it is the one for the grader or the prompt ``beside`` them, else the one for the format of
    ``file``; a file on the server is not read for that.
    """
    from trainer.training_method import TrainingMethod

    fields: Json = {name: value for name, value in beside.items() if value is not None}
    method = stated.pop("method", None)
    if method is None and "grader" in fields:
        method = TrainingMethod.REINFORCEMENT
    if method is None and "prompt" in fields:
        method = TrainingMethod.DISTILL
    if method is None:
        method = TrainingMethod.SUPERVISED if file.startswith(_FILE_ID) else method_for(Path(file))
    takes = {"grader": method.draws, "prompt": method.traits.is_taught, "teacher": method.traits.is_taught}
    for name, is_taken in takes.items():
        if name in fields and not is_taken:
            raise CommandFailed(ExitCode.USAGE, f"--method {method} takes no --{name}")
        if is_taken and name not in fields and name != "teacher":
            raise CommandFailed(ExitCode.USAGE, f"--method {method} needs a --{name}")
    of_method, of_job = split_options(method, stated)
    if "grader" in fields:
        fields["grader"] = _json(fields["grader"])
    if "prompt" in fields:
        fields["prompt"] = read_prompt_file(fields["prompt"])
    return {**of_job, "method": {"type": method, method: {**fields, "hyperparameters": of_method}}}


def _json(stated: str) -> Json:
    """Return the JSON object that is stated, or that the file has.

    Raises:
        CommandFailed: it is none.
    """
    try:
        text = stated if stated.lstrip().startswith("{") else Path(stated).read_text()
        grader: Json = json.loads(text)
    except (OSError, ValueError) as error:
        raise CommandFailed(ExitCode.USAGE, f"--grader {stated[:100]}: {error}") from error
    return grader


def _check_file(file: str | None) -> None:
    if file is not None and not file.startswith(_FILE_ID) and not Path(file).is_file():
        rule = f"the id of a file on the server begins with {_FILE_ID}"
        raise CommandFailed(ExitCode.USAGE, f"there is no file {file} here; {rule}")


def _file_id(server: ApiClient, file: str) -> str:
    """Return the id of ``file``, uploaded if it is a local file."""
    if file.startswith(_FILE_ID):
        return file
    uploaded: str = transfer.push_file(server, Path(file), Purpose.FINE_TUNE)["id"]
    return uploaded


def _base_model(server: ApiClient) -> str:
    for model in server.get("/v1/models")["data"]:
        if model["parent"] is None and model["root"] == model["id"]:
            name: str = model["id"]
            return name
    raise CommandFailed(ExitCode.REFUSED, "the server does not know its base model yet: wait until it is ready")


def _show_outcome(job: Json, *, as_json: bool) -> None:
    from trainer.training_method import TrainingMethod

    model = check_outcome(job)
    if not as_json:
        if (verdict := job.get("verdict")) is not None:
            show_note(f"verdict: {verdict['message']}")
        typer.echo(model)
        show_note(f"next: patchbay chat {model}")
        if job["method"]["type"] == TrainingMethod.FULL:
            show_note(f"the whole model: patchbay jobs export {job['id']} DIR")
