"""The page about training files shows rows that are read without a fault or a warning."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.trainer.data.conftest import Read, Write
from trainer.data.training_file import read_file
from trainer.row_formats import STATED, RowFormat
from trainer.training_method import TrainingMethod

PAGE = Path(__file__).parents[3] / "docs" / "training-files.md"


def test_the_page_has_a_row_of_every_format(read: Read) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [read(json.loads(row)) for row in block.splitlines()]
    assert {line.form for line in lines} == set(RowFormat) - STATED
    assert {warning.kind for line in lines for warning in line.warnings} == {"plain_text"}


def test_the_page_has_a_task(write: Write) -> None:
    (block,) = re.findall(r"```jsonl\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (line,) = read_file(write([json.loads(block)]), TrainingMethod.REINFORCEMENT)
    assert (line.form, line.faults, line.warnings) == (RowFormat.TASK, (), ())
