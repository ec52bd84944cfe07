"""``patchbay check``: the preflight of a job, on this machine and without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from adapters.storage.manifest import CONFIG_FILE
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, spinner
from server.cli.run_options import PromptOption, TrainingCommand, method_for, read_prompt_file, split_options
from server.cli.verdict import show_verdict
from trainer.data.faults import WarningKind

if TYPE_CHECKING:
    from trainer.run_spec import RunSpec

app = typer.Typer()

_FILES = "File to train on: JSON lines, a JSON array, CSV or Parquet, each plain or gzipped."
_Rows = typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help=_FILES)
_HeldOut = typer.Option(metavar="FILE", exists=True, dir_okay=False, readable=True, help="Never trained on.")
_Base = typer.Option(metavar="DIR", exists=True, file_okay=False, help="Base model; by default the embedded one.")
_WarmStart = typer.Option(metavar="DIR", exists=True, file_okay=False, help="Adapter to go on from.")
_SERVED: Final = "As the server is started"
_Template = typer.Option(metavar="FILE", exists=True, dir_okay=False, rich_help_panel=_SERVED, help="Chat template.")
_TemplateArguments = typer.Option(metavar="JSON", rich_help_panel=_SERVED, help="Arguments of the chat template.")
_Content = typer.Option(metavar="auto|string|openai", rich_help_panel=_SERVED, help="How content is given to it.")
_Tokenizer = typer.Option(metavar="DIR", exists=True, file_okay=False, rich_help_panel=_SERVED, help="Tokenizer.")


@app.command("check", cls=TrainingCommand, rich_help_panel="Train")
def check(
    ctx: typer.Context,
    file: Annotated[Path, _Rows],
    *,
    validation: Annotated[Path | None, _HeldOut] = None,
    model: Annotated[Path | None, _Base] = None,
    warm_start: Annotated[Path | None, _WarmStart] = None,
    prompt: Annotated[str | None, PromptOption] = None,
    cost_per_hour: Annotated[float | None, typer.Option(min=0, help="Of this machine, in any currency.")] = None,
    chat_template: Annotated[Path | None, _Template] = None,
    default_chat_template_kwargs: Annotated[str | None, _TemplateArguments] = None,
    chat_template_content_format: Annotated[str, _Content] = "auto",
    tokenizer: Annotated[Path | None, _Tokenizer] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a file with warnings, but for its size.")] = False,
    as_json: AsJson = False,
) -> None:
    """Report whether a file can be trained on, its faults, and the time and memory that training would take here."""
    import embedded
    from trainer.data.prompts import read_prompt
    from trainer.renderer_options import RendererOptions
    from trainer.run_spec import RunSpec
    from trainer.training_method import TrainingMethod

    _check_directory("--model", model, "config.json")
    _check_directory("--warm-start", warm_start, CONFIG_FILE)
    method = ctx.obj.pop("method", None) or (method_for(file) if prompt is None else TrainingMethod.DISTILL)
    of_method, of_job = split_options(method, ctx.obj)
    if prompt is not None and not method.traits.is_taught:
        raise CommandFailed(ExitCode.USAGE, f"--method {method} takes no --prompt")
    files = {"training_file": file, "validation_file": validation, "warm_start": warm_start}
    renderer = RendererOptions(
        chat_template=None if chat_template is None else chat_template.read_text(),
        default_chat_template_kwargs=_json_object("--default-chat-template-kwargs", default_chat_template_kwargs),
        chat_template_content_format=chat_template_content_format,
        tokenizer=None if tokenizer is None else str(tokenizer.absolute()),
    )
    distilled = () if prompt is None else read_prompt(read_prompt_file(prompt), "--prompt")
    options = {**files, **of_method, **of_job, "prompt": distilled}
    spec = RunSpec(base=model or embedded.BASE, method=method, renderer=renderer, **options)
    report = _without_warnings(_report(spec)) if strict else _report(spec)
    if as_json:
        show_json(report)
    else:
        show_verdict(spec, report, cost_per_hour)
    if not report["ok"]:
        raise typer.Exit(ExitCode.REFUSED)


def _check_directory(option: str, directory: Path | None, config: str) -> None:
    if directory is not None and not (directory / config).is_file():
        raise CommandFailed(ExitCode.USAGE, f"{option} {directory} has no {config}")


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise CommandFailed(ExitCode.USAGE, f"{option} {text}: {error}") from error
    if not isinstance(value, dict):
        raise CommandFailed(ExitCode.USAGE, f"{option} {text}: needs a JSON object")
    return value


def _without_warnings(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the report as one of a refusal if a file has warnings, but for one that counts its rows alone."""
    files = [found for found in (report["training"], report["validation"]) if found is not None]
    warnings = [warning for found in files for warning in found["warnings"] if warning["kind"] != WarningKind.FEW_ROWS]
    if report["ok"] and (count := len(warnings)):
        return {**report, "ok": False, "reason": f"--strict, and there are warnings of {count} kinds"}
    return report


def _report(spec: RunSpec) -> Mapping[str, Any]:
    from trainer.child import run_preflight
    from trainer.errors import PreflightDied

    with spinner(f"checking {spec.training_file.name}"):
        try:
            return asyncio.run(run_preflight(spec))
        except PreflightDied as died:
            raise CommandFailed(ExitCode.REFUSED, died.message, *died.log.splitlines()) from died
