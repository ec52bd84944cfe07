"""``patchbay serve``: settings from options and the environment; every other option goes to vLLM."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from server.cli.failure import CommandFailed, ExitCode
from server.cli.settings import SettingsCommand, settings_of
from server.engine.vllm import environment, patches
from server.engine.vllm.process_logs import ProcessLogs

if TYPE_CHECKING:
    from server.settings import Settings

app = typer.Typer()


class ServeCommand(SettingsCommand):
    """Takes every setting; arguments that are none of patchbay's options become ``engine_flags``, in order."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``. The parser takes the first other argument for MODEL, even if it is an option of vLLM."""
        flags: Sequence[str] = super().parse_args(ctx, args)
        if ctx.obj.get("model", "").startswith("-"):
            flags = (ctx.obj.pop("model"), *flags)
        if flags:
            ctx.obj["engine_flags"] = tuple(flags)
        return []


def _print_engine_help(is_given: bool) -> None:  # noqa: FBT001 - typer calls it
    if is_given:
        from server.engine.vllm.flags import print_engine_help

        print_engine_help()
        raise typer.Exit


HelpEngine = Annotated[
    bool,
    typer.Option("--help-engine", is_eager=True, callback=_print_engine_help, help="List vLLM's options and exit."),
]


@app.command(
    cls=ServeCommand,
    rich_help_panel="Serve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any other option goes to vLLM unchanged; --help-engine lists them. MODEL comes before the first of them.",
)
def serve(ctx: typer.Context, *, help_engine: HelpEngine = False) -> None:
    """Serve a base model and its adapters."""
    _end(_serve(settings_of(ctx)))


def _end(exit_code: int) -> NoReturn:
    """End this process without the interpreter's own end, where extension modules report what they leak."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _serve(chosen: Settings) -> int:
    started = time.monotonic()
    logs = ProcessLogs(chosen.data_dir.absolute() / "engine")
    try:
        logs.write(chosen.log_format, chosen.log_level, environment.logging_level())
    except OSError as unwritable:
        raise CommandFailed(ExitCode.USAGE, f"--data-dir {chosen.data_dir}: {unwritable.strerror}") from unwritable
    patches.prepare_import(logs.config)
    from server import process, settings

    try:
        return process.serve(chosen, logs, started)
    except (process.CannotListen, settings.ExposedWithoutKeys) as refused:
        raise CommandFailed(ExitCode.USAGE, str(refused)) from refused
