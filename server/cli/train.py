"""``patchbay train``: a file goes up, a job is created, and on demand it is watched to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from adapters.names import check_adapter_name
from server.cli import run_options as options
from server.cli import transfer
from server.cli.client import ApiClient, ApiKey, Json, Url, connect
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, show_note
from server.cli.watch import check_outcome, watch
from trainer.files.file import Purpose
from trainer.run_spec import TrainingMethod

app = typer.Typer()

_FILE_ID: Final = "file-"
_WHICH: Final = "A file here, or the id of one on the server."


@app.command("train", rich_help_panel="Train")
def train(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="F.jsonl", help=_WHICH)],
    *,
    name: Annotated[str | None, typer.Option(help="Adapter that becomes a version richer.")] = None,
    model: Annotated[str | None, typer.Option(metavar="REF", help="What to train; else the server's base.")] = None,
    method: options.MethodOf = None,
    validation: Annotated[str | None, typer.Option(metavar="V.jsonl", help=f"{_WHICH} Never trained on.")] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    rate_multiplier: options.RateMultiplier = None,
    beta: options.Beta = None,
    rank: options.Rank = None,
    alpha: options.Alpha = None,
    targets: options.Targets = None,
    quantization: options.QuantizationOf = None,
    max_length: options.MaxLength = None,
    drop_long: options.DropLong = None,
    packing: options.Packing = None,
    patience: options.Patience = None,
    checkpoint_steps: options.CheckpointSteps = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed makes the same weights.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the fine-tuned model's name.")] = None,
    warm_start: Annotated[str | None, typer.Option(metavar="REF", help="Adapter to go on from.")] = None,
    watches: Annotated[bool, typer.Option("--watch", help="Show what happens until the job has ended.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Create a job that trains an adapter on a file."""
    if name is not None:
        check_adapter_name(name)
    body = _stated(ctx.params)
    for each in (file, validation):
        _check_file(each)
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
        _tell_outcome(job, as_json=as_json)
    elif not as_json:
        show_note(f"next: patchbay jobs events {job['id']} --follow")


def _stated(params: Mapping[str, Any]) -> Json:
    """Return the body of a job, of what the command line states; its files and its model are not in it yet."""
    words = {"name": "adapter", "seed": "seed", "suffix": "suffix", "warm_start": "warm_start"}
    body = {word: params[name] for name, word in words.items() if params[name] is not None} | options.own(params)
    numbers, method = options.hyperparameters(params), params["method"]
    if method is None and not numbers:
        return body
    kind = str(TrainingMethod(method or TrainingMethod.SUPERVISED))
    return {**body, "method": {"type": kind, **({kind: {"hyperparameters": numbers}} if numbers else {})}}


def _check_file(file: str | None) -> None:
    if file is not None and not file.startswith(_FILE_ID) and not Path(file).is_file():
        rule = f"the id of a file on the server begins with {_FILE_ID}"
        raise CommandFailed(ExitCode.USAGE, f"there is no file {file} here; {rule}")


def _file_id(server: ApiClient, file: str) -> str:
    """Return the id of ``file``, uploaded if it is none."""
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


def _tell_outcome(job: Json, *, as_json: bool) -> None:
    model = check_outcome(job)
    if not as_json:
        typer.echo(model)
        show_note(f"next: patchbay chat {model}")
