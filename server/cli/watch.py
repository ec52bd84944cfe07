"""Follows a running job: its events as the server sends them, on a terminal with a progress bar below."""

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
MAX_RETRIES: Final = 60
"""Attempts in a row to reconnect: a restarted server listens within seconds."""
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""

_NUMBERS: Final[Mapping[str, Callable[[float], str]]] = {
    "train_loss": "loss {:.4f}".format,
    "eta_s": lambda seconds: f"{format_duration(seconds)} left",
    "full_valid_loss": "validation loss {:.4f}".format,
    "tokens_per_second": "{:.0f} tokens/s".format,
}
"""Values of an event's data that the bar shows, the ones that a narrow terminal cuts off last."""


def job_path(job_id: str) -> str:
    """Return the URL path of a job."""
    return f"/v1/fine_tuning/jobs/{quote(job_id, safe='')}"


def follow(server: ApiClient, job_id: str, *, retry_s: float = RETRY_S) -> Iterator[Json]:
    """Yield the job's events, oldest first, until the job has ended.

    After a broken connection, and where a server that stops has ended the stream, it goes on from the last event.

    Raises:
        CommandFailed: the server refuses.
        httpx.TransportError: the server cannot be reached, or not again.
    """
    last: str | None = None
    is_known, failures = False, 0
    while True:
        query = {"stream": "true"} | ({} if last is None else {"after": last})
        try:
            with server.stream("GET", f"{job_path(job_id)}/events", params=query) as response:
                is_known, failures = True, 0
                for event in read_events(response.iter_lines()):
                    last = event["id"]
                    yield event
                return
        except httpx.TransportError:
            failures += 1
            if not is_known or failures > MAX_RETRIES:
                raise
        if failures == 1:
            show_note("connection lost; reconnecting")
        time.sleep(retry_s)


def watch(server: ApiClient, job_id: str, *, on_stderr: bool = False) -> Json:
    """Show the job's events until it has ended; return the ended job.

    Raises:
        CommandFailed: the server refuses.
        typer.Exit: Ctrl-C was pressed; the job continues.
    """
    with until_interrupt(job_id), _screen(on_stderr=on_stderr) as show:
        for event in follow(server, job_id):
            show(event)
    return server.get(job_path(job_id))


def check_outcome(job: Json) -> str:
    """Return the fine-tuned model of an ended job.

    Raises:
        CommandFailed: the job failed or was cancelled.
    """
    if job["status"] == "succeeded":
        model: str = job["fine_tuned_model"]
        return model
    if job["error"] is not None:
        raise CommandFailed(ExitCode.REFUSED, job["error"]["message"])
    hint = f"`patchbay jobs checkpoints {job['id']}` lists its checkpoints"
    raise CommandFailed(ExitCode.REFUSED, f"job '{job['id']}' was {job['status']}; {hint}")


@contextmanager
def until_interrupt(job_id: str) -> Iterator[None]:
    """Exit the program on Ctrl-C in the block, with a note that the job continues and how to follow or cancel it."""
    try:
        yield
    except KeyboardInterrupt:
        show_note(f"\njob '{job_id}' continues on the server")
        show_note(f"follow: patchbay jobs events {job_id} --follow")
        show_note(f"cancel: patchbay jobs cancel {job_id}")
        raise typer.Exit(INTERRUPTED) from None


def format_event(event: Json) -> str:
    """Return an event as one line of text."""
    level = "" if event["level"] == "info" else f"{event['level']}: "
    return f"{format_time(event['created_at'], seconds=True)}  {level}{event['message']}"


@contextmanager
def _screen(*, on_stderr: bool) -> Iterator[Callable[[Json], None]]:
    """Yield a function that shows an event: as a line, or on a terminal in a progress bar if it has metrics."""
    console = Console(stderr=on_stderr)
    if console.is_terminal:
        with training_progress(console) as progress:
            yield _Bar(progress).show
    else:
        yield lambda event: typer.echo(format_event(event), err=on_stderr)


class _Bar:
    """A progress bar of the steps and their metrics; other events are printed above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for the first step", total=None, numbers="")
        self._data: Json = {}

    def show(self, event: Json) -> None:
        """Show one event."""
        if event["type"] != "metrics":
            self._progress.console.print(Text(format_event(event)), soft_wrap=True)
            return
        self._data |= event["data"]
        step, steps = self._data["step"], self._data["total_steps"]
        numbers = ", ".join(
            form(self._data[name]) for name, form in _NUMBERS.items() if self._data.get(name) is not None
        )
        self._progress.update(
            self._task, description=f"step {step}/{steps}", total=steps, completed=step, numbers=numbers
        )
