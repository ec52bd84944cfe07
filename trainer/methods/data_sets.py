"""Training files as the data sets that TRL's trainers take: token ids of our renderer, so that TRL cuts nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer.data.faults import FaultKind, LineFault, LineFaults
from trainer.data.rows import Conversation, Judged, PlainJudged, PlainPreference, PlainText, Preference, Row
from trainer.data.training_file import read_file
from trainer.methods.endings import DataRefused
from trainer.methods.progress import Reporter
from trainer.methods.rendering import IGNORED, Rendered, Renderer
from trainer.run_directory import RunEvent
from trainer.run_spec import RunSpec

Columns = dict[str, Any]
"""One row of a data set, by column."""
_ANSWERS = ("chosen_ids", "rejected_ids", "completion_ids")


def limit(spec: RunSpec, renderer: Renderer) -> int:
    """Return the tokens that a row may have: as many as the base takes, or the spec's ``max_length``."""
    return renderer.context if spec.max_length is None else min(spec.max_length, renderer.context)


def columns(row: Row, renderer: Renderer, faults: LineFaults) -> list[Columns]:
    """Return a row as TRL's columns, several where a conversation had to be rendered turn by turn."""
    match row:
        case Conversation():
            return [{"input_ids": whole.ids, "labels": whole.labels} for whole in renderer.conversation(row, faults)]
        case Preference():
            better = renderer.answer(row.prompt, row.preferred, row.tools, faults)
            worse = None if faults else renderer.answer(row.prompt, row.rejected, row.tools, faults)
            if better is None or worse is None:
                return []
            return [{"prompt_ids": better.prompt, "chosen_ids": better.answer, "rejected_ids": worse.answer}]
        case Judged():
            turn = renderer.answer(row.prompt, row.answer, row.tools, faults)
            return [{"prompt_ids": turn.prompt, "completion_ids": turn.answer, "label": row.good}] if turn else []
        case PlainText():
            text = renderer.text(row)
            labels = [IGNORED] * len(text.prompt) + text.answer
            return [{"input_ids": text.prompt + text.answer, "labels": labels}]
        case PlainPreference():
            texts = [renderer.text(PlainText(row.prompt, answer)) for answer in (row.preferred, row.rejected)]
            answers = dict(zip(_ANSWERS, (text.answer for text in texts), strict=False))
            return [{"prompt_ids": texts[0].prompt, **answers}]
        case PlainJudged():
            text = renderer.text(PlainText(row.prompt, row.completion))
            return [{"prompt_ids": text.prompt, "completion_ids": text.answer, "label": row.good}]


def lengths(made: Columns) -> list[int]:
    """Return the length of each sequence that goes through the model for a row: a pair is two."""
    if "input_ids" in made:
        return [len(made["input_ids"])]
    return [len(made["prompt_ids"]) + len(made[name]) for name in _ANSWERS if name in made]


def tokens(made: Columns) -> int:
    """Return the length of a row's longest sequence."""
    return max(lengths(made))


def answer(made: Columns) -> list[int]:
    """Return the tokens that make loss; of a pair those of the better answer."""
    if "labels" in made:
        return [label for label in made["labels"] if label != IGNORED]
    ids: list[int] = made["chosen_ids"] if "chosen_ids" in made else made["completion_ids"]
    return ids


def segments(made: Columns, renderer: Renderer) -> list[tuple[str, bool]]:
    """Return a row's text in runs that are trained or not: the mask's preview. Of a pair, the better answer."""
    if "input_ids" in made:
        ids, trained = made["input_ids"], [label != IGNORED for label in made["labels"]]
    else:
        ids = made["prompt_ids"] + answer(made)
        trained = [index >= len(made["prompt_ids"]) for index in range(len(ids))]
    return list(renderer.segments(Rendered(ids, trained)))


def read(path: Path, renderer: Renderer, most_tokens: int) -> Iterator[tuple[int, list[Columns], list[LineFault]]]:
    """Yield for every line its number, its columns, and what is wrong with it. A row is never cut to fit."""
    for line in read_file(path):
        faults = LineFaults(line.number)
        faults.found += line.faults
        made = columns(line.row, renderer, faults) if line.row is not None else []
        longest = max(map(tokens, made), default=0)
        if longest > most_tokens:
            faults.add(FaultKind.TOO_MANY_TOKENS, "", f"{longest} tokens", f"at most {most_tokens}, or drop_long")
        yield line.number, [] if faults else made, faults.found


def load(path: Path, spec: RunSpec, renderer: Renderer, reporter: Reporter) -> Dataset:
    """Return the file's rows as a data set.

    Raises:
        DataRefused: with every fault in the file; rows that are merely too long are left out if the spec says so.
        OSError: the file cannot be read.
    """
    rows: list[Columns] = []
    faults: list[LineFault] = []
    dropped = []
    for number, made, found in read(path, renderer, limit(spec, renderer)):
        rows += made
        if spec.drop_long and found and all(fault.kind is FaultKind.TOO_MANY_TOKENS for fault in found):
            dropped.append(number)
        else:
            faults += found
    if not rows and not faults:
        faults.append(LineFault(None, FaultKind.EMPTY_FILE, "", "no row that is short enough", "at least one"))
    if rows and spec.method.traits.answers not in rows[0]:
        faults.append(LineFault(None, FaultKind.WRONG_METHOD, "", "rows of another method", f"rows for {spec.method}"))
    if faults:
        raise DataRefused(path.name, faults)
    if dropped:
        message = f"{len(dropped)} rows of {path.name} are too long and were left out"
        reporter.report(RunEvent(message=message, data={"lines": dropped[:1000]}, level="warn"))
    return Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]})
