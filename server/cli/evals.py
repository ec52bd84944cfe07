"""``patchbay eval``: compares models by a grader's scores on the same items, and writes a report."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from server.cli import transfer
from server.cli.client import ApiClient, ApiKey, Json, Url, connect, without_none
from server.cli.eval_items import read_items
from server.cli.failure import CommandFailed, ExitCode
from server.cli.output import AsJson, show_json, show_note, show_table, spinner
from server.cli.watch import INTERRUPTED
from trainer.files.file import Purpose

app = typer.Typer()

POLL_S: Final = 0.5
_ANSWER, _REFERENCE = "{{sample.output_text}}", "{{item.reference}}"
_CHECK: Final = {"type": "string_check", "input": _ANSWER, "reference": _REFERENCE}
SHORTCUTS: Final[Mapping[str, Json]] = {
    "exact": {**_CHECK, "operation": "eq"},
    "contains": {**_CHECK, "operation": "ilike"},
    "similar": {
        "type": "text_similarity",
        "input": _ANSWER,
        "reference": _REFERENCE,
        "evaluation_metric": "fuzzy_match",
        "pass_threshold": 0.8,
    },
}
_BESIDE: Final = ("DIFFERENCE", "95 % INTERVAL", "WINS", "TIES", "LOSSES")
_COLUMNS: Final = ("MODEL", "SCORE", "PASSED", *_BESIDE, "ERRORS", "TOKENS")


@app.command("eval", rich_help_panel="Measure")
def evaluate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Training file, or JSON lines of items.", exists=True, dir_okay=False)
    ],
    references: Annotated[list[str], typer.Argument(metavar="REF…", help="Models; others are compared to the first.")],
    *,
    grader: Annotated[
        str, typer.Option(metavar="G", help=f"Grader: {', '.join(SHORTCUTS)}, a JSON file, or JSON.")
    ] = "exact",
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, at most.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report. Default: the eval's id.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Compare models on the same items: mean score, pass rate, and whether differences are more than chance.

    In a training file, the last answer of a row is its reference, {{item.reference}}. The report has report.html,
    report.json and rows.csv.
    """
    criterion = {"name": "grader", **_grader(grader)}
    items = read_items(data)
    sampling = without_none(temperature=temperature, max_completion_tokens=max_tokens)
    with connect(url, api_key) as server:
        eval_id, runs = _start(server, data.name, criterion, items, references, sampling)
        runs = _finished(server, runs)
        outputs = [server.all_pages(f"{_path(run)}/output_items")["data"] for run in runs]
    from server.cli.eval_report import summarize, write_report  # numpy

    head = {"eval_id": eval_id, "data": str(data), "grader": criterion, "items": len(items)}
    summary: Json = {**head, "models": summarize(references, runs, outputs)}
    folder = report or Path(eval_id)
    write_report(folder, summary, items, outputs)
    if as_json:
        show_json(summary)
        return
    show_table(_COLUMNS, [_row(model) for model in summary["models"]])
    show_note(f"report: {folder / 'report.html'}")


def _grader(text: str) -> Json:
    """Return the definition of a grader.

    Raises:
        CommandFailed: it is neither a shortcut nor JSON.
    """
    if text in SHORTCUTS:
        return SHORTCUTS[text]
    try:
        value = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
    except (OSError, ValueError) as error:
        wanted = f"{', '.join(SHORTCUTS)}, a JSON file, or a JSON object"
        raise CommandFailed(ExitCode.USAGE, f"--grader {text[:80]!r}: {error}; write {wanted}") from error
    if not isinstance(value, dict):
        raise CommandFailed(ExitCode.USAGE, f"--grader {text[:80]!r} is no JSON object")
    return value


def _start(
    server: ApiClient, name: str, criterion: Json, items: Sequence[Json], references: Sequence[str], sampling: Json
) -> tuple[str, list[Json]]:
    """Create an eval and a run of it for each model. The uploaded items are deleted: the runs have them."""
    config = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    body = {"name": name, "data_source_config": config, "testing_criteria": [criterion]}
    eval_id = server.post("/v1/evals", body)["id"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.jsonl"
        path.write_text("".join(json.dumps({"item": item}) + "\n" for item in items))
        file_id = transfer.push_file(server, path, Purpose.EVALS)["id"]
    try:
        runs = [
            server.post(f"/v1/evals/{eval_id}/runs", {"name": model, "data_source": _source(file_id, model, sampling)})
            for model in references
        ]
    finally:
        server.send("DELETE", f"/v1/files/{file_id}")
    return eval_id, runs


def _source(file_id: str, model: str, sampling: Json) -> Json:
    return {
        "type": "completions",
        "source": {"type": "file_id", "id": file_id},
        "input_messages": {"type": "item_reference", "item_reference": "item.messages"},
        "model": model,
        "sampling_params": sampling,
    }


def _path(run: Json) -> str:
    return f"/v1/evals/{quote(run['eval_id'])}/runs/{quote(run['id'])}"


def _finished(server: ApiClient, runs: Sequence[Json]) -> list[Json]:
    """Return the runs once all have ended.

    Raises:
        CommandFailed: one failed or was cancelled.
        typer.Exit: Ctrl-C was pressed; the runs continue.
    """
    try:
        with spinner("answering and grading"):
            while any(run["status"] in {"queued", "in_progress"} for run in runs):
                time.sleep(POLL_S)
                runs = [server.get(_path(run)) for run in runs]
    except KeyboardInterrupt:
        show_note(
            f"\nthe runs of eval '{runs[0]['eval_id']}' continue on the server; POST {_path(runs[0])} cancels one"
        )
        raise typer.Exit(INTERRUPTED) from None
    for run in runs:
        if run["status"] != "completed":
            reason = "" if run["error"] is None else f": {run['error']['message']}"
            raise CommandFailed(ExitCode.REFUSED, f"the run of {run['name']} is {run['status']}{reason}")
    return list(runs)


def _row(model: Json) -> list[Any]:
    beside = model["comparison"]
    row = [model["reference"], _number(model["mean_score"]), _percent(model["pass_rate"])]
    if beside is None:
        row += [None] * len(_BESIDE)
    else:
        low, high = beside["interval"]
        rates = [_percent(beside[name]["rate"]) for name in ("wins", "ties", "losses")]
        row += [f"{beside['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", *rates]
    return [*row, model["errored"], model["tokens"]]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
