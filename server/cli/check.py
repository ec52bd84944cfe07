"""``patchbay check``: what job creation checks, here and without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.storage.manifest import CONFIG_FILE
from server.cli import run_options as options
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, spinner
from server.cli.verdict import show_verdict
from trainer.data.training_file import read_file
from trainer.row_formats import METHODS
from trainer.run_spec import RunSpec, TrainingMethod

app = typer.Typer()

_Rows = typer.Argument(metavar="F.jsonl", exists=True, dir_okay=False, readable=True, help="What would be trained on.")
_HeldOut = typer.Option(metavar="V.jsonl", exists=True, dir_okay=False, readable=True, help="Never trained on.")


@app.command("check", rich_help_panel="Train")
def check(
    ctx: typer.Context,
    file: Annotated[Path, _Rows],
    *,
    validation: Annotated[Path | None, _HeldOut] = None,
    method: options.MethodOf = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Base; else the embedded one.")
    ] = None,
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
    warm_start: Annotated[
        Path | None, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Adapter to go on from.")
    ] = None,
    cost_per_hour: Annotated[float | None, typer.Option(min=0, help="Of this machine, in any currency.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether a file can be trained on, what is wrong with it, and what training would take here."""
    _check_directory("--model", model, "config.json")
    _check_directory("--warm-start", warm_start, CONFIG_FILE)
    spec = RunSpec(
        base=model or _embedded_base(),
        training_file=file,
        validation_file=validation,
        method=method or _guessed(file),
        warm_start=warm_start,
        **_stated(ctx.params),
    )
    report = _report(spec)
    if as_json:
        show_json(report)
    else:
        show_verdict(spec, report, cost_per_hour)
    if not report["ok"]:
        raise typer.Exit(ExitCode.REFUSED)


def _stated(params: Mapping[str, Any]) -> dict[str, Any]:
    stated = options.hyperparameters(params) | options.own(params)
    if isinstance(stated.get("targets"), list):
        stated["targets"] = tuple(stated["targets"])
    return stated


def _check_directory(option: str, directory: Path | None, config: str) -> None:
    if directory is not None and not (directory / config).is_file():
        raise CommandFailed(ExitCode.USAGE, f"{option} {directory} has no {config}")


def _guessed(file: Path) -> TrainingMethod:
    """Return the method that suits the file's first rows."""
    form = next((line.form for line in read_file(file) if line.form is not None), None)
    return TrainingMethod.SUPERVISED if form is None else METHODS[form]


def _embedded_base() -> Path:
    import embedded

    return embedded.BASE


def _report(spec: RunSpec) -> Mapping[str, Any]:
    from trainer.errors import PreflightDied
    from trainer.preflight_process import run_preflight

    with spinner(f"checking {spec.training_file.name}"):
        try:
            return asyncio.run(run_preflight(spec))
        except PreflightDied as died:
            raise CommandFailed(ExitCode.REFUSED, died.message, *died.log.splitlines()) from died
