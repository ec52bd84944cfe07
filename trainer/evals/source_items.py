"""Reads the items of a run's data source, and finds the faults of all of them before the run exists."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from adapters import strict_json
from trainer.errors import InvalidField
from trainer.evals.data_source import CompletionsSource, FileContent, RunSource
from trainer.evals.faults import Faults
from trainer.evals.item_schema import check_items
from trainer.evals.objects import SourceItem
from trainer.graders.grader import Ungraded

MAX_ITEMS: Final = 50_000
MAX_FILE_BYTES: Final = 64 << 20
MAX_CONTENT_BYTES: Final = 1 << 20
"""Of a data source in the request itself, which each answer about the run repeats."""
MAX_RUN_BYTES: Final = 256 << 20
"""Of all items with their answers, and of the messages about them: a template repeats its text for each item."""
_KEYS: Final = frozenset({"item", "sample"})


def read_items(
    source: RunSource, file: Path | None, item_schema: Mapping[str, Any], *, reads_answers: bool
) -> tuple[Sequence[SourceItem], int]:
    """Return the items of ``source``, checked, and the bytes that a run of them stores beside answers. Blocks.

    Args:
        file: of a source ``file_id``.
        reads_answers: whether a testing criterion reads the answer, so that an item without one is a fault.

    Raises:
        InvalidField: with all faults; the items are numbered as in the source, those of a file by their lines.
    """
    faults = Faults()
    found = _content_rows(source.source) if isinstance(source.source, FileContent) else _file_rows(file, faults)
    rows = list(islice(found, MAX_ITEMS + 1))  # more are not read: a small file can hold millions
    if len(rows) > MAX_ITEMS:
        faults.add("data_source.source", f"a run has at most {MAX_ITEMS} items: make several")
    elif not rows and not faults.count:
        faults.add(
            "data_source.source", "the source has no items: write a JSON object with the key 'item' on each line"
        )
    faults.check()
    items = [_item(where, row, faults) for where, row in rows]
    check_items(item_schema, [(f"{where}.item", row["item"]) for where, row in rows], faults)
    size_bytes = 0
    for (where, row), item in zip(rows, items, strict=True):
        size_bytes += len(json.dumps(row))
        if isinstance(source, CompletionsSource):
            size_bytes += _check_messages(source, where, item, faults)
        elif reads_answers and item.answer is None:
            needed = "a testing criterion reads {{sample.…}}: give sample.output_text, or let a run of type"
            faults.add(f"{where}.sample", f"{needed} 'completions' ask a model")
        if size_bytes > MAX_RUN_BYTES:
            faults.add("data_source.source", f"the items and the messages about them have over {MAX_RUN_BYTES} bytes")
            break
    faults.check()
    return items, size_bytes


def _content_rows(source: FileContent) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, row in enumerate(source.content):
        yield f"data_source.source.content.{index}", row.model_dump(exclude_none=True)


def _file_rows(file: Path | None, faults: Faults) -> Iterator[tuple[str, Mapping[str, Any]]]:
    assert file is not None, "the route has looked it up"
    if file.stat().st_size > MAX_FILE_BYTES:
        faults.add("data_source.source.id", f"the file has more than {MAX_FILE_BYTES} bytes: make several runs")
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                row = strict_json.parse(line)
            except ValueError as broken:
                faults.add(where, f"is not JSON: {broken}"[:200])
                continue
            if not isinstance(row, dict) or not isinstance(row.get("item"), dict) or b"\\u0000" in line:
                faults.add(where, "should be a JSON object with the key 'item', whose value is an object, without NUL")
            elif unknown := row.keys() - _KEYS:
                faults.add(where, f"has the key {min(unknown)!r:.80}; put what belongs to the item into 'item'")
            else:
                yield where, row


def _item(where: str, row: Mapping[str, Any], faults: Faults) -> SourceItem:
    sample = row.get("sample")
    if sample is None:
        return SourceItem(row["item"])
    text = _output_text(sample)
    if text is None:
        faults.add(f"{where}.sample", "should have the answer as output_text, a text, or as choices with a message")
    model = sample.get("model") if isinstance(sample, dict) else None
    return SourceItem(row["item"], {"output_text": text} | ({"model": model} if isinstance(model, str) else {}))


def _output_text(sample: Any) -> str | None:
    try:
        text = sample["output_text"] if "output_text" in sample else sample["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _check_messages(source: CompletionsSource, where: str, item: SourceItem, faults: Faults) -> int:
    """Return the bytes of the messages about an item, checked."""
    if item.answer is not None:
        faults.add(f"{where}.sample", "has no effect in a run that asks a model: leave it out, or use type 'jsonl'")
    try:
        messages = source.messages(item.item)
    except Ungraded as why:
        faults.add(where, f"input_messages: {why}")
        return 0
    if not messages or not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages):
        faults.add(where, "input_messages: should lead to a list of messages, each with role and content")
    return len(json.dumps(messages))


def check_source_size(data_source: Mapping[str, Any]) -> None:
    """Check the size of a data source as the request has it; raises InvalidField."""
    if (size_bytes := len(json.dumps(data_source))) > MAX_CONTENT_BYTES:
        raise InvalidField(
            f"data_source: up to {MAX_CONTENT_BYTES} bytes stand in a request (found {size_bytes}): upload the items "
            "with purpose 'evals', name the file as file_id, and keep templates short",
            param="data_source",
        )
