"""``patchbay feedback``: rates answers, lists and deletes feedback, and makes training files of it, over HTTP."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from server.cli import transfer
from server.cli.client import ApiKey, Json, Url, connect, without_none
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, format_time, show_listing, show_note
from trainer.feedback.training_rows import FeedbackFormat

app = typer.Typer(no_args_is_help=True, help="Feedback on answers, and training files made of it.")

_PATH: Final = "/v1/feedback"
_COLUMNS: Final = ["ID", "KIND", "RATING", "ANSWERS", "CREATED"]


@app.command()
def give(
    answer: Annotated[str, typer.Argument(metavar="ID", help="Id of a stored chat completion or response.")],
    *,
    is_good: Annotated[bool | None, typer.Option("--up/--down", help="Rate it good, or bad.")] = None,
    correction: Annotated[str | None, typer.Option(help="Text that the answer should have been.")] = None,
    over: Annotated[str | None, typer.Option(metavar="ID", help="A worse answer to the same prompt.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Rate an answer, correct it, or prefer it over another one; prints the feedback's id."""
    if [is_good is None, correction is None, over is None].count(False) != 1:
        raise CommandFailed(ExitCode.USAGE, "say one of --up, --down, --correction TEXT and --over ID")
    rating = None if is_good is None else "up" if is_good else "down"
    body = {"preferred": answer, "rejected": over} if over else {"answer": answer}
    with connect(url, api_key) as server:
        typer.echo(server.post(_PATH, {**body, **without_none(rating=rating, correction=correction)})["id"])


@app.command("list")
def list_feedback(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Largest number of entries.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List the feedback, newest first."""
    with connect(url, api_key) as server:
        listing = server.get(_PATH, limit=limit)
    show_listing(listing, _COLUMNS, _row, as_json=as_json)


@app.command()
def rm(
    feedback_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `patchbay feedback list`.")],
    *,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete feedback, with the prompt and the answers in it."""
    with connect(url, api_key) as server:
        server.send("DELETE", f"{_PATH}/{quote(feedback_id, safe='')}")
    show_note(f"deleted feedback '{feedback_id}'")


@app.command()
def export(
    *,
    form: Annotated[FeedbackFormat, typer.Option("--as", help="Method that the rows are for.")],
    since: Annotated[
        str | None, typer.Option(help="Only feedback from this time on: ISO 8601 or Unix seconds.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Only feedback on answers of this adapter.")] = None,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to download the rows to, as JSON lines.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Make a training file of feedback and print its id, for `patchbay train`; --output downloads it too."""
    with connect(url, api_key) as server:
        body = {"as": str(form), **without_none(since=since, adapter=adapter)}
        file = server.post(f"{_PATH}/export", body)
        if output is not None:
            transfer.pull_file(server, f"/v1/files/{file['id']}/content", output, file["bytes"])
    typer.echo(file["id"])


def _row(feedback: Json) -> list[object]:
    answers = ", ".join(f"{answer['id']} ({answer['model']})" for answer in feedback["answers"])
    return [feedback["id"], feedback["kind"], feedback["rating"], answers, format_time(feedback["created_at"])]
