"""``patchbay serve``: settings from flags and environment, everything else goes to vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from server.cli.failure import CommandFailed, ExitCode
from server.cli.settings import settings_from
from server.engine.vllm.cpu import fork_server
from server.engine.vllm.flags import print_engine_help

if TYPE_CHECKING:
    from server.settings import Settings

app = typer.Typer()


class SettingsCommand(TyperCommand):
    """A command whose options are settings: what they mean and default to is read where they are defined."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        from server.settings import PREFIX, Settings

        for option in self.params:
            field = Settings.model_fields.get(option.name or "")
            if field is not None and isinstance(option, TyperOption):
                default = "" if field.default in (None, ()) else f"Default: {field.default}."
                parts = (field.description, default, f"{PREFIX}{option.name}".upper())
                option.help = " ".join(part for part in parts if part)
        super().format_help(ctx, formatter)


def _print_engine_help(asked: bool) -> None:  # noqa: FBT001 - typer calls it
    if asked:
        print_engine_help()
        raise typer.Exit


HelpEngine = Annotated[
    bool,
    typer.Option("--help-engine", is_eager=True, callback=_print_engine_help, help="List vLLM's options and exit."),
]


@app.command(
    cls=SettingsCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any other option goes to vLLM as it is; --help-engine lists them. MODEL comes before the first of them.",
)
def serve(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Directory or hub id; else the embedded base model.")] = None,
    *,
    host: str | None = None,
    port: int | None = None,
    allow_anonymous: Annotated[bool | None, typer.Option("--allow-anonymous")] = None,
    data_dir: Path | None = None,
    database_url: str | None = None,
    blob_url: str | None = None,
    source_dirs: Annotated[list[Path] | None, typer.Option("--source-dir")] = None,
    source_buckets: Annotated[list[str] | None, typer.Option("--source-bucket")] = None,
    hub_endpoint: str | None = None,
    max_upload_bytes: int | None = None,
    max_compile_bytes: int | None = None,
    max_compile_s: int | None = None,
    max_file_bytes: int | None = None,
    probe_reference: Literal["auto", "on", "off"] | None = None,
    worker: Annotated[bool | None, typer.Option("--worker/--no-worker")] = None,
    integrations: Annotated[list[str] | None, typer.Option("--integration", metavar="wandb")] = None,
    train_processes: int | None = None,
    max_residents: int | None = None,
    max_resident_bytes: int | None = None,
    load_wait_s: float | None = None,
    max_in_flight: int | None = None,
    turn_s: float | None = None,
    drain_s: float | None = None,
    max_engine_deaths: int | None = None,
    engine_death_window_s: float | None = None,
    follow_interval_s: float | None = None,
    sweep_interval_s: float | None = None,
    sweep_grace_s: float | None = None,
    metric_adapters: int | None = None,
    log_format: Literal["text", "json"] | None = None,
    help_engine: HelpEngine = False,
) -> None:
    """Serve a base model and its adapters until told to stop."""
    raise typer.Exit(_serve(settings_from(**given_settings(ctx.params, ctx.args))))


def given_settings(options: dict[str, Any], rest: list[str]) -> dict[str, object]:
    """Return the settings that the command line states; None: not said.

    ``rest`` is what no option of ours claimed, in order. The parser takes its first word for MODEL, also where that
    is an option of vLLM.
    """
    given = {name: value or None if isinstance(value, list | tuple) else value for name, value in options.items()}
    del given["help_engine"]
    model = options["model"]
    if model is None or not model.startswith("-"):
        return {**given, "engine_flags": tuple(rest) or None}
    return {**given, "model": None, "engine_flags": (model, *rest)}


def _serve(stated: Settings) -> int:
    fork_server.begin()
    from server import process, settings

    try:
        return process.serve(stated)
    except (process.CannotListen, settings.ExposedWithoutKeys) as refused:
        raise CommandFailed(ExitCode.USAGE, str(refused)) from refused
