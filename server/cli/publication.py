"""A version that was just published, as people read it."""

from __future__ import annotations

import typer

from server.cli.client import Json
from server.cli.output import format_bytes


def show_publication(version: Json) -> None:
    """Print the version in a line."""
    aliases = ", ".join(version["aliases"]) or "none"
    typer.echo(f"{version['id']}: rank {version['rank']}, {format_bytes(version['size_bytes'])}, aliases: {aliases}")
