"""Failures of a command: an error line on stderr and an exit code that says why."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import typer
from typer.core import TyperGroup

from adapters.errors import InvalidName, NotFound, PatchbayError
from server.errors import MissingScope


class ExitCode(IntEnum):
    """Why a command failed."""

    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4


EXIT_CODES: Final = (
    "Exit codes: 0 success; 1 the server or a check refused, or the watched job failed; 2 wrong usage; 3 the server "
    "cannot be reached; 4 the named object does not exist; 130 Ctrl-C while watching a job, which continues. `serve` "
    "and `worker` have their own."
)


class CommandFailed(Exception):
    """A command cannot continue; ``details`` are printed below the message, one per line."""

    def __init__(self, code: ExitCode, message: str, *details: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @classmethod
    def from_refusal(cls, refusal: PatchbayError) -> CommandFailed:
        """Return the failure for an error raised in this process, without a server."""
        codes = {InvalidName: ExitCode.USAGE, MissingScope: ExitCode.USAGE, NotFound: ExitCode.NOT_FOUND}
        code = next((code for kind, code in codes.items() if isinstance(refusal, kind)), ExitCode.REFUSED)
        return cls(code, refusal.message)

    def show(self) -> None:
        """Print the message and its details to stderr."""
        typer.echo(f"error: {self.message}", err=True)
        for detail in self.details:
            typer.echo(f"  {detail}", err=True)


class FailureGroup(TyperGroup):
    """The root group: prints the failure of a command and exits with its code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PatchbayError as refusal:
            failed = CommandFailed.from_refusal(refusal)
        except CommandFailed as known:
            failed = known
        failed.show()
        raise typer.Exit(failed.code)
