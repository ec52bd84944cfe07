"""What people read: tables, sizes, moments. Results go to stdout; progress and remarks to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_PIPE_WIDTH: Final = 240
"""Columns where stdout is no terminal: a line a row, whatever reads it."""
_SECONDS_WITH_TENTHS: Final = 10


def show_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print ``rows`` under ``columns``; None reads ``-``."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, row))
    _stdout().print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Print ``fields``, a line each."""
    grid = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        grid.add_row(Text(name, style="bold"), _cell(value))
    _stdout().print(grid)


def show_text(text: str, *, style: str = "") -> None:
    """Print a line, as long as it is."""
    _stdout().print(Text(text, style=style), soft_wrap=True)


def show_heading(text: str) -> None:
    """Print what the next lines are about, below a blank one."""
    typer.echo()
    show_text(text, style="bold")


def show_marked(parts: Iterable[tuple[str, bool]]) -> None:
    """Print text whose parts are marked or not: in reverse on a terminal, between ⟦ and ⟧ elsewhere."""
    console, whole = _stdout(), Text()
    for text, is_marked in parts:
        if not is_marked:
            whole.append(text)
        elif console.is_terminal:
            whole.append(text, style="reverse green")
        else:
            whole.append(f"⟦{text}⟧")
    console.print(whole, soft_wrap=True)


def show_note(text: str) -> None:
    """Tell the person at the terminal something that is no result."""
    typer.echo(text, err=True)


def transfer_progress() -> Progress:
    """Return progress bars for bytes, gone when they are done; none where nobody watches."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


def training_progress(console: Console) -> Progress:
    """Return a bar for steps on ``console``; its task's field ``numbers`` is the text behind it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[numbers]}"))
    return Progress(*columns, console=console)


def spinner(what: str) -> AbstractContextManager[object]:
    """Show that ``what`` goes on while the block runs; nothing where nobody watches."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()


def format_bytes(count: int) -> str:
    """Return a number of bytes as people say it."""
    return decimal(count)


def format_time(unix_s: float, *, seconds: bool = False) -> str:
    """Return a moment in this machine's time zone."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def format_duration(seconds: float) -> str:
    """Return a span of time as people say it, in its two largest units."""
    if seconds < _SECONDS_WITH_TENTHS:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (h, "h"), (m, "min"), (s, "s")) if count]
    return " ".join(parts[:2])


def _cell(value: object) -> Text:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return Text("-" if value is None or value == "" else str(value))


def _stdout() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)
