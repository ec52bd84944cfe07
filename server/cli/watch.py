"""A job as it happens: its events from the server as they come, on a terminal with a bar below them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from server.cli.client import ApiClient, Json, read_events
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import format_duration, format_time, show_note, training_progress

RETRY_S: Final = 1.0
MOST_TRIES: Final = 60
"""How often in a row a broken connection is opened again: a server that is started anew listens within seconds."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""

_NUMBERS: Final[Mapping[str, Callable[[float], str]]] = {
    "train_loss": "loss {:.4f}".format,
    "eta_s": lambda seconds: f"{format_duration(seconds)} left",
    "full_valid_loss": "validation loss {:.4f}".format,
    "tokens_per_second": "{:.0f} tokens/s".format,
}
"""What the bar shows of an event's data; a narrow screen has no room for the last."""


def job_path(job_id: str) -> str:
    """Return where the job is."""
    return f"/v1/fine_tuning/jobs/{quote(job_id, safe='')}"


def follow(server: ApiClient, job_id: str, *, retry_s: float = RETRY_S) -> Iterator[Json]:
    """Yield the job's events, oldest first, until the job has ended; none is missed where a connection breaks.

    Raises:
        CommandFailed: the server refuses.
        httpx.TransportError: it cannot be reached, or no longer.
    """
    last: str | None = None
    failures = 0
    while True:
        query = {"stream": "true"} | ({} if last is None else {"after": last})
        try:
            with server.stream("GET", f"{job_path(job_id)}/events", params=query) as response:
                for event in read_events(response.iter_lines()):
                    last, failures = event["id"], 0
                    yield event
                return
        except httpx.TransportError:
            failures += 1
            if last is None or failures > MOST_TRIES:  # every job has events: this server has never answered
                raise
        if failures == 1:
            show_note("the connection broke off; opening it again")
        time.sleep(retry_s)


def watch(server: ApiClient, job_id: str, *, on_stderr: bool = False) -> Json:
    """Show what happens to the job until it has ended, and return it then.

    Raises:
        CommandFailed: the server refuses.
        typer.Exit: somebody pressed Ctrl-C; the job goes on.
    """
    with leaving(job_id), _screen(on_stderr=on_stderr) as show:
        for event in follow(server, job_id):
            show(event)
    return server.get(job_path(job_id))


def check_outcome(job: Json) -> str:
    """Return the model that an ended job made.

    Raises:
        CommandFailed: it made none.
    """
    if job["status"] == "succeeded":
        model: str = job["fine_tuned_model"]
        return model
    if job["error"] is not None:
        raise CommandFailed(ExitCode.REFUSED, job["error"]["message"])
    kept = f"`patchbay jobs checkpoints {job['id']}` lists what it left"
    raise CommandFailed(ExitCode.REFUSED, f"job '{job['id']}' was {job['status']}; {kept}")


@contextmanager
def leaving(job_id: str) -> Iterator[None]:
    """Where Ctrl-C ends the block, say that the job goes on and how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        show_note(f"\njob '{job_id}' goes on without you")
        show_note(f"come back: patchbay jobs events {job_id} --follow")
        show_note(f"end it:    patchbay jobs cancel {job_id}")
        raise typer.Exit(INTERRUPTED) from None


def line(event: Json) -> str:
    """Return an event as one line of text."""
    level = "" if event["level"] == "info" else f"{event['level']}: "
    return f"{format_time(event['created_at'], seconds=True)}  {level}{event['message']}"


@contextmanager
def _screen(*, on_stderr: bool) -> Iterator[Callable[[Json], None]]:
    """Open what shows events: lines, and where somebody watches a bar instead of the steps' lines."""
    console = Console(stderr=on_stderr)
    if console.is_terminal:
        with training_progress(console) as progress:
            yield _Bar(progress).show
    else:
        yield lambda event: typer.echo(line(event), err=on_stderr)


class _Bar:
    """Steps and their numbers in one line at the bottom; everything else that happens above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for the first step", total=None, numbers="")
        self._seen: Json = {}

    def show(self, event: Json) -> None:
        """Show one event."""
        if event["type"] != "metrics":
            self._progress.console.print(Text(line(event)), soft_wrap=True)
            return
        self._seen |= event["data"]
        step, steps = self._seen["step"], self._seen["total_steps"]
        numbers = ", ".join(
            form(self._seen[name]) for name, form in _NUMBERS.items() if self._seen.get(name) is not None
        )
        self._progress.update(
            self._task, description=f"step {step}/{steps}", total=steps, completed=step, numbers=numbers
        )
