"""Tables, formatted values and progress bars. Results go to stdout; progress and notes to stderr."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_PIPE_WIDTH: Final = 240
"""Columns where stdout is not a terminal: wide enough for one line per row."""
_SECONDS_WITH_TENTHS: Final = 10


def show_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print ``rows`` under ``columns``; None becomes ``-``."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(_cell, row))
    _stdout().print(table)


def show_listing(
    listing: Mapping[str, Any],
    columns: Sequence[str],
    row_of: Callable[[dict[str, Any]], Sequence[object]],
    *,
    as_json: bool,
) -> None:
    """Print a listing of the API as JSON, or as a table with one row for each entry of its ``data``."""
    if as_json:
        show_json(listing)
    else:
        show_table(columns, map(row_of, listing["data"]))


def show_fields(fields: Mapping[str, object]) -> None:
    """Print ``fields``, one per line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        grid.add_row(Text(name, style="bold"), _cell(value))
    _stdout().print(grid)


def show_text(text: str, *, style: str = "") -> None:
    """Print one line without wrapping it."""
    _stdout().print(Text(text, style=style), soft_wrap=True)


def show_heading(text: str) -> None:
    """Print a blank line and a heading."""
    typer.echo()
    show_text(text, style="bold")


def show_marked(parts: Iterable[tuple[str, bool]]) -> None:
    """Print parts of a text; those marked True in reverse on a terminal, between ⟦ and ⟧ elsewhere."""
    console, whole = _stdout(), Text()
    for text, is_marked in parts:
        if not is_marked:
            whole.append(text)
        elif console.is_terminal:
            whole.append(text, style="reverse green")
        else:
            whole.append(f"⟦{text}⟧")
    console.print(whole, soft_wrap=True)


def show_publication(version: Mapping[str, Any]) -> None:
    """Print a version that was just published, in one line, and the notes of its report."""
    aliases = ", ".join(version["aliases"]) or "none"
    typer.echo(f"{version['id']}: rank {version['rank']}, {format_bytes(version['size_bytes'])}, aliases: {aliases}")
    for note in (version.get("report") or {}).get("notes", ()):
        show_note(f"note: {note}")


def show_note(text: str) -> None:
    """Print a line that is not part of the result, to stderr."""
    typer.echo(text, err=True)


def transfer_progress() -> Progress:
    """Return progress bars for bytes, removed when done; disabled where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


def training_progress(console: Console) -> Progress:
    """Return a progress bar for steps on ``console``; its task's field ``numbers`` is the text behind the bar."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[numbers]}"))
    return Progress(*columns, console=console)


def spinner(text: str) -> AbstractContextManager[object]:
    """Return a context manager that shows ``text`` with a spinner; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    return console.status(text) if console.is_terminal else nullcontext()


def format_bytes(count: int) -> str:
    """Return a number of bytes with a decimal unit, such as 1.2 MB."""
    return decimal(count)


def format_time(unix_s: float, *, seconds: bool = False) -> str:
    """Return a Unix time in this machine's time zone, to the minute or the second."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as 2 h 5 min."""
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
