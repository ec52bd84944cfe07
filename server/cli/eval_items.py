"""Reads the items of ``patchbay eval``: rows of items as of OpenAI's evals, or a training file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from server.cli.client import Json
from server.cli.failure import CommandFailed, ExitCode

_QUESTIONS: Final = ("messages", "input", "prompt", "question")
_SHOWN: Final = 10


def read_items(path: Path) -> list[Json]:
    """Return the items of ``path``, each with the ``messages`` to send, and a ``reference`` where there is one.

    Raises:
        CommandFailed: rows have faults; it lists the first ones.
    """
    rows = _item_rows(path) if _has_items(path) else _training_rows(path)
    items, faults = [], []
    for where, item, fault in rows:
        items.append(item)
        if fault is not None:
            faults.append(f"{where}: {fault}")
    if not items:
        raise CommandFailed(ExitCode.USAGE, f"{path} has no rows")
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise CommandFailed(ExitCode.REFUSED, f"{path} cannot be evaluated", *faults[:_SHOWN], *more)
    return items


def _has_items(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = json.loads(next((line for line in file if line.strip()), b""))
    except OSError as unreadable:
        raise CommandFailed(ExitCode.USAGE, f"{path} cannot be read: {unreadable}") from unreadable
    except (ValueError, RecursionError):  # a training file of another form
        return False
    return isinstance(first, dict) and isinstance(first.get("item"), dict)


def _item_rows(path: Path) -> Iterator[tuple[str, Json, str | None]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)["item"]
            questions = [name for name in _QUESTIONS if name in item]
        except (ValueError, LookupError, TypeError, RecursionError):
            yield f"line {number}", {}, 'is not like {"item": {...}}'
            continue
        if len(questions) != 1:
            yield f"line {number}", {}, f"item has one of {', '.join(_QUESTIONS)} (found {len(questions)} of them)"
            continue
        asked: Any = item[questions[0]]
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        yield f"line {number}", {**item, "messages": messages}, None


def _training_rows(path: Path) -> Iterator[tuple[str, Json, str | None]]:
    from trainer.data.rows import Conversation
    from trainer.data.training_file import read_file

    for line in read_file(path):
        where = f"row {line.number}"
        if line.faults:
            fault = line.faults[0]
            yield where, {}, f"{fault.where or fault.kind}: found {fault.found}; needed {fault.needed}"
        elif isinstance(line.row, Conversation):
            answer = line.row.messages[-1].get("content")
            fault_ = "its last answer has no text to compare with" if not answer else None
            if line.row.tools:
                fault_ = "it has tools, and graders read text: leave such rows out"
            yield where, {"messages": [dict(each) for each in line.row.messages[:-1]], "reference": answer}, fault_
        elif line.row is not None:
            yield where, {}, f"a row of format {line.form} has no answer that is the reference: use chats"
