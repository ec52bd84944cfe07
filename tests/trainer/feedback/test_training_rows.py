"""Rows from feedback: each format takes what feedback says of it, and the trainer reads every row."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trainer.data.file_report import inspect_files
from trainer.feedback.feedback import Feedback, FeedbackKind, RatedAnswer
from trainer.feedback.training_rows import FeedbackFormat, training_rows
from trainer.training_method import TrainingMethod

PROMPT = [{"role": "user", "content": "2 + 2?"}]
TEXTS = ("four", "five", "six")
FOUR, FIVE, SIX = MESSAGES = [{"role": "assistant", "content": text} for text in TEXTS]


def feedback(kind: FeedbackKind, answers: int = 1, **fields: Any) -> Feedback:
    rated = [RatedAnswer(f"chatcmpl-{n}", 0, "sql@1", MESSAGES[n]) for n in range(answers)]
    stated = {"tools": [], "id": "feedback-1", "created_at": datetime.now(UTC), "prompt": PROMPT, **fields}
    return Feedback(project="default", kind=kind, answers=rated, **stated)


UP = feedback(FeedbackKind.RATING, rating="up")
DOWN = feedback(FeedbackKind.RATING, rating="down")
CORRECTED = feedback(FeedbackKind.CORRECTION, correction=SIX)
PREFERRED = feedback(FeedbackKind.PREFERENCE, 2)
RANKED = feedback(FeedbackKind.RANKING, 3)
SAME = feedback(FeedbackKind.CORRECTION, correction=FOUR)
"""A correction that changes nothing."""
TWICE = replace(RANKED, answers=[RANKED.answers[n] for n in (0, 1, 0, 2)])
ALL = [UP, DOWN, CORRECTED, PREFERRED, RANKED, SAME, TWICE]


def rows(form: str, each: Feedback) -> list[dict[str, Any]]:
    return list(training_rows(each, FeedbackFormat(form)))


def chat(answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [*PROMPT, answer], **more}


def pair(better: dict[str, Any], worse: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"messages": PROMPT}, "preferred_output": [better], "non_preferred_output": [worse]}


@pytest.mark.parametrize(
    ("form", "feedback_on", "expected"),
    [
        ("supervised", UP, [chat(FOUR)]),
        ("supervised", DOWN, []),
        ("supervised", CORRECTED, [chat(SIX)]),
        ("supervised", PREFERRED, [chat(FOUR)]),
        ("supervised", RANKED, [chat(FOUR)]),
        ("dpo", UP, []),
        ("dpo", DOWN, []),
        ("dpo", CORRECTED, [pair(SIX, FOUR)]),
        ("dpo", PREFERRED, [pair(FOUR, FIVE)]),
        ("dpo", RANKED, [pair(FOUR, FIVE), pair(FOUR, SIX), pair(FIVE, SIX)]),
        ("dpo", SAME, []),
        ("dpo", TWICE, [pair(FOUR, FIVE), pair(FOUR, SIX), pair(FIVE, SIX)]),
        ("kto", SAME, []),
        ("supervised", SAME, [chat(FOUR)]),
        ("kto", UP, [chat(FOUR, label=True)]),
        ("kto", DOWN, [chat(FOUR, label=False)]),
        ("kto", CORRECTED, [chat(SIX, label=True), chat(FOUR, label=False)]),
        ("kto", RANKED, [chat(FOUR, label=True), chat(SIX, label=False)]),
        ("ranking", UP, []),
        ("ranking", SAME, []),
        ("ranking", TWICE, [{"messages": PROMPT, "ranking": ["four", "five", "six"]}]),
        ("ranking", CORRECTED, [{"messages": PROMPT, "ranking": ["six", "four"]}]),
        ("ranking", RANKED, [{"messages": PROMPT, "ranking": ["four", "five", "six"]}]),
    ],
)
def test_feedback_becomes_the_rows_that_it_says_something_for(
    form: str, feedback_on: Feedback, expected: list[dict[str, Any]]
) -> None:
    assert rows(form, feedback_on) == expected


def test_tools_of_the_prompt_are_in_every_row() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    with_tools = feedback(FeedbackKind.PREFERENCE, 2, tools=[tool])
    assert rows("supervised", with_tools)[0]["tools"] == [tool]
    assert rows("dpo", with_tools)[0]["input"]["tools"] == [tool]
    assert rows("ranking", with_tools)[0]["tools"] == [tool]


@pytest.mark.parametrize("method", [TrainingMethod.SUPERVISED, TrainingMethod.DPO, TrainingMethod.KTO])
def test_the_trainer_reads_every_row(method: TrainingMethod, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    made = [row for each in ALL * 3 for row in training_rows(each, FeedbackFormat(method))]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    report, _ = inspect_files(path, None, method)
    assert (report.ok, report.rows) == (True, len(made)), report.to_json()
