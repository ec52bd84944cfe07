"""What is worth a look and no reason to refuse."""

import json
import tracemalloc

from trainer.data import file_report
from trainer.data.faults import WarningKind
from trainer.data.file_report import inspect_file, inspect_files


def kinds_by_line(report) -> list[tuple[int | None, WarningKind]]:
    return [(warning.line, warning.kind) for warning in report.warnings]


def turn(asked: str, answer: str):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def test_under_a_hundred_rows_prompts_are_worth_trying_first(write, chats) -> None:
    assert kinds_by_line(inspect_file(write(chats[:99]))) == [(None, WarningKind.FEW_ROWS)]
    assert kinds_by_line(inspect_file(write(chats[:100]))) == []


def test_a_row_that_stands_twice_is_told(write, chats) -> None:
    assert kinds_by_line(inspect_file(write([*chats, chats[3]]))) == [(121, WarningKind.DUPLICATE_ROW)]


def test_one_prompt_with_two_answers_is_told(write, chats) -> None:
    assert kinds_by_line(inspect_file(write([*chats, turn("What is 0 times 3?", "nothing")]))) == [
        (121, WarningKind.CONTRADICTION)
    ]


def test_a_validation_prompt_that_is_trained_on_is_leakage_whatever_its_case_and_spacing(write, chats) -> None:
    held_out = [turn("what is  7 TIMES 3", "21"), turn("What is 500 times 3?", "1500")]
    training, validation = inspect_files(write(chats), write(held_out, "valid.jsonl"), None)
    assert kinds_by_line(training) == []
    assert validation.ok
    assert kinds_by_line(validation) == [(1, WarningKind.LEAKAGE)]


def test_labels_that_are_all_alike_are_told(write) -> None:
    rows = [{"prompt": f"{number}?", "completion": "yes", "label": True} for number in range(120)]
    assert kinds_by_line(inspect_file(write(rows))) == [(None, WarningKind.ONE_LABEL)]


def test_a_key_without_effect_is_told_on_its_line(write, chats) -> None:
    assert kinds_by_line(inspect_file(write([*chats, {**turn("Twice 4?", "8"), "parallel_tool_calls": False}]))) == [
        (121, WarningKind.IGNORED_KEY)
    ]


def test_faults_beyond_the_limit_are_counted(write) -> None:
    report = inspect_file(write([b"[]"] * (file_report.MAX_LISTED + 5)))
    assert len(report.faults) == file_report.MAX_LISTED
    assert report.left_out == 6  # five lines, and that there are too few rows


def test_a_report_of_faults_is_bounded_in_bytes(write) -> None:
    bad = {"messages": [{"role": role, "content": {"é" * 2000: 1}} for role in ("user", "assistant")]}
    report = inspect_file(write([bad] * 5000))
    assert report.left_out > 0
    assert len(json.dumps(report.to_json())) < 3 << 19


def test_memory_does_not_grow_with_the_text_of_the_rows(write) -> None:
    path = write([turn(f"{number} " + "word " * 2_000, "ok") for number in range(1500)])
    tracemalloc.start()
    inspect_file(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10
