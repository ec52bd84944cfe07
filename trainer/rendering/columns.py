"""Rows as the columns of TRL's data sets: token ids, so that TRL renders and cuts nothing."""

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from trainer.data.faults import FaultKind, LineFaults, shown
from trainer.data.rows import (
    Conversation,
    Judged,
    PlainJudged,
    PlainPreference,
    PlainText,
    Preference,
    Ranking,
    Row,
    Task,
)
from trainer.data.training_file import read_file
from trainer.rendering.row_renderer import Rendered, RowRenderer
from trainer.rendering.token_rows import IGNORED, Columns, tokens
from trainer.training_method import TrainingMethod


def columns(row: Row, renderer: RowRenderer, faults: LineFaults) -> list[Columns]:
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
        case Ranking():
            whole = [renderer.whole((*row.prompt, answer), row.tools, faults) for answer in row.answers]
            pairs = combinations([ids for ids in whole if ids is not None], 2)
            return [] if faults else [{"chosen_ids": better, "rejected_ids": worse} for better, worse in pairs]
        case Task():
            return _asked(row, renderer, faults)
        case PlainText():
            text = renderer.text(row)
            labels = [IGNORED] * len(text.prompt) + text.answer
            return [{"input_ids": text.prompt + text.answer, "labels": labels}]
        case PlainPreference():
            texts = [renderer.text(PlainText(row.prompt, answer)) for answer in (row.preferred, row.rejected)]
            better_text, worse_text = (text.answer for text in texts)
            return [{"prompt_ids": texts[0].prompt, "chosen_ids": better_text, "rejected_ids": worse_text}]
        case PlainJudged():
            text = renderer.text(PlainText(row.prompt, row.completion))
            return [{"prompt_ids": text.prompt, "completion_ids": text.answer, "label": row.good}]


def _asked(row: Task, renderer: RowRenderer, faults: LineFaults) -> list[Columns]:
    """Return a row whose answer is drawn, with the prompt of the teacher where there is one."""
    asked = renderer.whole(row.prompt, row.tools, faults, asking=True)
    taught = renderer.taught(row, faults) if renderer.prompt and asked is not None else []
    if asked is None or taught is None:
        return []
    item = json.dumps(row.item, ensure_ascii=False)
    return [{"prompt_ids": asked, "item": item, **({"taught_ids": taught} if taught else {})}]


def answer(made: Columns) -> list[int]:
    """Return the tokens that make loss; of a pair those of the better answer. A task has none yet."""
    if "labels" in made:
        return [label for label in made["labels"] if label != IGNORED]
    ids: list[int] = next((made[name] for name in ("chosen_ids", "completion_ids") if name in made), [])
    return ids


def segments(made: Columns, renderer: RowRenderer) -> list[tuple[str, bool]]:
    """Return a row's text in runs that are trained or not: the mask's preview. Of a pair, the better answer."""
    if "input_ids" in made:
        ids, trained = made["input_ids"], [label != IGNORED for label in made["labels"]]
    else:
        asked = made.get("prompt_ids", [])
        ids = asked + answer(made)
        trained = [index >= len(asked) for index in range(len(ids))]
    return list(renderer.segments(Rendered(ids, trained)))


def read(path: Path, method: TrainingMethod, renderer: RowRenderer) -> Iterator[tuple[list[Columns], LineFaults]]:
    """Yield the columns of every line, and its faults with the renderer's warnings. A row is never cut to fit."""
    for line in read_file(path, method):
        faults = LineFaults(line.number)
        faults.found += line.faults
        made = columns(line.row, renderer, faults) if line.row is not None else []
        if line.row is not None and line.template_arguments and not faults:
            _check_arguments(line.row, made, line.template_arguments, renderer, faults)
        longest = max((tokens(each) + ("taught_ids" in each) for each in made), default=0)  # at least one is answered
        if longest > (most := renderer.most_tokens):
            faults.add(FaultKind.TOO_MANY_TOKENS, "", f"{longest} tokens", f"at most {most}, or drop_long")
        yield [] if faults else made, faults


def _check_arguments(
    row: Row, made: list[Columns], arguments: Mapping[str, Any], renderer: RowRenderer, faults: LineFaults
) -> None:
    """Add a fault unless ``row``, with the template's ``arguments`` that it states, is what was ``made`` as served."""
    if columns(row, renderer.with_arguments(arguments), LineFaults(faults.line)) != made:
        needed = "what the server renders alike: leave them out, or start it with --default-chat-template-kwargs"
        faults.add(FaultKind.TEMPLATE_ARGUMENTS, "chat_template_kwargs", shown(arguments), needed)
